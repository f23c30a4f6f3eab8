"""The intervals of d′ and AUC, against simulation and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, nct, norm

from rosi_edge.report.layers import auc_estimate, d_prime_estimate

COVERED = (0.92, 0.98)


@pytest.mark.parametrize("wanted", [0.0, 0.5, 1.5, 3.0])
def test_intervals_cover_the_truth_about_as_often_as_they_say(wanted: float) -> None:
    random = np.random.default_rng(7)
    positive, negative = 45, 60
    truth = float(norm.cdf(wanted / np.sqrt(2)))
    hits = {"d": 0, "auc": 0}
    runs = 400
    for _ in range(runs):
        a, b = random.normal(wanted, 1, positive), random.normal(0, 1, negative)
        pooled = (a.var(ddof=1) * (positive - 1) + b.var(ddof=1) * (negative - 1)) / (positive + negative - 2)
        d = d_prime_estimate(float((a.mean() - b.mean()) / np.sqrt(pooled)), positive, negative)
        auc = auc_estimate(mannwhitneyu(a, b).statistic / (positive * negative), positive, negative)
        hits["d"] += d.low <= wanted <= d.high
        hits["auc"] += auc.low <= truth <= auc.high
    for name, hit in hits.items():
        assert COVERED[0] <= hit / runs <= COVERED[1] + 0.015, name


@pytest.mark.parametrize("value", [-0.4, 0.3, 1.2, 3.5])
def test_d_prime_agrees_with_the_noncentral_t(value: float) -> None:
    positive, negative = 64, 65
    scale = np.sqrt(positive * negative / (positive + negative))
    found = d_prime_estimate(value, positive, negative)
    assert found.n == 129
    for limit, tail in ((found.low, 0.975), (found.high, 0.025)):
        exact = float(nct.cdf(value * scale, positive + negative - 2, limit * scale))
        assert exact == pytest.approx(tail, abs=0.012)


@pytest.mark.parametrize("value", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_auc_interval_stays_in_its_range_and_has_a_width(value: float) -> None:
    few, many = auc_estimate(value, 10, 12), auc_estimate(value, 100, 120)
    for found in (few, many):
        assert 0 <= found.low <= value <= found.high <= 1
        assert found.high - found.low > 0.005
    assert many.high - many.low < few.high - few.low
    mirrored = auc_estimate(1 - value, 10, 12)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((few.low, few.high), abs=1e-6)
