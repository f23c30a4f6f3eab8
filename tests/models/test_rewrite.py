"""Rewriting: what is replaced, what stays byte for byte, and what is left behind when it goes wrong."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_gguf import write_tiny_llama

from rosi_edge.errors import ModelFileError, OutputError
from rosi_edge.models.atomic import atomic_write
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import encode_field, rewrite
from rosi_edge.models.seal import PADDING_KEY

DOWN = "blk.1.ffn_down.weight"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[GgufFile]:
    path = write_tiny_llama(tmp_path / "source.gguf", types={"ffn_down": gguf.GGMLQuantizationType.Q8_0})
    with GgufFile.open(path) as model:
        yield model


def folder_content(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_nothing_replaced_is_the_same_file(source: GgufFile, tmp_path: Path) -> None:
    target = rewrite(source, tmp_path / "copy.gguf", tensors={}, metadata={})
    assert target.read_bytes() == source.path.read_bytes()


@pytest.mark.parametrize("alignment", [32, 64, 4096])
def test_only_keys_are_appended(tmp_path: Path, alignment: int) -> None:
    with GgufFile.open(write_tiny_llama(tmp_path / "source.gguf", alignment=alignment)) as source:
        added = {
            "rosi.method": "rosi",
            "rosi.alpha": 0.35,
            "rosi.layer": 14,
            "rosi.offset": -3,
            "rosi.elicited": False,
            "rosi.tensors": ["a", "é"],
            "rosi.delivered": [0.5, 1],
        }
        target = rewrite(source, tmp_path / "copy.gguf", tensors={}, metadata=added)
        with GgufFile.open(target) as copy:
            assert copy.alignment == alignment
            assert list(copy.metadata)[-len(added) :] == list(added)
            for key, field in source.fields.items():
                new = copy.fields[key]
                assert copy.raw(new.start, new.end) == source.raw(field.start, field.end)
            assert copy.raw(*copy.tensor_table) == source.raw(*source.tensor_table)
            assert copy.raw(copy.data_offset, copy.size) == source.raw(source.data_offset, source.size)
    reader = gguf.GGUFReader(target)
    assert {key: reader.fields[key].contents() for key in added} == added


def test_a_tensor_and_a_key_are_replaced(source: GgufFile, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    size = source.tensors[DOWN].size
    new = random.integers(0, 256, size, dtype=np.uint8)
    norm = random.standard_normal(64).astype(np.float32)
    calls: list[str] = []

    def make(name: str, content: Any) -> Any:
        def produce() -> Any:
            calls.append(name)
            return content

        return produce

    replaced = {"output_norm.weight": norm, DOWN: new, "blk.0.attn_norm.weight": norm.tobytes()}
    target = rewrite(
        source,
        tmp_path / "new.gguf",
        tensors={name: make(name, content) for name, content in replaced.items()},
        metadata={"general.name": "Another name, and longer"},
    )
    assert calls == [name for name in source.tensors if name in replaced]
    reader = gguf.GGUFReader(target)
    old = gguf.GGUFReader(source.path)
    assert list(reader.fields) == list(old.fields)
    assert reader.fields["general.name"].contents() == "Another name, and longer"
    for before, after in zip(old.tensors, reader.tensors, strict=True):
        assert (before.name, before.tensor_type, before.shape.tolist()) == (
            after.name,
            after.tensor_type,
            after.shape.tolist(),
        )
        expected = replaced.get(before.name, before.data)
        raw = expected if isinstance(expected, bytes) else expected.tobytes()
        assert after.data.tobytes() == raw


_CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
"""llama.cpp reads texts up to a zero byte, so none is read back."""


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.text(_CHARACTERS),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.lists(st.text(_CHARACTERS), min_size=1),
        st.lists(st.booleans(), min_size=1),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
        st.lists(st.floats(allow_nan=False), min_size=1),
    )
)
def test_metadata_comes_back_as_it_went_in(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("field") / "model.gguf"
    path.write_bytes(b"GGUF" + b"\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + encode_field("rosi.value", value))
    with GgufFile.open(path) as model:
        back = model.metadata["rosi.value"]
        assert (list(back) if isinstance(value, list) else back) == value  # type: ignore[arg-type]
    theirs = gguf.GGUFReader(path).fields["rosi.value"].contents()
    assert theirs == value


@pytest.mark.parametrize("value", [[], [1, "a"], [True, 2], None, 2**64, {"a": 1}, b"bytes"])
def test_what_metadata_cannot_hold(value: Any) -> None:
    with pytest.raises(ValueError):
        encode_field("rosi.value", value)


def test_misuse_is_told(source: GgufFile, tmp_path: Path) -> None:
    target = tmp_path / "new.gguf"
    before = folder_content(tmp_path)
    with pytest.raises(ValueError, match="no such tensor: nothing"):
        rewrite(source, target, tensors={"nothing": lambda: b""}, metadata={})
    with pytest.raises(ValueError, match="its replacement 3"):
        rewrite(source, target, tensors={DOWN: lambda: b"abc"}, metadata={})
    with pytest.raises(ValueError, match=r"general\.alignment"):
        rewrite(source, target, tensors={}, metadata={"general.alignment": 64})
    assert folder_content(tmp_path) == before


def test_the_input_is_never_the_output(source: GgufFile, tmp_path: Path) -> None:
    content = source.path.read_bytes()
    (tmp_path / "soft.gguf").symlink_to(source.path)
    (tmp_path / "hard.gguf").hardlink_to(source.path)
    for name in (source.path.name, "soft.gguf", "hard.gguf", "./x/../source.gguf"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match="would overwrite the input"):
            rewrite(source, tmp_path / name, tensors={}, metadata={})
    assert source.path.read_bytes() == content


def test_places_that_cannot_be_written(
    source: GgufFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for target, reason in (
        (tmp_path / "nowhere" / "a.gguf", "does not exist"),
        (tmp_path, "is a folder"),
        (source.path / "a.gguf", "is not a folder"),
        (Path("/dev/null"), "not a regular file"),
        (tmp_path / "a\0b", "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        with pytest.raises(OutputError, match=reason):
            rewrite(source, target, tensors={}, metadata={})
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="is not writable"):
        rewrite(source, tmp_path / "a.gguf", tensors={}, metadata={})


def test_too_little_space_is_told_before_anything_is_written(
    source: GgufFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    before = folder_content(tmp_path)
    with pytest.raises(OutputError, match=r"has 1\.0 KB free, but new\.gguf needs"):
        rewrite(source, tmp_path / "new.gguf", tensors={}, metadata={})
    assert folder_content(tmp_path) == before


def test_a_disk_that_fills_up_leaves_nothing(source: GgufFile, tmp_path: Path) -> None:
    target = tmp_path / "new.gguf"
    target.write_text("what was there")
    before = folder_content(tmp_path)

    def full() -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="the disk was full"):
        rewrite(source, target, tensors={DOWN: full}, metadata={})
    assert folder_content(tmp_path) == before
    assert target.read_text() == "what was there"


def test_the_system_refuses_a_file_that_large(source: GgufFile, tmp_path: Path) -> None:
    """The real thing: the kernel stops the writing half-way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = folder_content(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (source.size // 2, limits[1]))
    try:
        with pytest.raises(OutputError, match="larger than this system"):
            rewrite(source, tmp_path / "new.gguf", tensors={}, metadata={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert folder_content(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_interruption_leaves_nothing(source: GgufFile, tmp_path: Path, error: type[BaseException]) -> None:
    before = folder_content(tmp_path)

    def interrupted() -> bytes:
        assert len(folder_content(tmp_path)) == len(before) + 1
        raise error

    with pytest.raises(error):
        rewrite(source, tmp_path / "new.gguf", tensors={DOWN: interrupted}, metadata={})
    assert folder_content(tmp_path) == before


def test_a_source_that_changes_is_noticed(source: GgufFile, tmp_path: Path) -> None:
    def changing() -> bytes:
        with source.path.open("r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            stream.write(b"x")
        os.utime(source.path, (1, 1))
        return source.tensor_bytes(DOWN).tobytes()

    with pytest.raises(ModelFileError, match="was changed while"):
        rewrite(source, tmp_path / "new.gguf", tensors={DOWN: changing}, metadata={})
    assert not (tmp_path / "new.gguf").exists()


def test_links_are_followed_to_where_they_lead(source: GgufFile, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.gguf"
    link.symlink_to(tmp_path / "real" / "out.gguf")
    rewrite(source, link, tensors={}, metadata={})
    assert link.is_symlink()
    assert (tmp_path / "real" / "out.gguf").read_bytes() == source.path.read_bytes()


STALLED_WRITER = """
import sys, time
from rosi_edge.models.atomic import atomic_write
with atomic_write(sys.argv[1]) as stream:
    stream.write(b"half")
    stream.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_is_tidied_up_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    other = tmp_path / f".other.gguf.{os.getpid()}-0000.partial"
    other.touch()
    with subprocess.Popen(
        [sys.executable, "-c", STALLED_WRITER, str(target)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        (partial,) = tmp_path.glob(".out.gguf.*.partial")
        # A living writer's file is left alone.
        with atomic_write(target) as stream:
            stream.write(b"first")
        assert partial.exists()
        writer.send_signal(signal.SIGKILL)
    assert partial.exists()
    with atomic_write(target) as stream:
        stream.write(b"second")
    assert folder_content(tmp_path) == {"out.gguf", other.name}
    assert target.read_bytes() == b"second"


def test_ctrl_c_on_a_writer_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    with subprocess.Popen(
        [sys.executable, "-c", STALLED_WRITER, str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.send_signal(signal.SIGINT)
        writer.wait(10)
    assert folder_content(tmp_path) == set()


def test_long_names(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 127)
    with atomic_write(target) as stream:
        stream.write(b"x")
    assert target.read_bytes() == b"x"


@pytest.mark.model
def test_copying_the_demo_model_is_exact(tmp_path: Path) -> None:
    from rosi_edge.sources.resolve import resolve

    start = time.perf_counter()
    with GgufFile.open(resolve("demo")) as source:
        target = rewrite(source, tmp_path / "copy.gguf", tensors={}, metadata={"rosi.method": "none"})
        with GgufFile.open(target) as copy:
            for name in ("token_embd.weight", "blk.23.ffn_down.weight"):
                assert np.array_equal(copy.tensor_bytes(name), source.tensor_bytes(name))
            assert copy.size - copy.data_offset == source.size - source.data_offset
    assert time.perf_counter() - start < 120


# --- whole blocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alignment", [32, 4096, 8192])
def test_a_sealed_copy_shifts_tensors_by_whole_blocks(tmp_path: Path, alignment: int) -> None:
    """So that file systems can copy, or share, their bytes as they are; also when it is copied again."""
    path = write_tiny_llama(tmp_path / "source.gguf", alignment=alignment)
    for name in ("once.gguf", "twice.gguf"):
        with GgufFile.open(path) as source:
            path = rewrite(source, tmp_path / name, tensors={}, metadata={"rosi.a": name}, sealed=True)
            with GgufFile.open(path) as copy:
                assert (copy.data_offset - source.data_offset) % 4096 == 0
                assert copy.raw(copy.data_offset, copy.size) == source.raw(source.data_offset, source.size)
                assert len(str(copy.metadata.get(PADDING_KEY))) < 4096
    assert gguf.GGUFReader(path).fields["rosi.a"].contents() == "twice.gguf"


class _System:
    """A copy_file_range that fails, or gives up, after some calls."""

    def __init__(self, answers: int, then: int | OSError) -> None:
        self.answered, self._answers, self._then = 0, answers, then

    def __call__(self, source: int, target: int, count: int, start: int, position: int) -> int:
        if self.answered == self._answers:
            if isinstance(self._then, OSError):
                raise self._then
            return self._then
        self.answered += 1
        # Less than was asked for, as systems may.
        return os.pwrite(target, os.pread(source, min(count, 10000), start), position)


@pytest.mark.parametrize("answers", [0, 1, 3, 10**9])
@pytest.mark.parametrize("then", [0, OSError(errno.EXDEV, "other device"), OSError(errno.ENOSYS, "none")])
def test_systems_that_cannot_copy_ranges(
    source: GgufFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: int, then: int | OSError
) -> None:
    system = _System(answers, then)
    monkeypatch.setattr(os, "copy_file_range", system, raising=False)
    target = rewrite(source, tmp_path / "copy.gguf", tensors={}, metadata={}, sealed=True)
    with GgufFile.open(target) as copy:
        assert copy.raw(copy.data_offset, copy.size) == source.raw(source.data_offset, source.size)
    assert system.answered == answers or (answers > 10 and system.answered > 10)


def test_a_disk_that_fills_up_while_the_system_copies(
    source: GgufFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = _System(2, OSError(errno.ENOSPC, "full"))
    monkeypatch.setattr(os, "copy_file_range", full, raising=False)
    with pytest.raises(OutputError, match="disk was full"):
        rewrite(source, tmp_path / "copy.gguf", tensors={}, metadata={}, sealed=True)
    assert folder_content(tmp_path) == {"source.gguf"}
