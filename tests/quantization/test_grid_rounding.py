"""Rounding against exhaustive search on tiny grids and against plain requantization on realistic ones."""

from __future__ import annotations

import itertools

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rosi_edge.quantization import codec
from rosi_edge.quantization.grid import Values, grid_of
from rosi_edge.quantization.grid_rounding import (
    GridRounding,
    InputFactor,
    input_factor,
    plan_rounding,
    round_codes,
)

Kind = gguf.GGMLQuantizationType
ROWS, COLUMNS = 64, 1024


def decaying_inputs(samples, mixing, random):
    """Inputs mixed from causes of falling strength, and the causes; with a little noise of their own."""
    causes = random.standard_normal((samples, len(mixing))) / np.arange(1, len(mixing) + 1)
    noise = 0.005 * random.standard_normal((samples, mixing.shape[1]))
    return (causes @ mixing + noise).astype(np.float32), causes


@pytest.mark.parametrize("causes", [1, 2, 6])
def test_tiny_cases_come_close_to_exhaustive_search(causes):
    random = np.random.default_rng(3)
    everything = np.array(list(itertools.product((-1, 0, 1), repeat=6)))
    step = np.full((1, 1), 0.7, dtype=np.float32)
    ours, best, plain = [], [], []
    for _ in range(40):
        codes = np.zeros((1, 6), dtype=np.int8)
        change = (0.25 * random.standard_normal((1, 6))).astype(np.float32)
        inputs = random.standard_normal((12, causes)) @ random.standard_normal((causes, 6))
        inputs = (inputs + 0.1 * random.standard_normal((12, 6))).astype(np.float32)

        new = round_codes(codes, step, Values(-1, 1), change, plan_rounding(input_factor(inputs, causes)))

        def error(choices, change=change, inputs=inputs):
            return np.square((0.7 * choices - change) @ inputs.T).sum(axis=1)

        assert not codes.any()
        ours.append(error(new)[0])
        best.append(error(everything).min())
        plain.append(error(np.clip(np.rint(change / 0.7), -1, 1))[0])
    assert all(a >= b - 1e-5 for a, b in zip(ours, best, strict=True))
    # Of what the best choice of all gains over rounding each weight by itself.
    assert np.sum(plain) - np.sum(ours) > 0.8 * (np.sum(plain) - np.sum(best))


@pytest.fixture(scope="module")
def problem():
    """Inputs with a decaying spectrum, and a rank-one edit that answers to one of their weaker causes."""
    random = np.random.default_rng(5)
    mixing = random.standard_normal((48, COLUMNS)) * np.exp(0.5 * random.standard_normal(COLUMNS))
    inputs, causes = decaying_inputs(600, mixing, random)
    held_out, _ = decaying_inputs(400, mixing, random)
    gram = (inputs @ inputs.T).astype(np.float64)
    ridge = 0.001 * np.trace(gram) / len(gram) * np.eye(len(gram))
    push = (inputs.T @ np.linalg.solve(gram + ridge, causes[:, 5])).astype(np.float32)
    output = random.standard_normal(ROWS).astype(np.float32)
    weights = (0.02 * random.standard_normal((ROWS, COLUMNS))).astype(np.float32)
    # The root mean square of the change is a thirtieth of the weights'.
    output *= 0.02 / 30 / np.sqrt(np.mean(np.square(np.outer(output, push))))
    return weights, output, push, inputs, held_out


