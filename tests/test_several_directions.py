"""Several edits of one matrix: the adapter, the bake, the declaration and its verification."""

from __future__ import annotations

from pathlib import Path

import baking
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as T
from tiny_gguf import write_tiny_llama

from rosi_edge.baking.gguf import bake
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.edits.adapter import read_adapter, write_adapter
from rosi_edge.edits.declaration import PREFIX, read_declaration
from rosi_edge.edits.rank_one import (
    MOST_DIRECTIONS,
    RankOneEdit,
    by_matrix,
    leading,
)
from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.codec import dequantize
from rosi_edge.quantization.grid_rounding import GridRounding, input_factor
from rosi_edge.quantization.rounding import Requantize
from rosi_edge.runtime.engine import EngineOptions, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.verification.gguf import verify


def random_edit(tensor: str, rows: int, columns: int, seed: int, size: float = 1.0) -> RankOneEdit:
    random = np.random.default_rng(seed)
    return RankOneEdit(
        tensor,
        (size * random.standard_normal(rows)).astype(np.float32),
        random.standard_normal(columns).astype(np.float32),
    )


def three_and_one(rows: int, columns: int) -> list[RankOneEdit]:
    edits = [random_edit("blk.0.ffn_down.weight", rows, columns, seed, 0.02) for seed in range(3)]
    return [*edits, random_edit("blk.1.ffn_down.weight", rows, columns, 9, 0.02)]


def total(edits: list[RankOneEdit], tensor: str) -> npt.NDArray[np.float64]:
    return np.sum([edit.delta(1.0).astype(np.float64) for edit in edits if edit.tensor == tensor], axis=0)


def test_the_leading_part_is_that_of_the_singular_values() -> None:
    edits = [random_edit("w", 12, 20, seed) for seed in range(3)]
    left, values, right = np.linalg.svd(total(edits, "w"))
    np.testing.assert_allclose(
        leading(edits).delta(1.0), values[0] * np.outer(left[:, 0], right[0]), atol=1e-5
    )
    assert leading(edits[:1]) is edits[0]
    # Two of one input are one edit.
    twins = [edits[0], RankOneEdit("w", edits[1].output, edits[0].input)]
    np.testing.assert_allclose(leading(twins).delta(1.0), total(twins, "w"), atol=1e-5)


def test_an_adapter_of_rank_three_comes_back(tmp_path: Path) -> None:
    edits = three_and_one(64, 128)
    write_adapter(tmp_path / "a.gguf", edits, architecture="llama")
    with GgufFile.open(tmp_path / "a.gguf") as file:
        assert file.tensors["blk.1.ffn_down.weight.lora_a"].shape == (3, 128)
        found = read_adapter(file)
    assert [edit.tensor for edit in found] == [edit.tensor for edit in edits]
    for edit, other in zip(edits, found, strict=True):
        np.testing.assert_array_equal(edit.delta(1.0), other.delta(1.0))


def test_an_adapter_of_too_high_a_rank_is_refused(tmp_path: Path) -> None:
    edits = [random_edit("blk.0.ffn_down.weight", 64, 128, seed) for seed in range(MOST_DIRECTIONS + 1)]
    write_adapter(tmp_path / "a.gguf", edits, architecture="llama")
    with GgufFile.open(tmp_path / "a.gguf") as file, pytest.raises(UnsupportedModelError, match="of rank 9"):
        read_adapter(file)


def test_llama_cpp_adds_them_all(tmp_path: Path) -> None:
    """The adapter at strength one is the baked file, and at half the strength half of it."""
    source = write_tiny_llama(tmp_path / "m.gguf")
    edits = three_and_one(64, 128)
    options = EngineOptions(threads=1, context_size=512)
    probes = {name: baking.inputs(128, 40, 3) for name in by_matrix(edits)}
    for share in (1.0, 0.5):
        with GgufFile.open(source) as file:
            scaled = [edit.scaled(share) for edit in edits]
            baked = bake(
                file, tmp_path / "out.gguf", scaled, BakeSettings(rounding=Requantize(), probes=probes)
            )
            assert [tensor.name for tensor in baked] == list(by_matrix(edits))
        with LlamaEngine(tmp_path / "out.gguf", options) as engine:
            prompts = engine.encode([ask("What floats?"), ask("Why?")])
            expected = engine.next_token_logprobs(prompts)
        with LlamaEngine(source, options) as engine:
            original = engine.next_token_logprobs(prompts)
            engine.apply({engine.load_edits(edits): share})
            found = engine.next_token_logprobs(prompts)
        assert np.abs(expected - original).max() > 0.05
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)


