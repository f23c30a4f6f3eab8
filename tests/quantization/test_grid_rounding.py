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


def second_moments(factor):
    return factor.directions.T @ factor.directions + np.diag(factor.remainder)


def cost(difference, moments):
    return float(np.einsum("rc,cd,rd->", difference, moments, difference))


def decaying_inputs(samples, columns, random, mixing):
    """Inputs whose spectrum decays as 1/i, all from the distribution that ``mixing`` sets."""
    scales = 1 / np.arange(1, mixing.shape[0] + 1)
    noise = 0.002 * random.standard_normal((samples, columns))
    return ((random.standard_normal((samples, len(scales))) * scales) @ mixing + noise).astype(np.float32)


def test_tiny_cases_come_close_to_exhaustive_search():
    random = np.random.default_rng(3)
    ours, best, plain = [], [], []
    for _ in range(40):
        codes = random.integers(-1, 2, (1, 6)).astype(np.int8)
        step = np.full((1, 1), 0.7, dtype=np.float32)
        change = (0.3 * random.standard_normal((1, 6))).astype(np.float32)
        factor = input_factor(random.standard_normal((12, 6)).astype(np.float32) * [3, 2, 1, 1, 0.5, 0.2], 3)
        moments = second_moments(factor)

        def error(new, codes=codes, change=change, moments=moments):
            return cost(0.7 * (np.asarray(new, dtype=float) - codes) - change, moments)

        ours.append(error(round_codes(codes, step, Values(-1, 1), change, plan_rounding(factor))))
        best.append(min(error([new]) for new in itertools.product((-1, 0, 1), repeat=6)))
        plain.append(error(np.clip(np.rint(codes + change / 0.7), -1, 1)))
    assert all(a >= b - 1e-5 for a, b in zip(ours, best, strict=True))
    assert np.mean(ours) < 1.6 * np.mean(best)
    assert np.mean(ours) < 0.75 * np.mean(plain)


@pytest.mark.parametrize(
    "kind", [Kind.Q4_K, Kind.Q5_0, Kind.Q6_K, Kind.Q2_K, Kind.IQ4_XS, Kind.MXFP4, Kind.BF16], ids=lambda kind: kind.name
)
def test_a_small_edit_arrives_with_a_quarter_of_the_noise_of_requantizing(kind):
    random = np.random.default_rng(5)
    mixing = random.standard_normal((96, COLUMNS)) * np.exp(0.5 * random.standard_normal(COLUMNS))
    inputs, held_out = (decaying_inputs(600, COLUMNS, random, mixing) for _ in range(2))
    push = np.linalg.lstsq(inputs[:, :].T @ inputs + np.eye(COLUMNS), inputs.T @ random.standard_normal(600), rcond=None)[
        0
    ]
    del push
