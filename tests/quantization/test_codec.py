"""Blocks to numbers and back, against gguf-py, ggml and Python's own arithmetic."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
import tiny_gguf
from gguf import GGMLQuantizationType as T
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_gguf import write_tiny_llama

from rosi_edge.basics.arrays import Float32
from rosi_edge.errors import UnsupportedModelError
from rosi_edge.inspection import EDITABLE_TYPES
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.codec import dequantize, dequantize_bytes, quantize
from rosi_edge.quantization.rounding import Requantize

# Root mean square of the rounding error over that of normally distributed values, with a margin.
ERRORS = {
    T.F32: 0.0,
    T.F16: 3e-4,
    T.BF16: 3e-3,
    T.Q8_0: 0.01,
    T.Q6_K: 0.03,
    T.Q5_0: 0.06,
    T.Q5_1: 0.06,
    T.Q5_K: 0.06,
    T.Q4_0: 0.12,
    T.Q4_1: 0.12,
    T.Q4_K: 0.12,
    T.IQ4_NL: 0.12,
    T.IQ4_XS: 0.12,
    T.MXFP4: 0.18,
    T.Q3_K: 0.25,
    T.IQ3_S: 0.25,
    T.IQ3_XXS: 0.3,
    T.Q2_K: 0.4,
    T.IQ2_S: 0.4,
    T.TQ1_0: 0.8,
    T.TQ2_0: 0.8,
    T.IQ1_M: 0.8,
}


def values(rows: int = 6, columns: int = 512, seed: int = 0) -> Float32:
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, columns)).astype(np.float32)


def ggml_floats(data: npt.NDArray[np.uint8], kind: T, count: int) -> Float32:
    """Dequantized by ggml itself: the ``to_float`` of its type traits."""

    class Traits(ctypes.Structure):
        _fields_ = (
            ("type_name", ctypes.c_char_p),
            ("blck_size", ctypes.c_int64),
            ("blck_size_interleave", ctypes.c_int64),
            ("type_size", ctypes.c_size_t),
            ("is_quantized", ctypes.c_bool),
            ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        )

    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base.*"))))
    library.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    traits = library.ggml_get_type_traits(int(kind)).contents
    assert traits.type_size == gguf.GGML_QUANT_SIZES[kind][1]
    target = np.empty(count, dtype=np.float32)
    source = np.ascontiguousarray(data)
    traits.to_float(source.ctypes.data, target.ctypes.data, count)
    return target


def test_every_editable_type_is_tried_here() -> None:
    assert set(ERRORS) == EDITABLE_TYPES


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.name)
def test_round_trip(kind: T) -> None:
    matrix = values()
    data = quantize(matrix, kind)
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    assert data.dtype == np.uint8
    assert data.shape == (matrix.size // block * block_bytes,)
    back = dequantize_bytes(data, matrix.shape, kind)
    assert back.shape == matrix.shape
    assert back.dtype == np.float32
    error = np.sqrt(np.mean((back - matrix) ** 2) / np.mean(matrix**2))
    assert error <= ERRORS[kind]
    # A second pass finds the same grid: what is stored already changes little or not at all.
    again = dequantize_bytes(quantize(back, kind), matrix.shape, kind)
    assert np.sqrt(np.mean((again - back) ** 2) / np.mean(matrix**2)) <= ERRORS[kind] / 2


@pytest.mark.parametrize("kind", [k for k in ERRORS if k not in (T.F32, T.F16)], ids=lambda kind: kind.name)
def test_dequantizing_agrees_with_ggml(kind: T) -> None:
    matrix = values(seed=1)
    data = quantize(matrix, kind)
    ours = dequantize_bytes(data, matrix.shape, kind)
    np.testing.assert_allclose(ours.reshape(-1), ggml_floats(data, kind, matrix.size), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1])
def test_quantizing_agrees_with_gguf_py(kind: T) -> None:
    matrix = values(seed=2)
    theirs = gguf.quants.quantize(matrix, kind)
    ours = quantize(matrix, kind)
    # ggml and gguf-py break ties differently; values may not.
    expected = gguf.quants.dequantize(theirs, kind)
    found = dequantize_bytes(ours, matrix.shape, kind)
    step = np.abs(matrix).max() / 8
    assert np.mean(np.abs(found - expected) > 1e-6) < 0.01
    assert np.abs(found - expected).max() <= step
    if kind in (T.F32, T.F16, T.BF16):
        np.testing.assert_array_equal(ours, theirs.view(np.uint8).reshape(-1))


def test_literal_q8_0_block() -> None:
    """One block: a half-precision scale and 32 signed bytes (ggml-common.h, block_q8_0)."""
    codes = list(range(-16, 16))
    block = struct.pack("<e32b", 0.5, *codes)
    data = np.frombuffer(block, dtype=np.uint8)
    expected = 0.5 * np.array(codes, dtype=np.float32)
    np.testing.assert_array_equal(dequantize_bytes(data, (1, 32), T.Q8_0), expected[None])


def test_literal_q4_0_block() -> None:
    """A half-precision scale and 16 bytes: low nibbles are the first 16 codes, offset by 8."""
    low, high = [0, 15, 8, *[8] * 13], [1, 7, 9, *[8] * 13]
    block = struct.pack("<e16B", -2.0, *(a | b << 4 for a, b in zip(low, high, strict=True)))
    expected = -2.0 * (np.array(low + high, dtype=np.float32) - 8)
    found = dequantize_bytes(np.frombuffer(block, dtype=np.uint8), (1, 32), T.Q4_0)
    np.testing.assert_array_equal(found, expected[None])


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40))
def test_f32_is_kept_to_the_bit(numbers: list[float]) -> None:
    matrix = np.array([numbers], dtype=np.float32)
    np.testing.assert_array_equal(dequantize_bytes(quantize(matrix, T.F32), matrix.shape, T.F32), matrix)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([T.Q8_0, T.Q4_0, T.Q5_0, T.Q4_K, T.Q6_K]),
    st.integers(0, 2**31),
    st.floats(1e-3, 1e3),
)
def test_rows_do_not_depend_on_each_other(kind: T, seed: int, size: float) -> None:
    """What lets the bake work on a few rows at a time."""
    matrix = values(4, 256, seed) * np.float32(size)
    whole = quantize(matrix, kind).reshape(4, -1)
    for row in range(4):
        np.testing.assert_array_equal(whole[row], quantize(matrix[row : row + 1], kind))


@pytest.mark.parametrize("kind", [T.IQ2_XXS, T.IQ2_XS, T.IQ1_S], ids=lambda kind: kind.name)
def test_types_that_need_an_importance_matrix_are_refused(kind: T) -> None:
    # ggml would abort the process.
    with pytest.raises(UnsupportedModelError, match=kind.name):
        quantize(values(), kind)


def test_a_type_without_dequantizer_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="Q8_K"):
        dequantize_bytes(np.zeros(292, dtype=np.uint8), (1, 256), T.Q8_K)


@pytest.mark.parametrize("kind", [T.F32, T.F16, T.BF16, T.Q4_K], ids=lambda kind: kind.name)
def test_tensors_of_a_file(tmp_path: Path, kind: T) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", hidden=256, feed_forward=512, types=kind)
    reader = gguf.GGUFReader(path)
    with GgufFile.open(path) as file:
        for tensor in reader.tensors:
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            found = dequantize(file, tensor.name)
            assert found.shape == file.tensors[tensor.name].shape
            np.testing.assert_array_equal(found, expected)


def test_requantize_is_dequantize_add_quantize() -> None:
    matrix, change = values(seed=3), 0.1 * values(seed=4)
    data = quantize(matrix, T.Q6_K).reshape(len(matrix), -1)
    weights = dequantize_bytes(data, matrix.shape, T.Q6_K)
    rounded = Requantize().round("blk.0.ffn_down.weight", T.Q6_K, data, weights, change)
    assert rounded.shape == data.shape
    np.testing.assert_array_equal(
        rounded.reshape(-1), tiny_gguf.quantize(weights + change, T.Q6_K).reshape(-1)
    )
    after = dequantize_bytes(rounded, matrix.shape, T.Q6_K)
    assert np.corrcoef((after - weights).ravel(), change.ravel())[0, 1] > 0.9
