"""Cohen's kappa, by which the benchmark of the keyword judge measures agreement."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from rosi_edge.basics.statistics import Estimate

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "judge_agreement.py"
SPEC = importlib.util.spec_from_file_location("judge_agreement", BENCHMARK)
assert SPEC is not None and SPEC.loader is not None
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)
cohen_kappa = MODULE.cohen_kappa


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=60))
def test_kappa_is_scikit_learns(ratings: list[tuple[str, str]]) -> None:
    left, right = [a for a, _ in ratings], [b for _, b in ratings]
    if len({*left, *right}) == 1:
        with pytest.raises(ValueError, match="undefined"):
            cohen_kappa(left, right)
        return
    estimate = cohen_kappa(left, right)
    assert estimate.value == pytest.approx(cohen_kappa_score(left, right), abs=1e-12)
    assert estimate.n == len(ratings)
    assert -1 - 1e-12 <= estimate.low <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= estimate.high <= 1 + 1e-12


def test_kappa_interval_agrees_with_a_bootstrap() -> None:
    generator = np.random.default_rng(4)
    left = generator.random(400) < 0.45
    right = np.where(generator.random(400) < 0.85, left, ~left)
    estimate = cohen_kappa(left.tolist(), right.tolist())
    resampled = []
    for _ in range(1000):
        chosen = generator.integers(0, 400, size=400)
        resampled.append(cohen_kappa_score(left[chosen], right[chosen]))
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert estimate.low == pytest.approx(low, abs=0.015)
    assert estimate.high == pytest.approx(high, abs=0.015)


def test_kappa_at_its_ends() -> None:
    assert cohen_kappa([1, 0, 1], [1, 0, 1]) == Estimate(value=1.0, n=3, low=1.0, high=1.0)
    assert cohen_kappa([True, False], [False, True]).value == pytest.approx(-1.0)


def test_kappa_rejects_what_has_none() -> None:
    with pytest.raises(ValueError, match="1 against 2"):
        cohen_kappa([1], [1, 2])
    with pytest.raises(ValueError, match="at least one"):
        cohen_kappa([], [])