def baked(folder: Path, kind: T, grid: bool) -> tuple[Path, Path, list[RankOneEdit]]:
    source = baking.model(folder / "base.gguf", kind)
    target = folder / "out.gguf"
    with GgufFile.open(source) as file:
        first = baking.edits(file)
        random = np.random.default_rng(3)
        edits = []
        for edit in first:
            # A second direction, with a key that answers another cause.
            other = random.standard_normal(len(edit.output)).astype(np.float32)
            key = baking.inputs(len(edit.input), 400, 1)[7]
            key *= np.linalg.norm(edit.input) / np.linalg.norm(key)
            edits += [edit, RankOneEdit(edit.tensor, other, key)]
        rounding = Requantize()
        if grid:
            pushes = by_matrix(edits)
            rounding = GridRounding(  # type: ignore[assignment]
                {
                    name: input_factor(
                        baking.inputs(len(its[0].input), 400, 1), 64, np.stack([edit.input for edit in its])
                    )
                    for name, its in pushes.items()
                }
            )
        results = bake(
            file,
            target,
            edits,
            BakeSettings(rounding=rounding, probes=baking.probes(edits), min_delivered=0.9),
        )
        for result in results:
            probe = baking.probes(edits)[result.name]
            wanted = probe @ total(edits, result.name).T
            with GgufFile.open(target) as new:
                moved = dequantize(new, result.name).astype(np.float64) - dequantize(file, result.name)
            got = probe @ moved.T
            assert result.delivered == pytest.approx((got * wanted).sum() / (wanted**2).sum(), abs=1e-4)
            noise = np.sqrt(((got - wanted) ** 2).sum() / (wanted**2).sum())
            assert result.noise == pytest.approx(noise, abs=2e-3)
    return source, target, edits


@pytest.mark.parametrize("kind", [T.F32, T.BF16, T.Q8_0, T.Q5_0, T.Q4_K], ids=lambda kind: kind.name)
def test_a_file_with_two_directions_passes(tmp_path: Path, kind: T) -> None:
    source, target, edits = baked(tmp_path, kind, grid=True)
    with GgufFile.open(source) as base:
        found = verify(target, base)
        assert found.passed, found.problems
        assert len(found.tensors) == len(by_matrix(edits))
        # One of the two is not what was done.
        write_adapter(tmp_path / "one.gguf", edits[::2], architecture="llama")
        assert not verify(target, base, adapter=tmp_path / "one.gguf").passed
        write_adapter(tmp_path / "both.gguf", edits, architecture="llama")
        assert verify(target, base, adapter=tmp_path / "both.gguf").passed
    with GgufFile.open(target) as file:
        declaration = read_declaration(file)
        assert declaration is not None
        for edit, other in zip(edits, declaration.edits, strict=True):
            np.testing.assert_array_equal(edit.delta(1.0), other.delta(1.0))


def test_a_requantized_file_with_two_directions_passes(tmp_path: Path) -> None:
    source, target, _ = baked(tmp_path, T.Q8_0, grid=False)
    with GgufFile.open(source) as base:
        found = verify(target, base)
        assert found.passed, found.problems
        assert all(tensor.scales == "requantized" for tensor in found.tensors)


def test_too_many_are_a_mistake(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "m.gguf")
    edits = [random_edit("blk.0.ffn_down.weight", 64, 128, seed) for seed in range(MOST_DIRECTIONS + 1)]
    with GgufFile.open(source) as file, pytest.raises(ValueError, match="9 edits"):
        bake(file, tmp_path / "o.gguf", edits, BakeSettings(rounding=Requantize(), probes={}))


def test_a_declaration_of_too_many_is_hostile(tmp_path: Path) -> None:
    count = MOST_DIRECTIONS + 1
    path = write_tiny_llama(
        tmp_path / "m.gguf",
        metadata={
            f"{PREFIX}format": 1,
            f"{PREFIX}rounding": "grid",
            f"{PREFIX}tensors": ["blk.0.ffn_down.weight"],
            f"{PREFIX}base_sha256": ["0" * 64],
            f"{PREFIX}sha256": ["0" * 64],
            f"{PREFIX}tensor_of": [0] * count,
            f"{PREFIX}output_of": [0] * count,
            f"{PREFIX}outputs": [0.5] * 64,
            f"{PREFIX}inputs": [0.5] * 128 * count,
            f"{PREFIX}aims": [1.0] * count,
        },
    )
    with GgufFile.open(path) as file, pytest.raises(ModelFileError, match="contradicts itself"):
        read_declaration(file)
