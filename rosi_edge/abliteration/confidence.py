"""How sure a finding is: what gaps untouched models have, and how unlikely this one is among them.

The logarithmic gaps below the bulk that untouched windows show fall off exponentially; their mean was
measured on Qwen2.5-Coder-0.5B, SmolLM2-135M and Gemma 3 270M, as published and requantized
(tests/abliteration/measure.py).
"""

from __future__ import annotations

import math

_MEAN_GAPS = ((1, 0.17), (2, 0.15), (4, 0.12), (8, 0.10), (16, 0.065))
"""Mean gap of untouched windows of feed-forward outputs by their number of layers."""

_OTHER_MEAN_GAP = 0.15
"""The same for other outputs, of any number of layers: 0.08 to 0.12 in most files, 0.20 in one model, whose
windows are rated too sure by that and still stay far from any limit in use."""

_NOISE_MEAN_GAP = 0.17
"""The same in units of rounding noise, for windows that lie near it."""

_MEASURED_HIDDEN = 576
_NARROW = 4
"""Windows of fewer layers rest on a few matrices; for them a gap alone is not enough unless it is large."""

LARGE_GAP = 2.2
"""Twice the largest gap of a narrow window, or of one in units of noise, that an untouched model showed: 1.09
in 15 files, three models of five types each. Weights that were rounded before to a grid twice as fine lie
halfway between two codes; an ablation then decides all of these alike, and leaves far more than step² / 12
along its direction. Its gap tells it."""

MOST_NOISE = 2.5
"""A full ablation leaves rounding noise alone, measured as 0.4 to 1.3; untouched windows measured 2.4 and
more in files of 4 bits and more, and down to 1.5 at 2 bits, with gaps below 0.4."""


def confidence(
    gap: float,
    layers: int,
    *,
    hidden: int,
    tests: int,
    noise_ratio: float | None,
    by_noise: bool,
    feed_forward: bool = True,
) -> float:
    """The probability, from 0 to 1, that no window of an untouched file shows such a gap.

    Args:
        gap: natural logarithm of the second-smallest over the smallest eigenvalue.
        layers: of the window.
        tests: windows that were looked at (each is another chance to be wrong).
        noise_ratio: energy along the direction over that of rounding alone; None if not known.
        by_noise: eigenvalues in units of rounding noise. Untouched windows show larger gaps there, but far
            above the noise: such a finding has to lie at it, or have a gap that is large.
        feed_forward: whether the window is one of feed-forward outputs.
    """
    if (by_noise or layers < _NARROW) and (
        noise_ratio is None or (noise_ratio > MOST_NOISE and gap < LARGE_GAP)
    ):
        return 0.0
    mean = _mean_gap(layers) if feed_forward else _OTHER_MEAN_GAP
    mean = _NOISE_MEAN_GAP if by_noise else mean
    # The edge of a narrow spectrum is coarser: spacings there grow as hidden^(-2/3) (Tracy and Widom 1994).
    mean *= max(1.0, (_MEASURED_HIDDEN / hidden) ** (2 / 3))
    by_chance = math.exp(-gap / mean)
    return float((1.0 - by_chance) ** tests)


def _mean_gap(layers: int) -> float:
    return next((mean for least, mean in reversed(_MEAN_GAPS) if layers >= least), _MEAN_GAPS[0][1])
