"""Block grids against two independent dequantizers: gguf-py's and ggml's own."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.native import ggml
from rosi_edge.quantization import codec
from rosi_edge.quantization.grid import grid_of, promotion_for, supported_grids

Kind = gguf.GGMLQuantizationType
KINDS = sorted(supported_grids())
CODED = [kind for kind in KINDS if kind not in (Kind.F32, Kind.F16, Kind.BF16)]
CODEBOOKS = [kind for kind in Kind if kind.name.startswith(("IQ1", "IQ2", "IQ3"))]
COLUMNS = 512
ROWS = 3


class _TypeTraits(ctypes.Structure):
    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("block_columns", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]


def ggml_dequantize(data, kind, columns):
    get = ggml.libggml.ggml_get_type_traits
    get.argtypes, get.restype = [ctypes.c_int], ctypes.POINTER(_TypeTraits)
    traits = get(int(kind)).contents
    assert (traits.block_columns, traits.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    data = np.ascontiguousarray(data)
    weights = np.empty((len(data), columns), dtype=np.float32)
    traits.to_float(data.ctypes.data, weights.ctypes.data, weights.size)
    return weights


def row_bytes(kind, columns=COLUMNS):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return columns // block * size


def random_rows(kind, seed):
    return np.random.default_rng(seed).integers(0, 256, (ROWS, row_bytes(kind)), dtype=np.uint8)


def reference(data, kind):
    with np.errstate(all="ignore"):
        return dequantize(data, kind)


def real_looking(kind, seed=0):
    weights = np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.03
    if kind == Kind.BF16:
        return (weights.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return codec.quantize(weights, kind).reshape(ROWS, -1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_bytes_mean_what_gguf_py_says_and_survive_being_written(kind, seed):
    data = random_rows(kind, seed)
    grid = grid_of(kind).read(data, COLUMNS)
    np.testing.assert_array_equal(grid.weights(), reference(data, kind))
    np.testing.assert_array_equal(grid_of(kind).write(data, grid.codes), data)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("byte", [0x00, 0x7C, 0x7E, 0x80, 0xFC, 0xFF])
def test_blocks_of_zeros_infinities_and_nans_are_read_and_survive(kind, byte):
    data = np.full((ROWS, row_bytes(kind)), byte, dtype=np.uint8)
    grid = grid_of(kind).read(data, COLUMNS)
    np.testing.assert_array_equal(grid.weights(), reference(data, kind))
    np.testing.assert_array_equal(grid_of(kind).write(data, grid.codes), data)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_real_blocks_mean_what_ggml_says(kind):
    data = real_looking(kind)
    weights = grid_of(kind).read(data, COLUMNS).weights()
    # ggml's compiler may contract a product and a sum into one operation with one rounding less.
    expected = data.view(np.float32) if kind == Kind.F32 else ggml_dequantize(data, kind, COLUMNS)
    np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-8)
    assert weights.std() > 0.01


@pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.name)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_new_codes_mean_the_new_weights_and_leave_scales_alone(kind, seed):
    random = np.random.default_rng(seed)
    data = real_looking(kind, seed)
    grid = grid_of(kind).read(data, COLUMNS)
    chosen = random.integers(grid.values.low, grid.values.high + 1, grid.codes.shape).astype(np.int8)
    codes = np.where(random.random(chosen.shape) < 0.3, chosen, grid.codes)
    before = data.copy()

    new = grid_of(kind).write(data, codes)

    np.testing.assert_array_equal(data, before)
    again = grid_of(kind).read(new, COLUMNS)
    np.testing.assert_array_equal(again.codes, codes)
    np.testing.assert_array_equal(again.step, grid.step)
    if grid.offset is not None:
        np.testing.assert_array_equal(again.offset, grid.offset)
    np.testing.assert_array_equal(reference(new, kind), replace(grid, codes=codes).weights())
    # Going back is exact too, so nothing but code bits can have changed.
    np.testing.assert_array_equal(grid_of(kind).write(new, grid.codes), data)


@pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.name)
def test_codes_of_a_quantizer_lie_in_the_range_that_may_be_written(kind):
    grid = grid_of(kind).read(real_looking(kind, 7), COLUMNS)
    assert grid.codes.min() >= grid.values.low
    assert grid.codes.max() <= grid.values.high
    assert len(np.unique(grid.codes)) >= min(len(range(grid.values.low, grid.values.high + 1)), 15)


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16], ids=lambda kind: kind.name)
def test_a_step_of_a_float_is_the_distance_to_its_neighbour(kind):
    data = real_looking(kind)
    grid = grid_of(kind).read(data, COLUMNS)
    new = grid_of(kind).write(data, np.ones_like(grid.codes))
    large = np.abs(grid.offset) > 0.01
    towards = np.sign(grid.offset)[large] > 0
    difference = new.view(np.uint16)[large].astype(int) - data.view(np.uint16)[large]
    # One up for positive numbers; one down in magnitude for negative ones, two at a power of two.
    assert set(difference[towards]) == {1}
    assert set(difference[~towards]) <= {-1, -2}


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16], ids=lambda kind: kind.name)
def test_a_step_at_zero_is_no_larger_than_at_small_weights(kind):
    weights = np.array([[0.0, -0.0, 1e-3, -2e-3, 4e-3, 1e-5, 3e-3, 1e-3]], dtype=np.float32)
    start = grid_of(kind).write_weights(np.zeros((1, 16), dtype=np.uint8), weights)
    step = np.abs(grid_of(kind).read(start, 8).step)
    assert step[0, :2].max() <= step[0, 2:].min()


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16], ids=lambda kind: kind.name)
def test_float_weights_are_written_to_the_nearest(kind):
    data = real_looking(kind)
    wanted = grid_of(kind).read(data, COLUMNS).weights() + np.float32(0.0123)
    weights = reference(grid_of(kind).write_weights(data, wanted), kind)
    np.testing.assert_allclose(
        weights, wanted, rtol={Kind.F32: 0, Kind.F16: 2**-11, Kind.BF16: 2**-8}[kind], atol=1e-7
    )


def test_bytes_that_are_not_so_many_columns_are_refused():
    data = random_rows(Kind.Q4_K, 0)
    for columns, rows in ((COLUMNS + 256, data), (COLUMNS - 1, data), (COLUMNS, data[:, :-1])):
        with pytest.raises(ModelFileError):
            grid_of(Kind.Q4_K).read(rows, columns)


@pytest.mark.parametrize("kind", CODEBOOKS, ids=lambda kind: kind.name)
def test_codebooks_are_refused_with_the_type_to_promote_to(kind):
    with pytest.raises(UnsupportedModelError) as refusal:
        grid_of(kind)
    larger = promotion_for(kind)
    assert f"--promote {larger.name}" in refusal.value.remedy
    assert larger in supported_grids()
    assert not ggml.requires_importance_matrix(int(larger))


def test_promotion_takes_the_next_size_that_fits_the_columns():
    assert promotion_for(Kind.IQ2_XXS) == Kind.Q2_K
    assert promotion_for(Kind.IQ3_S) == Kind.IQ4_XS
    assert promotion_for(Kind.Q4_K) == Kind.Q5_K
    assert promotion_for(Kind.Q4_0, columns=896) == Kind.Q5_0
    assert promotion_for(Kind.Q5_0, columns=896) == Kind.Q8_0
    assert promotion_for(Kind.Q8_0) == Kind.F16
    with pytest.raises(UnsupportedModelError):
        promotion_for(Kind.F32)
