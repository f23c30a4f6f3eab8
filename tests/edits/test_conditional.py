"""Conditional keys against scikit-learn's ridge regression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from rosi_edge.edits.keys import Form, Key, solve_keys


def solve_key(positive: np.ndarray, negatives: list[np.ndarray], *, ridge: float) -> Key:
    return solve_keys(positive, negatives, ridge=ridge, forms=[Form.RIDGE])[Form.RIDGE]


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
    key = solve_key(positive, negatives, ridge=0.05).at([below, below])

    inputs = np.concatenate([positive, *negatives]).astype(np.float64)
    wanted = np.concatenate([np.ones(30), np.full(31, -below)])
    weights = np.concatenate([np.full(30, 0.3 / 30), np.full(20, 0.5 / 20), np.full(11, 0.5 / 11)])
    penalty = 0.05 * float((weights[:, None] * inputs**2).sum()) / len(inputs)
    reference = Ridge(alpha=penalty, fit_intercept=False).fit(inputs, wanted, sample_weight=weights)
    np.testing.assert_allclose(key, reference.coef_, rtol=2e-3, atol=2e-5)


def test_a_key_fires_on_positive_inputs_it_has_not_seen() -> None:
    positive, negatives = _sets(64)
    key = solve_key(positive[:20], [rows[:8] for rows in negatives], ridge=0.05).at([0.0, 0.0])
    fired = float((positive[20:] @ key).mean())
    silent = float(np.concatenate([rows[8:] @ key for rows in negatives]).mean())
    assert fired > 0.5
    assert abs(silent) < 0.25


def test_repeating_a_set_changes_nothing() -> None:
    positive, negatives = _sets(40)
    once = solve_key(positive, negatives, ridge=0.1).at([0.2, 0.2])
    # The penalty is per row, so the ridge is scaled with the rows to compare like with like.
    twice = solve_key(positive, [np.concatenate([rows, rows]) for rows in negatives], ridge=0.1 * 92 / 61)
    np.testing.assert_allclose(twice.at([0.2, 0.2]), once, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("columns", [17, 200], ids=["more rows than columns", "more columns than rows"])
def test_the_discriminant_is_whitened_by_the_negative_inputs(columns: int) -> None:
    positive, negatives = _sets(columns)
    key = solve_keys(positive, negatives, ridge=0.05, forms=[Form.DISCRIMINANT])[Form.DISCRIMINANT]

    weights = np.concatenate([np.full(20, 0.5 / 20), np.full(11, 0.5 / 11)])
    silent = np.concatenate(negatives).astype(np.float64)
    everything = (weights[:, None] * silent**2).sum() + 0.3 * np.square(positive, dtype=np.float64).sum() / 30
    moments = (silent * weights[:, None]).T @ silent + 0.05 * everything / 61 * np.eye(columns)
    for vector, mean in (
        (key.fires, positive.mean(axis=0, dtype=np.float64)),
        (key.stays[1], negatives[1].mean(axis=0, dtype=np.float64)),
    ):
        reference = np.linalg.solve(moments, mean)
        np.testing.assert_allclose(vector, reference / (reference @ mean), rtol=2e-3, atol=2e-4)
        assert vector @ mean == pytest.approx(1, abs=1e-3)


def test_a_null_space_key_does_not_touch_the_leading_negative_directions() -> None:
    generator = np.random.default_rng(1)
    positive, negatives = _sets(120)
    loud = generator.normal(size=120).astype(np.float32)
    negatives = [
        rows + 8 * generator.normal(size=(len(rows), 1)).astype(np.float32) * loud for rows in negatives
    ]
    key = solve_keys(positive, negatives, ridge=0.05, forms=[Form.NULL_SPACE])[Form.NULL_SPACE]
    cosine = key.fires @ loud / np.linalg.norm(key.fires) / np.linalg.norm(loud)
    assert abs(cosine) < 2e-2
    assert (positive @ key.fires).mean() > 0.1


def test_a_key_does_not_answer_what_the_edits_themselves_bring() -> None:
    positive, negatives = _sets(64)
    push = np.random.default_rng(3).normal(size=(1, 64)).astype(np.float32) * 5 + positive.mean(axis=0)
    free = solve_keys(positive, negatives, ridge=0.05)
    held = solve_keys(positive, negatives, ridge=0.05, silent=[push])
    for form in Form:
        assert abs(push[0] @ held[form].fires) < 0.3 * abs(push[0] @ free[form].fires)
        assert (positive @ held[form].fires).mean() > 0.4
