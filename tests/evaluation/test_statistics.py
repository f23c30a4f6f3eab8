from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from rosi_edge.basics.statistics import (
    Estimate,
    PairedChange,
    Trend,
    clustered_quantile,
    mean,
    mean_share,
    paired_change,
    paired_mean_change,
    paired_share_change,
    proportion,
    ratio_of_means,
    ratio_of_sums,
    trend,
)


def pairs(both: int, lost: int, gained: int, neither: int) -> tuple[list[bool], list[bool]]:
    table = (
        [(True, True)] * both + [(True, False)] * lost + [(False, True)] * gained + [(False, False)] * neither
    )
    return [before for before, _ in table], [after for _, after in table]


# proportion


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
def test_proportion_is_scipys_wilson_interval(n: int) -> None:
    for successes in {0, 1, n // 3, n // 2, n - 1, n}:
        estimate = proportion(successes, n)
        reference = stats.binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
        assert estimate.value == successes / n
        assert estimate.n == n
        assert estimate.low == pytest.approx(reference.low, abs=1e-12)
        assert estimate.high == pytest.approx(reference.high, abs=1e-12)
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (1, 0), (0, -1), (-1, 5), (6, 5)])
def test_proportion_rejects_what_is_none(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"at least one trial|between 0 and"):
        proportion(successes, n)


# mean


