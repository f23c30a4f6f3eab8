"""Intervals and paired tests behind the figures in every report.

scipy is imported where it is needed: whoever only checks a file need not have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from pydantic import BaseModel, ConfigDict

CONFIDENCE = 0.95
_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(0.5 + CONFIDENCE / 2)
# The ends of a skewed sample's interval lie far out, so they need many resamples; a large sample's mean is
# nearly normal and needs fewer, which bounds the time.
_BOOTSTRAP_RESAMPLES = (1_000, 10_000)
_BOOTSTRAP_DRAWS = 20_000_000
_BOOTSTRAP_SEED = 20250827
_JACKKNIFE_GROUPS = 32
_LEAST_JACKKNIFE_GROUPS = 8


class Estimate(BaseModel):
    """A figure with its sample size and 95 % interval."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    value: float
    n: int
    low: float
    high: float


class PairedChange(BaseModel):
    """The change of a figure measured twice on the same items, with its 95 % interval and p-value: McNemar's
    for rates, Wilcoxon's for means."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    change: float
    n: int
    low: float
    high: float
    p_value: float


class Trend(BaseModel):
    """The slope of a rate along a scale, with its 95 % interval and the p-value of no slope."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    slope: float
    n: int
    low: float
    high: float
    p_value: float


def ratio_of_sums(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate | None:
    """``Σ numerators / Σ denominators``, with the delete-a-group jackknife's interval (K. M. Wolter,
    Introduction to Variance Estimation, 2007, ch. 4) and Student's t.

    Neighbours go into one group: items in the order of what they belong to, such as positions of a prompt,
    may depend on each other. None where there are fewer than 8 items, or all but a group add up to nothing.
    """
    above, below = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    groups = min(len(above), _JACKKNIFE_GROUPS)
    if groups < _LEAST_JACKKNIFE_GROUPS:
        return None
    starts = np.arange(groups) * len(above) // groups
    rest_above = above.sum() - np.add.reduceat(above, starts)
    rest_below = below.sum() - np.add.reduceat(below, starts)
    if not (rest_below > 0).all():
        return None
    without = rest_above / rest_below
    error = math.sqrt((groups - 1) / groups * float(np.square(without - without.mean()).sum()))
    value = float(above.sum() / below.sum())
    reach = _student(groups - 1) * error
    return Estimate(value=value, n=len(above), low=value - reach, high=value + reach)


def proportion(successes: int, n: int) -> Estimate:
    """A rate with the Wilson score interval (E. B. Wilson, JASA 22, 1927, no continuity correction).

    Raises:
        ValueError: when ``n`` is not positive or ``successes`` lies outside 0 … n.
    """
    if n <= 0:
        raise ValueError("a proportion needs at least one trial")
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and {n}, not {successes}")
    low, high = _wilson(successes, n)
    return Estimate(value=successes / n, n=n, low=low, high=high)


def mean(values: Sequence[float]) -> Estimate:
    """An average with a bias-corrected and accelerated (BCa) bootstrap interval.

    B. Efron, JASA 82, 1987; 10,000 resamples (down to 1,000 for samples above 2,000 values) under a fixed
    seed, so the same values always give the same interval. One value, or values that are all equal, give an
    interval of no width.

    Raises:
        ValueError: when ``values`` is empty or holds something that is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError("a mean needs at least one value")
    if not np.isfinite(sample).all():
        raise ValueError("a mean needs finite values")
    centre = float(sample.mean())
    n = int(sample.size)
    if n == 1 or float(np.ptp(sample)) == 0.0:
        return Estimate(value=centre, n=n, low=centre, high=centre)
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    fewest, most = _BOOTSTRAP_RESAMPLES
    resamples = min(most, max(fewest, _BOOTSTRAP_DRAWS // n))
    batch = max(1, 1_000_000 // n)
    sizes = [min(batch, resamples - start) for start in range(0, resamples, batch)]
    resampled = np.concatenate(
        [sample[generator.integers(0, n, size=(size, n))].mean(axis=1) for size in sizes]
    )
    # Ties count half: a sample of few distinct values puts many resamples exactly on its mean.
    below = float(np.mean(resampled < centre) + 0.5 * np.mean(resampled == centre))
    bias = _NORMAL.inv_cdf(min(max(below, 1 / resamples), 1 - 1 / resamples))
    # For a mean the jackknife values deviate from their average by (x̄ - x_i)/(n-1), so the acceleration
    # needs no second pass: it is the sample's skewness over 6 √n.
    deviation = sample - centre
    deviation /= np.abs(deviation).max()  # the ratio below has no scale, but cubes of tiny numbers vanish
    acceleration = float((deviation**3).sum() / (6.0 * ((deviation**2).sum()) ** 1.5))
    shifted = [bias + _Z * sign for sign in (-1.0, 1.0)]
    levels = [_NORMAL.cdf(bias + s / (1.0 - acceleration * s)) for s in shifted]
    low, high = (float(q) for q in np.quantile(resampled, levels))
    return Estimate(value=centre, n=n, low=min(low, centre), high=max(high, centre))


def mean_share(values: Sequence[float]) -> Estimate:
    """An average of numbers between 0 and 1, with Wilson's interval for as many outcomes.

    Nothing between 0 and 1 scatters more than outcomes that are 0 or 1 with the same average, so this
    interval is never too narrow for its spread. The bootstrap of a few values that happen to agree is: eight
    requests that no attack got through for would have an interval of no width.

    Raises:
        ValueError: when ``values`` is empty, or one is not between 0 and 1.
    """
    sample = [float(value) for value in values]
    if not sample:
        raise ValueError("a mean needs at least one value")
    if not all(0.0 <= value <= 1.0 for value in sample):
        raise ValueError("a share lies between 0 and 1")
    total, n = math.fsum(sample), len(sample)
    low, high = _wilson(total, n)
    return Estimate(value=total / n, n=n, low=low, high=high)


def paired_change(before: Sequence[bool], after: Sequence[bool]) -> PairedChange:
    """How far a rate moved between two measurements of the same items.

    The p-value is the exact two-sided McNemar test: under no change the discordant pairs fall either way
    with probability 1/2. The interval is Newcombe's hybrid score interval for paired proportions, with the
    continuity-corrected correlation (R. G. Newcombe, Statistics in Medicine 17, 1998, 2635–2650, method 10).

    Args:
        before: n outcomes.
        after: n outcomes of the same items, in the same order.

    Returns:
        ``change`` = rate after − rate before, between −1 and 1.

    Raises:
        ValueError: when the lengths differ or are zero.
    """
    if len(before) != len(after):
        raise ValueError(f"paired outcomes must match one to one, not {len(before)} against {len(after)}")
    n = len(before)
    if n == 0:
        raise ValueError("a paired change needs at least one pair")
    pairs = list(zip(map(bool, before), map(bool, after), strict=True))
    both = pairs.count((True, True))
    lost = pairs.count((True, False))
    gained = pairs.count((False, True))
    neither = n - both - lost - gained

    rate_after, rate_before = (both + gained) / n, (both + lost) / n
    change = (gained - lost) / n
    low_after, high_after = _wilson(both + gained, n)
    low_before, high_before = _wilson(both + lost, n)
    correlation = _newcombe_correlation(both, gained, lost, neither)

    def reach(first: float, second: float) -> float:
        return math.sqrt(max(0.0, first**2 - 2.0 * correlation * first * second + second**2))

    low = change - reach(rate_after - low_after, high_before - rate_before)
    high = change + reach(high_after - rate_after, rate_before - low_before)
    from scipy.stats import binomtest

    discordant = lost + gained
    p_value = float(binomtest(gained, discordant, 0.5).pvalue) if discordant else 1.0
    return PairedChange(change=change, n=n, low=max(-1.0, low), high=min(1.0, high), p_value=p_value)


def paired_mean_change(before: Sequence[float], after: Sequence[float]) -> PairedChange:
    """How far a mean moved between two measurements of the same items.

    The interval is the BCa bootstrap's of the mean difference, see :func:`mean`; the p-value is that of the
    two-sided Wilcoxon signed-rank test (F. Wilcoxon, Biometrics Bulletin 1, 1945) without the unchanged
    items: exact up to 50 differences of different sizes, by the normal approximation otherwise.

    Raises:
        ValueError: when the lengths differ or are zero, or a value is not finite.
    """
    if len(before) != len(after):
        raise ValueError(f"paired values must match one to one, not {len(before)} against {len(after)}")
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    estimate = mean(differences.tolist())
    from scipy.stats import wilcoxon

    moved = differences[differences != 0]
    p_value = float(wilcoxon(moved).pvalue) if moved.size else 1.0
    return PairedChange(
        change=estimate.value, n=estimate.n, low=estimate.low, high=estimate.high, p_value=p_value
    )


def paired_share_change(before: Sequence[float], after: Sequence[float]) -> PairedChange:
    """How far an average of numbers between 0 and 1 moved between two measurements of the same items.

    The interval puts together those of the two averages (``mean_share``) as if they were independent (MOVER,
    G. Y. Zou and A. Donner, Statistics in Medicine 27, 2008); items that go with each other, as the same
    requests do, make it wider than it need be. The p-value is ``paired_mean_change``'s.

    Raises:
        ValueError: when the lengths differ or are zero, or a value is not between 0 and 1.
    """
    p_value = paired_mean_change(before, after).p_value
    old, new = mean_share(before), mean_share(after)
    change = new.value - old.value
    low = change - math.hypot(new.value - new.low, old.high - old.value)
    high = change + math.hypot(new.high - new.value, old.value - old.low)
    return PairedChange(change=change, n=new.n, low=max(-1.0, low), high=min(1.0, high), p_value=p_value)


def ratio_of_means(before: Sequence[float], after: Sequence[float]) -> Estimate | None:
    """mean(after) / mean(before) of paired values that are not negative, with Fieller's interval.

    E. C. Fieller, Journal of the Royal Statistical Society B 16, 1954: the ratios r for which the mean of
    ``after − r · before`` does not differ from 0 by a t-test.

    Returns:
        None when the mean before does not differ from 0 itself: then any ratio is possible.

    Raises:
        ValueError: when the lengths differ or there are fewer than two pairs.
    """
    if len(before) != len(after):
        raise ValueError(f"paired values must match one to one, not {len(before)} against {len(after)}")
    n = len(before)
    if n < 2:
        raise ValueError("a ratio with its interval needs at least two pairs")
    top, bottom = float(np.mean(after)), float(np.mean(before))
    (var_top, shared), (_, var_bottom) = (np.cov(np.asarray([after, before], dtype=np.float64)) / n).tolist()
    limit = _student(n - 1) ** 2
    # The roots of (top − r bottom)² = t² (var_top − 2 r shared + r² var_bottom).
    a = bottom**2 - limit * var_bottom
    if a <= 0:
        return None
    b = top * bottom - limit * shared
    c = top**2 - limit * var_top
    reach = math.sqrt(max(0.0, b * b - a * c))
    value = top / bottom
    return Estimate(
        value=value, n=n, low=min(max(0.0, (b - reach) / a), value), high=max((b + reach) / a, value)
    )


def clustered_quantile(clusters: Sequence[Sequence[float]], level: float) -> Estimate:
    """A quantile of all values, with the percentile bootstrap's interval over whole clusters.

    The values of one cluster (the tokens of one answer) resemble each other, so clusters are drawn, not
    values; 1,000 resamples under a fixed seed. ``n`` counts the values.

    Raises:
        ValueError: when there is no value.
    """
    arrays = [np.asarray(cluster, dtype=np.float64) for cluster in clusters if len(cluster)]
    if not arrays:
        raise ValueError("a quantile needs at least one value")
    everything = np.concatenate(arrays)
    centre = float(np.quantile(everything, level))
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    resampled = [
        np.quantile(np.concatenate([arrays[i] for i in drawn]), level)
        for drawn in generator.integers(0, len(arrays), size=(1_000, len(arrays)))
    ]
    low, high = (float(q) for q in np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    return Estimate(value=centre, n=len(everything), low=min(low, centre), high=max(high, centre))


def trend(positions: Sequence[float], outcomes: Sequence[bool]) -> Trend:
    """Least-squares slope of a rate along a scale, with the t-test's interval and p-value.

    Raises:
        ValueError: when the lengths differ, or fewer than three outcomes or two positions are given.
    """
    if len(positions) != len(outcomes):
        raise ValueError(f"{len(positions)} positions need as many outcomes, not {len(outcomes)}")
    if len(outcomes) < 3 or len(set(positions)) < 2:
        raise ValueError("a trend needs at least three outcomes at two positions")
    values = np.asarray(outcomes, dtype=np.float64)
    if np.ptp(values) == 0:
        return Trend(slope=0.0, n=len(values), low=0.0, high=0.0, p_value=1.0)
    from scipy.stats import linregress

    fit = linregress(np.asarray(positions, dtype=np.float64), values)
    reach = _student(len(values) - 2) * float(fit.stderr)
    slope = float(fit.slope)
    return Trend(slope=slope, n=len(values), low=slope - reach, high=slope + reach, p_value=float(fit.pvalue))


def _student(freedom: int) -> float:
    """How many standard errors an interval of Student's t reaches."""
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, freedom))


def _wilson(successes: float, n: int) -> tuple[float, float]:
    rate = successes / n
    centre = (rate + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    reach = _Z / (1 + _Z**2 / n) * math.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2))
    # Rounding must not leave the rate itself outside at 0 and n.
    low = 0.0 if successes == 0 else max(0.0, centre - reach)
    high = 1.0 if successes == n else min(1.0, centre + reach)
    return low, high


def _newcombe_correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """The phi coefficient of the 2 × 2 table, moved towards zero by n/2 when positive (Newcombe 1998)."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    product = both * neither - gained * lost
    if product > 0:
        product_corrected = max(product - (both + gained + lost + neither) / 2.0, 0.0)
    else:
        product_corrected = float(product)
    return product_corrected / math.sqrt(margins)