def quantized(weights, kind):
    if kind == Kind.BF16:
        return (weights.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return codec.quantize(weights, kind).reshape(len(weights), -1)


def delivered_and_noise(moved, output, push, inputs):
    wanted = inputs @ push
    outputs = inputs @ moved.T
    slope = float((outputs @ output) @ wanted / (output @ output) / (wanted @ wanted))
    rest = outputs - np.outer(wanted, output)
    return slope, float(np.linalg.norm(rest) / np.linalg.norm(output) / np.linalg.norm(wanted))


@pytest.mark.parametrize(
    "kind",
    [
        Kind.Q2_K,
        Kind.Q3_K,
        Kind.Q4_0,
        Kind.Q4_K,
        Kind.Q5_0,
        Kind.Q6_K,
        Kind.Q8_0,
        Kind.IQ4_XS,
        Kind.MXFP4,
        Kind.BF16,
    ],
    ids=lambda kind: kind.name,
)
def test_a_small_edit_arrives_on_unseen_inputs_with_little_noise(problem, kind):
    weights, output, push, inputs, held_out = problem
    data = quantized(weights, kind)
    weights = grid_of(kind).read(data, COLUMNS).weights()
    change = np.outer(output, push)
    rounding = GridRounding({"w": input_factor(inputs, 64, push)})

    new = rounding.round("w", kind, data, weights, change)

    moved = grid_of(kind).read(new, COLUMNS).weights() - weights
    slope, noise = delivered_and_noise(moved, output, push, held_out)
    again = quantized(weights + change, kind)
    _, plain_noise = delivered_and_noise(
        grid_of(kind).read(again, COLUMNS).weights() - weights, output, push, held_out
    )
    assert slope == pytest.approx(1, abs=0.02)
    assert noise < 0.25 * plain_noise
    assert delivered_and_noise(moved, output, push, inputs)[0] == pytest.approx(1, abs=0.01)


def test_parts_of_a_tensor_are_rounded_as_the_whole(problem):
    weights, output, push, inputs, _ = problem
    data = quantized(weights, Kind.Q4_K)
    change = np.outer(output, push)
    factors = {"w": input_factor(inputs, 32, push)}
    whole = GridRounding(factors).round("w", Kind.Q4_K, data, weights, change)
    parts = GridRounding(factors)
    halves = [
        parts.round("w", Kind.Q4_K, data[part], weights[part], change[part])
        for part in (slice(24), slice(24, 64))
    ]
    # The push is completed part by part: a few codes differ, the push does not.
    assert np.mean(np.concatenate(halves) != whole) < 0.003
    pushes = [
        (grid_of(Kind.Q4_K).read(data, COLUMNS).weights() - weights) @ (inputs.T @ (inputs @ push)) @ output
        for data in (whole, np.concatenate(halves))
    ]
    assert pushes[0] == pytest.approx(pushes[1], rel=0.01)
    flipped = parts.round("w", Kind.Q4_K, data, weights, -change)
    assert np.any(flipped != data)


def test_a_float32_tensor_takes_the_change_as_it_is(problem):
    weights, output, push, _, _ = problem
    change = np.outer(output, push)
    new = GridRounding({}).round("w", Kind.F32, weights.view(np.uint8), weights, change)
    np.testing.assert_array_equal(new.view(np.float32), weights + change)


def test_one_plan_serves_a_tensor_and_not_the_next(problem):
    weights, output, push, inputs, _ = problem
    data = quantized(weights, Kind.Q4_K)
    change = np.outer(output, push)
    other = inputs * np.linspace(0.1, 3, COLUMNS, dtype=np.float32)
    factors = {"a": input_factor(inputs, 32, push), "b": input_factor(other, 32, push)}
    rounding = GridRounding(factors)
    first = rounding.round("a", Kind.Q4_K, data, weights, change)
    second = rounding.round("b", Kind.Q4_K, data, weights, change)
    np.testing.assert_array_equal(second, GridRounding(factors).round("b", Kind.Q4_K, data, weights, change))
    assert np.any(first != second)


TABLE = np.array([-5, -2, -1, 0, 1, 3, 8], dtype=np.float32)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-30, 0.01, 1.0, 100.0, 1e8]),
    uneven=st.booleans(),
)
def test_codes_stay_in_range_and_where_there_is_nothing_to_choose(seed, scale, uneven):
    random = np.random.default_rng(seed)
    values = Values(0, len(TABLE) - 1, TABLE) if uneven else Values(-3, 3)
    codes = random.integers(values.low, values.high + 1, (5, 24)).astype(np.int8)
    step = random.choice([0.5, -0.25, 0.0, np.nan, np.inf, -np.inf, 1e-45], (5, 3)).astype(np.float32)
    change = (scale * random.standard_normal((5, 24))).astype(np.float32)
    change[2] = 0
    factor = input_factor(random.standard_normal((9, 24)).astype(np.float32), 4)

    new = round_codes(codes, step, values, change, plan_rounding(factor, change[0]))

    assert new.dtype == codes.dtype
    assert new.min() >= values.low
    assert new.max() <= values.high
    useless = np.repeat(~np.isin(step, (0.5, -0.25)), 8, axis=1)
    np.testing.assert_array_equal(new[useless], codes[useless])
    np.testing.assert_array_equal(new[2], codes[2])