def test_mean_agrees_with_scipys_bca_bootstrap() -> None:
    sample = np.random.default_rng(1).lognormal(size=80)
    estimate = mean(sample.tolist())
    reference = stats.bootstrap(
        (sample,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    width = reference.high - reference.low
    assert estimate.value == pytest.approx(float(sample.mean()))
    # Both are random: 10,000 resamples place an end to within a few hundredths of the width.
    assert estimate.low == pytest.approx(reference.low, abs=0.06 * width)
    assert estimate.high == pytest.approx(reference.high, abs=0.06 * width)


def test_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        estimate = mean(generator.normal(loc=2.0, size=40).tolist())
        hits += estimate.low <= 2.0 <= estimate.high
    assert 0.89 <= hits / 100 <= 0.99


def test_mean_leans_towards_the_long_tail() -> None:
    estimate = mean([0.0] * 30 + [10.0])
    assert estimate.high - estimate.value > estimate.value - estimate.low


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_mean_is_inside_its_interval_and_repeatable(values: list[float]) -> None:
    estimate = mean(values)
    assert estimate == mean(values)
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.value == pytest.approx(sum(values) / len(values), rel=1e-9, abs=1e-6)


def test_mean_of_tiny_values_has_an_interval() -> None:
    estimate = mean([0.0, 1e-200, 2e-200, 7e-200])
    assert 0.0 <= estimate.low < estimate.value < estimate.high <= 7e-200


def test_mean_of_equal_values_has_no_width() -> None:
    assert mean([2.5]) == Estimate(value=2.5, n=1, low=2.5, high=2.5)
    assert mean([2.5] * 9) == Estimate(value=2.5, n=9, low=2.5, high=2.5)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_mean_rejects_what_has_none(values: list[float]) -> None:
    with pytest.raises(ValueError, match="a mean needs"):
        mean(values)


# paired_change


@pytest.mark.parametrize(
    "table", [(10, 3, 12, 5), (0, 0, 1, 0), (5, 0, 0, 5), (0, 4, 9, 0), (50, 1, 8, 41), (1, 6, 6, 1)]
)
def test_p_value_is_the_exact_mcnemar_test(table: tuple[int, int, int, int]) -> None:
    both, lost, gained, neither = table
    change = paired_change(*pairs(*table))
    discordant = lost + gained
    tail = sum(math.comb(discordant, k) for k in range(min(lost, gained) + 1)) / 2**discordant
    assert change.p_value == pytest.approx(min(1.0, 2 * tail))
    assert change.n == both + discordant + neither
    assert change.change == pytest.approx((gained - lost) / change.n)


def test_interval_is_the_published_one() -> None:
    # Fagerland, Lydersen & Laake (Statistics in Medicine 33, 2014): airway hyper-responsiveness of 21
    # children before (2/21) and after (8/21) a transplantation; Newcombe's interval for before − after is
    # −0.507 to −0.026.
    change = paired_change(*pairs(both=1, lost=1, gained=7, neither=12))
    assert change.change == pytest.approx(0.286, abs=5e-4)
    assert change.low == pytest.approx(0.026, abs=5e-4)
    assert change.high == pytest.approx(0.507, abs=5e-4)


def test_interval_of_unrelated_pairs_is_newcombes_for_independent_rates() -> None:
    # 2 × 2 table with no correlation at all: the paired interval falls back to the hybrid score interval.
    change = paired_change(*pairs(both=6, lost=6, gained=12, neither=12))
    before = stats.binomtest(12, 36).proportion_ci(method="wilson")
    after = stats.binomtest(18, 36).proportion_ci(method="wilson")
    assert change.low == pytest.approx(1 / 6 - math.hypot(1 / 2 - after.low, before.high - 1 / 3))
    assert change.high == pytest.approx(1 / 6 + math.hypot(after.high - 1 / 2, 1 / 3 - before.low))


def test_interval_covers_the_truth() -> None:
    # Every possible outcome of 16 pairs, weighted by its probability.
    n, chances = 16, (0.3, 0.1, 0.35, 0.25)
    truth = chances[2] - chances[1]
    covered = 0.0
    for both, lost, gained in itertools.product(range(n + 1), repeat=3):
        neither = n - both - lost - gained
        if neither >= 0:
            change = paired_change(*pairs(both, lost, gained, neither))
            if change.low <= truth <= change.high:
                covered += float(stats.multinomial.pmf((both, lost, gained, neither), n, chances))
    assert 0.93 <= covered <= 0.985


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_turning_time_around_turns_the_sign(outcomes: list[tuple[bool, bool]]) -> None:
    before, after = [b for b, _ in outcomes], [a for _, a in outcomes]
    forth, back = paired_change(before, after), paired_change(after, before)
    assert forth.change == pytest.approx(-back.change)
    assert forth.low == pytest.approx(-back.high)
    assert forth.high == pytest.approx(-back.low)
    assert forth.p_value == pytest.approx(back.p_value)
    assert -1 <= forth.low <= forth.change + 1e-12
    assert forth.change - 1e-12 <= forth.high <= 1
    assert 0 < forth.p_value <= 1


def test_paired_change_rejects_unpaired_outcomes() -> None:
    with pytest.raises(ValueError, match="2 against 1"):
        paired_change([True, False], [True])
    with pytest.raises(ValueError, match="at least one pair"):
        paired_change([], [])


# paired_mean_change


def test_paired_mean_change_agrees_with_scipys_bootstrap_of_the_differences() -> None:
    generator = np.random.default_rng(3)
    before = generator.random(70)
    after = before + generator.gamma(1.0, 0.1, size=70) - 0.03
    change = paired_mean_change(before.tolist(), after.tolist())
    reference = stats.bootstrap(
        (after - before,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(5)
    ).confidence_interval
    assert change.change == pytest.approx(float((after - before).mean()), abs=1e-12)
    assert change.n == 70
    assert change.low == pytest.approx(reference.low, abs=0.004)
    assert change.high == pytest.approx(reference.high, abs=0.004)


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=9, unique_by=abs).filter(lambda d: 0 not in d))
def test_wilcoxons_p_value_is_that_of_all_sign_patterns(differences: list[int]) -> None:
    ranks = stats.rankdata(np.abs(differences))
    observed = float(ranks[np.asarray(differences) > 0].sum())
    middle = float(ranks.sum()) / 2
    sums = [
        sum(rank for rank, up in zip(ranks, signs, strict=True) if up)
        for signs in itertools.product([False, True], repeat=len(ranks))
    ]
    as_far = sum(abs(total - middle) >= abs(observed - middle) - 1e-9 for total in sums)
    change = paired_mean_change([0.0] * len(differences), [float(d) for d in differences])
    assert change.p_value == pytest.approx(as_far / len(sums), abs=1e-9)


def test_paired_mean_change_of_unchanged_and_unpaired_values() -> None:
    same = paired_mean_change([0.1, 0.2], [0.1, 0.2])
    assert (same.change, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="1 against 2"):
        paired_mean_change([0.1], [0.1, 0.2])
    with pytest.raises(ValueError, match="finite"):
        paired_mean_change([0.1], [math.nan])


# ratio_of_means


def test_fiellers_interval_ends_where_the_t_test_does() -> None:
    generator = np.random.default_rng(6)
    before = generator.random(40)
    after = 0.4 * before + 0.1 * generator.random(40)
    ratio = ratio_of_means(before.tolist(), after.tolist())
    assert ratio is not None
    assert ratio.value == pytest.approx(after.mean() / before.mean())
    for end in (ratio.low, ratio.high):
        assert stats.ttest_1samp(after - end * before, 0.0).pvalue == pytest.approx(0.05, abs=1e-9)
    assert ratio.low < ratio.value < ratio.high


def test_the_jackknife_of_a_mean_is_the_t_interval() -> None:
    values = np.random.default_rng(8).normal(1.0, 0.4, 30)
    found = ratio_of_sums(values.tolist(), [1.0] * 30)
    assert found is not None
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert (found.value, found.n) == (pytest.approx(values.mean()), 30)


def test_a_ratio_of_sums_covers_the_truth_where_neighbours_go_together() -> None:
    """Three items of a prompt share most of their error; as if independent, a third would be missed."""
    generator = np.random.default_rng(9)
    covered = 0
    for _ in range(400):
        weights = np.repeat(generator.gamma(1.0, 1.0, 64), 3)
        errors = np.repeat(generator.normal(0, 0.6, 64), 3) + generator.normal(0, 0.2, 192)
        found = ratio_of_sums((weights * (1 + errors)).tolist(), weights.tolist())
        assert found is not None
        covered += found.low <= 1 <= found.high
    assert 0.91 <= covered / 400 <= 0.985


def test_a_ratio_of_few_sums_or_to_nothing_is_none() -> None:
    assert ratio_of_sums([1.0] * 7, [1.0] * 7) is None
    assert ratio_of_sums([1.0] * 40, [1.0] + [0.0] * 39) is None


def test_a_ratio_to_nothing_is_none() -> None:
    assert ratio_of_means([0.0, 0.0, 0.0], [0.0, 0.5, 0.0]) is None
    assert ratio_of_means([0.0, 0.0, 1.0], [0.0, 0.5, 0.0]) is None
    nothing_left = ratio_of_means([1.0, 0.9, 1.0], [0.0, 0.0, 0.0])
    assert nothing_left is not None
    assert (nothing_left.value, nothing_left.low, nothing_left.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="two pairs"):
        ratio_of_means([1.0], [1.0])
    with pytest.raises(ValueError, match="1 against 2"):
        ratio_of_means([1.0], [1.0, 2.0])


# clustered_quantile


def test_quantile_of_single_value_clusters_agrees_with_scipys_bootstrap() -> None:
    sample = np.random.default_rng(7).lognormal(size=120)
    estimate = clustered_quantile([[value] for value in sample], 0.5)
    reference = stats.bootstrap(
        (sample,), np.median, n_resamples=5_000, method="percentile", rng=np.random.default_rng(8)
    ).confidence_interval
    assert estimate.value == pytest.approx(float(np.median(sample)))
    assert estimate.n == 120
    assert estimate.low == pytest.approx(reference.low, rel=0.05)
    assert estimate.high == pytest.approx(reference.high, rel=0.05)


def test_values_that_go_together_widen_the_quantiles_interval() -> None:
    sample = np.random.default_rng(9).lognormal(size=30)
    apart = clustered_quantile([[value] for value in np.repeat(sample, 20)], 0.9)
    together = clustered_quantile([[value] * 20 for value in sample], 0.9)
    assert together.n == apart.n == 600
    assert together.high - together.low > 2 * (apart.high - apart.low)
    with pytest.raises(ValueError, match="at least one"):
        clustered_quantile([[]], 0.5)


# trend


def test_trend_is_the_textbook_regression() -> None:
    generator = np.random.default_rng(10)
    positions = np.repeat(np.arange(10), 8).astype(float)
    outcomes = generator.random(80) < 0.8 - 0.05 * positions
    found = trend(positions.tolist(), outcomes.tolist())
    design = np.stack([np.ones(80), positions], axis=1)
    coefficients, residual, *_ = np.linalg.lstsq(design, outcomes.astype(float), rcond=None)
    error = math.sqrt(float(residual[0]) / 78 * np.linalg.inv(design.T @ design)[1, 1])
    assert found.slope == pytest.approx(coefficients[1])
    assert found.high - found.slope == pytest.approx(stats.t.ppf(0.975, 78) * error)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(coefficients[1]) / error, 78))


