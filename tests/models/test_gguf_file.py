"""The GGUF reader: literal bytes for every lie a header can tell, mutations, and agreement with gguf-py."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_gguf import write_tiny_llama

from rosi_edge.errors import ModelFileError, RosiEdgeError
from rosi_edge.inspection import inspect
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import MetadataArray
from rosi_edge.sources.resolve import resolve

U32, F32, STRING, ARRAY = 4, 6, 8, 9


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def string_key(name: str, value: str) -> bytes:
    return key(name, STRING, text(value))


def tensor(
    name: str | bytes, extents: tuple[int, ...], kind: int = 0, offset: int = 0, dimensions: int | None = None
) -> bytes:
    count = len(extents) if dimensions is None else dimensions
    return text(name) + struct.pack(f"<I{len(extents)}QIQ", count, *extents, kind, offset)


def gguf_bytes(
    keys: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
    alignment: int = 32,
) -> bytes:
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    )
    head += b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data


ROW = tensor("row", (8,))
DATA = bytes(range(32))
NAME = string_key("general.name", "test")

BROKEN: dict[str, tuple[bytes, str]] = {
    "not gguf": (b"hello world, this is no model file", "is not a GGUF file"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
    "pytorch": (b"PK\x03\x04" + bytes(40), "PyTorch"),
    "old ggml": (b"tjgg" + bytes(40), "old GGJT format"),
    "magic only": (b"GGUF", "truncated"),
    "no counts": (b"GGUF\x03\0\0\0", "truncated"),
    "version 1": (gguf_bytes(version=1), "GGUF version 1"),
    "version 0": (gguf_bytes(version=0), "GGUF version 0"),
    "version 99": (gguf_bytes(version=99), "GGUF version 99"),
    "big endian": (b"GGUF\0\0\0\x03" + bytes(40), "big-endian"),
    "tensor count": (gguf_bytes(tensor_count=2**63, data=DATA), "claims 9223372036854775808 tensors"),
    "tensor count, plausible": (gguf_bytes(tensor_count=100, data=DATA), "claims 100 tensors"),
    "key count": (gguf_bytes(key_count=2**64 - 1, data=DATA), "metadata keys"),
    "key count, one too many": (gguf_bytes((NAME,), key_count=2), "truncated or damaged"),
    "key length": (gguf_bytes((struct.pack("<Q", 2**62) + b"abc",), data=DATA), "claims a length"),
    "key past the end": (gguf_bytes((struct.pack("<Q", 60_000) + b"abc",), data=DATA), "needs 60000 bytes"),
    "empty key": (gguf_bytes((key(b"", U32, bytes(4)),)), "is empty"),
    "key is not text": (gguf_bytes((key(b"\xff\xfe", U32, bytes(4)),)), "is not text"),
    "value type": (gguf_bytes((key("a", 77, bytes(8)),)), "unknown type 77"),
    "string length": (
        gguf_bytes((key("a", STRING, struct.pack("<Q", 2**40)),), data=DATA),
        "claims a length",
    ),
    "string past the end": (gguf_bytes((key("a", STRING, struct.pack("<Q", 999)),), data=DATA), "needs 999"),
    "array length": (
        gguf_bytes((key("a", ARRAY, struct.pack("<IQ", U32, 2**60)),), data=DATA),
        "claims 1152921504606846976 elements",
    ),
    "array past the end": (
        gguf_bytes((key("a", ARRAY, struct.pack("<IQ", U32, 1000)),), data=DATA),
        "needs 4000",
    ),
    "array of strings past the end": (
        gguf_bytes(
            (key("a", ARRAY, struct.pack("<IQ", STRING, 2) + text("x") + struct.pack("<Q", 500)),), data=DATA
        ),
        "a string of the array a does not fit",
    ),
    "array of many strings": (
        gguf_bytes((key("a", ARRAY, struct.pack("<IQ", STRING, 1_000_000)),), data=DATA),
        "needs 8000000",
    ),
    "array of arrays": (
        gguf_bytes((key("a", ARRAY, struct.pack("<IQ", ARRAY, 1)),), data=DATA),
        "arrays inside",
    ),
    "array element type": (
        gguf_bytes((key("a", ARRAY, struct.pack("<IQ", 50, 1)),), data=DATA),
        "unknown type 50",
    ),
    "duplicate key": (gguf_bytes((NAME, NAME)), "general.name occurs twice"),
    "alignment zero": (
        gguf_bytes((key("general.alignment", U32, struct.pack("<I", 0)),)),
        "not a power of two",
    ),
    "alignment 24": (
        gguf_bytes((key("general.alignment", U32, struct.pack("<I", 24)),)),
        "not a power of two",
    ),
    "alignment huge": (
        gguf_bytes((key("general.alignment", U32, struct.pack("<I", 1 << 30)),)),
        "not a power",
    ),
    "alignment text": (gguf_bytes((string_key("general.alignment", "32"),)), "should be a whole number"),
    "no dimensions": (gguf_bytes((), (tensor("t", ()),), DATA), "claims 0 dimensions"),
    "five dimensions": (gguf_bytes((), (tensor("t", (1, 1, 1, 1, 1)),), DATA), "claims 5 dimensions"),
    "a billion dimensions": (gguf_bytes((), (tensor("t", (1,), dimensions=10**9),), DATA), "dimensions"),
    "zero extent": (gguf_bytes((), (tensor("t", (8, 0)),), DATA), "claims the shape (0, 8)"),
    "overflowing shape": (gguf_bytes((), (tensor("t", (2**32, 2**32)),), DATA), "claims the shape"),
    "overflow to nothing": (gguf_bytes((), (tensor("t", (2**32, 2**31, 2)),), DATA), "claims the shape"),
    "unknown tensor type": (gguf_bytes((), (tensor("t", (8,), kind=31),), DATA), "unknown type 31"),
    "row size": (gguf_bytes((), (tensor("t", (48,), kind=2),), bytes(64)), "a multiple of 32 is needed"),
    "offset not aligned": (
        gguf_bytes((), (tensor("t", (4,), offset=8),), DATA),
        "not a multiple of the alignment",
    ),
    "offset far away": (gguf_bytes((), (tensor("t", (4,), offset=2**63),), DATA), "is truncated"),
    "truncated data": (
        gguf_bytes((), (ROW,), DATA[:-1]),
        "the tensor row ends at byte 96, but the file has 95",
    ),
    "no data": (gguf_bytes((), (ROW,)), "is truncated"),
    "overlap": (
        gguf_bytes((), (tensor("a", (16,)), tensor("b", (8,), offset=32)), bytes(64)),
        "the tensors a and b overlap",
    ),
    "same place": (gguf_bytes((), (tensor("a", (8,)), tensor("b", (8,))), DATA), "overlap"),
    "duplicate tensor": (
        gguf_bytes((), (ROW, tensor("row", (8,), offset=32)), bytes(64)),
        "row occurs twice",
    ),
    "tensor name length": (gguf_bytes((), (tensor("x" * 64, (8,)),), DATA), "claims a length of 64"),
    "tensor name not text": (gguf_bytes((), (tensor(b"\xc3\x28", (8,)),), DATA), "is not text"),
    "terminal escape": (gguf_bytes((), (tensor("\x1b[2J", (8,)),), DATA), r"'\x1b[2J'"),
    "alignment in 64 bits": (
        gguf_bytes((key("general.alignment", 10, struct.pack("<Q", 32)),)),
        "a type that llama.cpp does not read",
    ),
    "a value that is not text": (gguf_bytes((key("a", STRING, text(b"\xe9")),)), "a is not text"),
    # llama.cpp's strings end at a zero byte: it would take the first of these for the key itself.
    "zero in a key": (
        gguf_bytes((string_key("general.name\0x", "b"), NAME)),
        "zero byte inside a metadata key",
    ),
    "zero behind a key": (
        gguf_bytes((string_key("general.name\0", "b"),)),
        "zero byte inside a metadata key",
    ),
    "zero in a text": (gguf_bytes((string_key("general.name", "a\0b"),)), "zero byte inside general.name"),
    "zero in a tensor's name": (gguf_bytes((), (tensor("t\0x", (8,)),), DATA), "zero byte inside a tensor's"),
    "zero in a text of an array": (
        gguf_bytes((key("a", ARRAY, struct.pack("<IQ", STRING, 2) + text("x") + text("y\0z")),)),
        "zero byte inside a text of a",
    ),
    "line break in a key": (gguf_bytes((string_key("general.name\n", "b"),)), "invisible characters"),
    "zero width in a key": (gguf_bytes((string_key("general.\u200bname", "b"),)), "invisible characters"),
    "right to left in a name": (gguf_bytes((), (tensor("t\u202e", (8,)),), DATA), "invisible characters"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_with_a_reason(case: str, tmp_path: Path) -> None:
    content, reason = BROKEN[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        GgufFile.open(path)
    assert reason in str(caught.value)
    assert caught.value.remedy
    assert str(caught.value).isprintable()


def test_smallest_good_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes((NAME,), (ROW, tensor("m", (2, 3), kind=1, offset=32)), DATA + bytes(12)))
    with GgufFile.open(path) as model:
        assert (model.version, model.alignment, model.size) == (3, 32, path.stat().st_size)
        assert dict(model.metadata) == {"general.name": "test"}
        assert list(model.tensors) == ["row", "m"]
        assert model.tensors["m"].shape == (3, 2)
        assert model.tensors["m"].size == 12
        assert model.tensor_bytes("row").tobytes() == DATA
        field = model.fields["general.name"]
        assert model.raw(field.start, field.end) == NAME


def test_version_2_and_own_alignment(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    keys = (key("general.alignment", U32, struct.pack("<I", 64)),)
    path.write_bytes(gguf_bytes(keys, (ROW,), DATA, version=2, alignment=64))
    with GgufFile.open(path) as model:
        assert (model.version, model.alignment) == (2, 64)
        assert model.data_offset % 64 == 0
        assert model.tensor_bytes("row").tobytes() == DATA


def test_a_token_may_be_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    raw = struct.pack("<IQ", STRING, 3) + text(b"\xff") + text("é") + text("\0")
    path.write_bytes(gguf_bytes((key("tokens", ARRAY, raw),)))
    with GgufFile.open(path) as model:
        assert list(model.metadata["tokens"]) == ["\N{REPLACEMENT CHARACTER}", "é", "\0"]  # type: ignore[arg-type]


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        GgufFile.open(tmp_path / "nothing.gguf")
    with pytest.raises(ModelFileError, match="is a folder"):
        GgufFile.open(tmp_path)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ModelFileError, match="is empty"):
        GgufFile.open(tmp_path / "empty.gguf")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        GgufFile.open(tmp_path / "pipe")
    with pytest.raises(ModelFileError):
        GgufFile.open("a\0b")
    with pytest.raises(ModelFileError):
        GgufFile.open("x" * 5000)


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes())

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    # The tests may run as root, whom no permission bits stop.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ModelFileError, match="may not be read"):
        GgufFile.open(path)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    good.write_bytes(gguf_bytes((NAME,), (ROW,), DATA))
    bad.write_bytes(gguf_bytes((NAME,), (ROW,), DATA[:3]))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with GgufFile.open(good):
            pass
        with pytest.raises(ModelFileError):
            GgufFile.open(bad)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_views_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes((), (ROW,), DATA))
    with GgufFile.open(path) as model:
        view = model.tensor_bytes("row")
        assert not view.flags.writeable
    model.close()
    assert view.tobytes() == DATA


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    types = {"ffn_down": gguf.GGMLQuantizationType.Q8_0, "attn_output": gguf.GGMLQuantizationType.Q4_0}
    metadata = {"a.list": [1, 2, 3], "a.flag": True, "a.float": 0.5, "a.words": ["x", "y"]}
    folder = tmp_path_factory.mktemp("tiny")
    return write_tiny_llama(folder / "tiny.gguf", types=types, metadata=metadata, hidden=32, feed_forward=32)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_open_or_fail_cleanly(data: st.DataObject, tiny: Path, tmp_path: Path) -> None:
    content = bytearray(tiny.read_bytes())
    # Most of the file is weights, where a flip changes nothing that the reader looks at.
    header = GgufFile.open(tiny).data_offset
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, max(0, min(header, len(content) - 1))))
        what = data.draw(st.sampled_from(["flip", "set", "insert", "delete", "cut", "number"]))
        if not content:
            break
        if what == "flip":
            content[where] ^= 1 << data.draw(st.integers(0, 7))
        elif what == "set":
            content[where] = data.draw(st.integers(0, 255))
        elif what == "insert":
            content[where:where] = data.draw(st.binary(min_size=1, max_size=9))
        elif what == "delete":
            del content[where : where + data.draw(st.integers(1, 9))]
        elif what == "cut":
            del content[where + 1 :]
        else:
            number = data.draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**40]))
            content[where : where + 8] = struct.pack("<Q", number)
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content)
    start = time.perf_counter()
    try:
        with GgufFile.open(path) as model:
            for name in model.tensors:
                assert model.tensor_bytes(name).size == model.tensors[name].size
            for value in model.metadata.values():
                if isinstance(value, MetadataArray):
                    assert len(value.values()) == len(value)
            inspect(model).model_dump_json()
    except RosiEdgeError as error:
        assert str(error)
    # Generous, for a busy machine; it takes milliseconds.
    assert time.perf_counter() - start < 5


def assert_agrees_with_gguf_py(path: Path) -> None:
    reader = gguf.GGUFReader(path)
    with GgufFile.open(path) as model:
        theirs = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        assert list(model.metadata) == list(theirs)
        for name, field in theirs.items():
            value = model.metadata[name]
            expected = field.contents()
            if isinstance(value, MetadataArray):
                assert value.values() == list(expected)
                assert value.element_type == field.types[1]
            else:
                assert value == expected
            assert model.fields[name].type == field.types[0]
        assert list(model.tensors) == [tensor.name for tensor in reader.tensors]
        for tensor in reader.tensors:
            mine = model.tensors[tensor.name]
            assert mine.type == tensor.tensor_type
            assert mine.shape == tuple(reversed(tensor.shape.tolist()))
            assert mine.elements == tensor.n_elements
            assert (mine.offset, mine.size) == (tensor.data_offset, tensor.n_bytes)
            assert np.array_equal(model.tensor_bytes(tensor.name), tensor.data.reshape(-1).view(np.uint8))


def test_agrees_with_gguf_py(tiny: Path) -> None:
    assert_agrees_with_gguf_py(tiny)


@pytest.mark.model
def test_agrees_with_gguf_py_on_the_demo_model() -> None:
    assert_agrees_with_gguf_py(resolve("demo"))


@pytest.mark.model
def test_a_large_vocabulary_does_not_take_long() -> None:
    path = resolve("demo")
    start = time.perf_counter()
    with GgufFile.open(path) as model:
        assert len(model.metadata["tokenizer.ggml.tokens"].values()) == 151_936  # type: ignore[union-attr]
    assert time.perf_counter() - start < 1