def test_codes_beyond_the_range_may_stay_but_not_go_further():
    codes = np.array([[-128, -128, 127, 0]], dtype=np.int8)
    change = np.array([[0, -9, 9, 1]], dtype=np.float32)
    factor = InputFactor(np.zeros((1, 4), dtype=np.float32), np.ones(4, dtype=np.float32))
    new = round_codes(
        codes, np.ones((1, 1), dtype=np.float32), Values(-127, 127), change, plan_rounding(factor)
    )
    np.testing.assert_array_equal(new, [[-128, -128, 127, 1]])


def test_without_any_inputs_every_weight_goes_to_the_nearest_code():
    random = np.random.default_rng(1)
    codes = random.integers(-4, 4, (6, 300)).astype(np.int8)
    change = random.standard_normal((6, 300)).astype(np.float32)
    factor = InputFactor(np.zeros((2, 300), dtype=np.float32), np.zeros(300, dtype=np.float32))
    new = round_codes(
        codes, np.full((6, 1), 0.5, dtype=np.float32), Values(-8, 8), change, plan_rounding(factor)
    )
    np.testing.assert_array_equal(new, np.clip(codes + np.rint(change / 0.5), -8, 8))


@pytest.mark.parametrize("shape", [(30, 200), (200, 30), (120, 150), (1, 5)])
def test_a_factor_has_the_inputs_leading_directions(shape):
    random = np.random.default_rng(2)
    rows = (random.standard_normal(shape) * 0.7 ** np.arange(shape[1])).astype(np.float32)
    rank = 6
    factor = input_factor(rows, rank)
    _, sizes, right = np.linalg.svd(rows, full_matrices=False)
    expected = right[:rank].T * sizes[:rank] ** 2 @ right[:rank]
    moments = factor.directions.T @ factor.directions
    assert factor.directions.shape == (min(rank, *shape), shape[1])
    assert np.linalg.norm(moments - expected) < 0.01 * np.linalg.norm(expected)
    np.testing.assert_allclose(
        np.diag(moments) + factor.remainder, np.square(rows).sum(axis=0), rtol=1e-3, atol=1e-5
    )


def test_a_factor_knows_a_push_that_lies_outside_the_leading_directions():
    random = np.random.default_rng(4)
    rows = (random.standard_normal((80, 60)) * 0.98 ** np.arange(60)).astype(np.float32)
    push = np.zeros(60, dtype=np.float32)
    push[40] = 1
    exact = rows.T @ (rows @ push)
    blind = input_factor(rows, 5)
    seeing = input_factor(rows, 5, push)
    assert len(seeing.directions) == 6
    assert np.linalg.norm(blind.directions.T @ (blind.directions @ push) - exact) > 0.5 * np.linalg.norm(
        exact
    )
    np.testing.assert_allclose(
        seeing.directions.T @ (seeing.directions @ push), exact, atol=1e-4 * np.linalg.norm(exact)
    )
