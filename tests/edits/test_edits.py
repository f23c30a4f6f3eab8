"""Rank-one edits, the paper's injection and the vectors that write through a norm, against plain numpy."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny_gguf import write_tiny_llama

from rosi_edge.basics.arrays import Float32
from rosi_edge.edits.adapter import write_adapter
from rosi_edge.edits.paper import rosi_edits, row_means
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import write_direction
from rosi_edge.models.architectures import WriteMatrix, write_matrices
from rosi_edge.models.gguf_file import GgufFile


def vectors(size: int) -> st.SearchStrategy[Float32]:
    return arrays.arrays(np.float32, size, elements=st.floats(-100, 100, width=32))


def unit(size: int, seed: int = 0) -> Float32:
    vector = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector))


def stored(path: Path, name: str) -> Float32:
    """By gguf-py."""
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type))


@given(vectors(5), vectors(7), st.floats(0, 50, width=32))
def test_delta_is_the_outer_product(output: Float32, key: Float32, strength: float) -> None:
    edit = RankOneEdit("w", output, key)
    expected = strength * output[:, None].astype(np.float64) * key[None, :].astype(np.float64)
    np.testing.assert_allclose(edit.delta(strength), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(edit.scaled(strength).delta(1.0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_edit_is_made_of_two_finite_vectors(bad: float) -> None:
    good = np.ones(3, dtype=np.float32)
    with pytest.raises(ValueError, match="not finite"):
        RankOneEdit("w", good, np.array([1, bad], dtype=np.float32))
    with pytest.raises(ValueError, match="not finite"):
        RankOneEdit("w", np.array([bad], dtype=np.float32), good)
    with pytest.raises(ValueError, match="two vectors"):
        RankOneEdit("w", np.ones((3, 1), dtype=np.float32), good)


@pytest.mark.parametrize("kind", [T.F32, T.F16, T.Q8_0, T.Q4_0], ids=lambda kind: kind.name)
def test_rosi_is_equation_6(tmp_path: Path, kind: T) -> None:
    """W' = W + α · ŝ · w̄ᵀ with w̄ the mean of the rows of W (arXiv 2508.20766, eq. 6)."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", types=kind)
    direction = unit(64)
    with GgufFile.open(path) as file:
        matrices = write_matrices(file)
        means = row_means(file, matrices)
        edits = rosi_edits(file, matrices, means, direction)
    assert [edit.tensor for edit in edits] == [
        f"blk.{block}.{name}.weight" for block in range(2) for name in ("attn_output", "ffn_down")
    ]
    alpha = 3.5
    for edit in edits:
        weights = stored(path, edit.tensor)
        # Element by element, as the equation is written.
        mean = [float(np.mean(weights[:, column].astype(np.float64))) for column in range(weights.shape[1])]
        expected = np.array([[alpha * s * m for m in mean] for s in direction.tolist()])
        np.testing.assert_allclose(edit.delta(alpha), expected, rtol=1e-4, atol=1e-7)
        assert edit.delta(alpha).shape == weights.shape


def test_row_means_report_their_progress(tmp_path: Path) -> None:
    from contextlib import contextmanager

    done: list[int] = []

    class Listener:
        @contextmanager
        def stage(self, description: str, total: int | None = None):  # type: ignore[no-untyped-def]
            assert total == 4
            yield done.append

        def note(self, line: str) -> None: ...

    with GgufFile.open(write_tiny_llama(tmp_path / "tiny.gguf")) as file:
        row_means(file, write_matrices(file), Listener())
    assert sum(done) == 4


def matrix_of(file: GgufFile, name: str) -> WriteMatrix:
    return next(matrix for matrix in write_matrices(file) if matrix.name == name)


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "olmo2"])
def test_what_is_written_comes_out_of_the_norm_along_the_direction(tmp_path: Path, architecture: str) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", architecture=architecture)
    direction = unit(64, 3)
    with GgufFile.open(path) as file:
        for name, norm in (("attn_output", "post_attention_norm"), ("ffn_down", "post_ffw_norm")):
            output = write_direction(file, matrix_of(file, f"blk.1.{name}.weight"), direction)
            gain = stored(path, f"blk.1.{norm}.weight")
            np.testing.assert_allclose(output * gain, direction, rtol=1e-5, atol=1e-7)


def test_without_a_norm_it_is_the_direction_itself(tmp_path: Path) -> None:
    direction = unit(64, 3)
    with GgufFile.open(write_tiny_llama(tmp_path / "tiny.gguf")) as file:
        output = write_direction(file, matrix_of(file, "blk.0.ffn_down.weight"), direction)
    np.testing.assert_array_equal(output, direction)


def test_dead_channels_of_a_norm_do_not_blow_up(tmp_path: Path) -> None:
    def change(name: str, weights: Float32) -> Float32:
        if name == "blk.0.post_ffw_norm.weight":
            weights = np.ones_like(weights)
            weights[:4] = [0, 1e-9, -1e-9, -2]
        if name == "blk.1.post_ffw_norm.weight":
            weights = np.zeros_like(weights)
        return weights

    path = write_tiny_llama(tmp_path / "tiny.gguf", architecture="gemma3", change=change)
    direction = np.full(64, 0.125, dtype=np.float32)
    with GgufFile.open(path) as file:
        output = write_direction(file, matrix_of(file, "blk.0.ffn_down.weight"), direction)
        nothing = write_direction(file, matrix_of(file, "blk.1.ffn_down.weight"), direction)
    assert np.abs(output).max() <= 0.125 * 20 * 1.001
    assert output[3] == pytest.approx(-0.0625)
    np.testing.assert_allclose(output[4:], 0.125)
    assert output[1] > 0 > output[2]
    assert np.isfinite(nothing).all()


def test_an_adapter_file_is_readable_by_gguf_py(tmp_path: Path) -> None:
    edits = [
        RankOneEdit("blk.0.ffn_down.weight", unit(6), unit(9, 1)),
        RankOneEdit("blk.1.attn_output.weight", unit(6, 2), unit(6, 3)),
    ]
    path = tmp_path / "adapter.gguf"
    write_adapter(path, edits, architecture="llama")
    reader = gguf.GGUFReader(path)
    facts = {key: field.contents() for key, field in reader.fields.items()}
    assert facts["general.architecture"] == "llama"
    assert facts["general.type"] == "adapter"
    assert facts["adapter.type"] == "lora"
    assert facts["adapter.lora.alpha"] == 1.0
    tensors = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
    assert len(tensors) == 4
    for edit in edits:
        a, b = tensors[f"{edit.tensor}.lora_a"], tensors[f"{edit.tensor}.lora_b"]
        assert (a.shape, b.shape) == ((1, len(edit.input)), (len(edit.output), 1))
        np.testing.assert_allclose(b @ a, edit.delta(1.0), rtol=1e-6)