def test_trend_of_what_never_changes_and_of_too_little() -> None:
    assert trend([0, 1, 2], [True] * 3) == Trend(slope=0.0, n=3, low=0.0, high=0.0, p_value=1.0)
    with pytest.raises(ValueError, match="three outcomes"):
        trend([0, 0, 0], [True, False, True])
    with pytest.raises(ValueError, match="as many"):
        trend([0, 1], [True])


# the models


def test_estimates_are_json_and_cannot_change() -> None:
    estimate = proportion(3, 8)
    assert set(json.loads(estimate.model_dump_json())) == {"value", "n", "low", "high"}
    with pytest.raises(ValidationError):
        estimate.value = 0.5  # type: ignore[misc]
    change = paired_change([True, False], [True, True])
    assert set(json.loads(change.model_dump_json())) == {"change", "n", "low", "high", "p_value"}
    with pytest.raises(ValidationError):
        PairedChange(change=math.nan, n=1, low=0, high=0, p_value=1)


# mean_share, paired_share_change


def test_a_mean_of_outcomes_is_their_rate() -> None:
    assert mean_share([1.0, 0.0, 0.0, 1.0, 1.0]) == proportion(3, 5)
    assert mean_share([0.0] * 8) == proportion(0, 8)
    for values in ([], [1.5], [-0.1], [float("nan")]):
        with pytest.raises(ValueError):
            mean_share(values)


def test_few_skewed_shares_keep_their_level() -> None:
    """The bootstrap's upper end lay below the truth in nearly half of such samples."""
    random = np.random.default_rng(0)
    kept = bootstrap = 0
    for _ in range(400):
        sample = random.choice([0.0, 0.4], p=[0.875, 0.125], size=8)  # 0.05 on average
        kept += mean_share(sample.tolist()).high >= 0.05
        bootstrap += mean(sample.tolist()).high >= 0.05
    assert kept == 400
    assert bootstrap < 300


def test_a_change_of_shares_is_never_sure_of_itself_because_all_are_equal() -> None:
    change = paired_share_change([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])
    assert change.change == pytest.approx(-0.25)
    assert change.low < -0.6 and change.high > 0.2
    wide, narrow = ([0.25, 0.75] * count for count in (4, 400))
    for values in (wide, narrow):
        found = paired_share_change(values, [value / 2 for value in values])
        assert found.change == pytest.approx(-0.25)
        assert found.low < found.change < found.high
    assert found.high - found.low < 0.12
    with pytest.raises(ValueError):
        paired_share_change([0.5], [])
