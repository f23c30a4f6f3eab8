"""Conditional keys against scikit-learn's ridge regression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from rosi_edge.injection.conditional import solve_key


def _sets(columns: int, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=columns)
    positive = generator.normal(size=(30, columns)) + shared
    negatives = [generator.normal(size=(n, columns)) - 0.3 * shared for n in (20, 11)]
    return positive.astype(np.float32), [rows.astype(np.float32) for rows in negatives]


@pytest.mark.parametrize("columns", [17, 200], ids=["more rows than columns", "more columns than rows"])
@pytest.mark.parametrize("below", [0.0, 0.4])
def test_a_key_is_a_weighted_ridge_regression(columns: int, below: float) -> None:
    positive, negatives = _sets(columns)
    key = solve_key(positive, negatives, ridge=0.05).at(below)

    inputs = np.concatenate([positive, *negatives]).astype(np.float64)
    wanted = np.concatenate([np.ones(30), np.full(31, -below)])
    weights = np.concatenate([np.full(30, 1 / 30), np.full(20, 0.5 / 20), np.full(11, 0.5 / 11)])
    penalty = 0.05 * float((weights[:, None] * inputs**2).sum()) / len(inputs)
    reference = Ridge(alpha=penalty, fit_intercept=False).fit(inputs, wanted, sample_weight=weights)
    np.testing.assert_allclose(key, reference.coef_, rtol=2e-3, atol=2e-5)


def test_a_key_fires_on_positive_inputs_it_has_not_seen() -> None:
    positive, negatives = _sets(64)
    key = solve_key(positive[:20], [rows[:8] for rows in negatives], ridge=0.05).at(0.0)
    fired = float((positive[20:] @ key).mean())
    silent = float(np.concatenate([rows[8:] @ key for rows in negatives]).mean())
    assert fired > 0.5
    assert abs(silent) < 0.25


def test_repeating_a_set_changes_nothing() -> None:
    positive, negatives = _sets(40)
    once = solve_key(positive, negatives, ridge=0.1).at(0.2)
    # The penalty is per row, so the ridge is scaled with the rows to compare like with like.
    twice = solve_key(positive, [np.concatenate([rows, rows]) for rows in negatives], ridge=0.1 * 92 / 61)
    np.testing.assert_allclose(twice.at(0.2), once, rtol=1e-3, atol=1e-5)
