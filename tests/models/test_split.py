"""Models split into several files: read, rewritten, baked and verified as one."""

from __future__ import annotations

import shutil
from pathlib import Path

import baking
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from plain_llama import high_level_llama
from split_gguf import split_gguf

from rosi_edge.baking.gguf import bake
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.errors import ModelFileError, OutputError, UnsupportedModelError
from rosi_edge.inspection import inspect
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import rewrite
from rosi_edge.verification.gguf import verify

MIX = {"attn_output": T.Q5_0, "ffn_down": T.Q4_K, "ffn_up": T.Q8_0}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return baking.model(tmp_path / "whole.gguf", MIX)


@pytest.fixture
def parts(whole: Path) -> list[Path]:
    found = split_gguf(whole, whole.with_name("split.gguf"), 8)
    assert len(found) == 3
    return found


def test_all_parts_are_one_model(whole: Path, parts: list[Path]) -> None:
    with GgufFile.open(whole) as one, GgufFile.open(parts[0]) as several:
        assert [part.path for part in several.parts] == parts
        assert list(several.tensors) == list(one.tensors)
        for name in one.tensors:
            assert np.array_equal(several.tensor_bytes(name), one.tensor_bytes(name))
            assert np.array_equal(several.read_tensor(name), one.tensor_bytes(name))
        assert several.total_size == sum(path.stat().st_size for path in parts)
        assert {tensor.part for tensor in several.tensors.values()} == {0, 1, 2}
        a, b = inspect(one, with_sha256=True), inspect(several, with_sha256=True)
    assert b.can_harden and b.write_matrices == a.write_matrices and b.parameters == a.parameters
    assert b.size != a.size and b.sha256 != a.sha256


def test_what_is_wrong_with_a_set_of_parts(parts: list[Path], tmp_path: Path) -> None:
    first, second, third = parts
    for path in (second, third):
        with pytest.raises(UnsupportedModelError, match=r"Give the first part, split-00001-of-00003\.gguf"):
            GgufFile.open(path)
    alone = tmp_path / "model.gguf"
    shutil.copy(first, alone)
    with pytest.raises(UnsupportedModelError, match="its name does not say so"):
        GgufFile.open(alone)
    kept = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(ModelFileError, match="is not part 2 of 3"):
        GgufFile.open(first)
    second.write_bytes(kept[:200])
    with pytest.raises(ModelFileError, match="truncated"):
        GgufFile.open(first)
    second.unlink()
    with pytest.raises(ModelFileError, match="is missing"):
        GgufFile.open(first)


def test_a_split_model_is_rewritten_as_one(parts: list[Path], tmp_path: Path) -> None:
    with GgufFile.open(parts[0]) as source:
        place = rewrite(source, tmp_path / "new.gguf", tensors={}, metadata={"rosi.note": "here"})
        assert place == tmp_path / "new-00001-of-00003.gguf"
        with GgufFile.open(place) as copy:
            assert copy.metadata["rosi.note"] == "here"
            for name in source.tensors:
                assert np.array_equal(copy.tensor_bytes(name), source.tensor_bytes(name))
        for old in parts[1:]:
            assert (tmp_path / old.name.replace("split", "new")).read_bytes() == old.read_bytes()
        named = tmp_path / "named-00001-of-00003.gguf"
        assert rewrite(source, named, tensors={}, metadata={}) == named
        assert named.read_bytes() == parts[0].read_bytes()
        with pytest.raises(OutputError, match="would overwrite the input"):
            rewrite(source, parts[0], tensors={}, metadata={})
        with pytest.raises(OutputError, match="would overwrite the input"):
            rewrite(source, tmp_path / "split.gguf", tensors={}, metadata={})
        with pytest.raises(OutputError, match="named as one of 2 parts"):
            rewrite(source, tmp_path / "new-00001-of-00002.gguf", tensors={}, metadata={})


def test_a_split_model_is_baked_and_verified(parts: list[Path], tmp_path: Path) -> None:
    with GgufFile.open(parts[0]) as source:
        edits = baking.edits(source)
        assert len({source.tensors[edit.tensor].part for edit in edits}) > 1
        bake(
            source,
            tmp_path / "out.gguf",
            edits,
            BakeSettings(rounding=baking.rounding(edits), probes=baking.probes(edits)),
        )
        found = verify(tmp_path / "out-00001-of-00003.gguf", source)
        assert found.passed, found.problems
        runner = high_level_llama(tmp_path / "out-00001-of-00003.gguf", n_ctx=64, n_threads=1)
        assert runner.create_completion("Hi", max_tokens=2)["usage"]["completion_tokens"] >= 1
        runner.close()
        for name in ("out-00002-of-00003.gguf", "out-00003-of-00003.gguf"):
            content = bytearray((tmp_path / name).read_bytes())
            for place in (10, 60, len(content) // 2, len(content) - 1):
                content[place] ^= 1
                (tmp_path / name).write_bytes(content)
                assert not verify(tmp_path / "out-00001-of-00003.gguf", source).passed, (name, place)
                content[place] ^= 1
            (tmp_path / name).write_bytes(content)
        assert verify(tmp_path / "out-00001-of-00003.gguf", source).passed


def test_an_interruption_leaves_no_part(parts: list[Path], tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    with GgufFile.open(parts[0]) as source:
        last = [tensor.name for tensor in source.tensors.values() if tensor.part == 2][-1]

        def interrupted() -> bytes:
            assert len(list(tmp_path.iterdir())) == len(before) + 3
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rewrite(source, tmp_path / "new.gguf", tensors={last: interrupted}, metadata={})
    assert {path.name for path in tmp_path.iterdir()} == before
