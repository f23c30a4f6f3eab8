"""Effects are compared at one divergence: each edit gets the strength that costs about as much."""

from __future__ import annotations

import math

from rosi_edge.runtime.engine import EditHandle, Engine
from rosi_edge.search.first_token import FirstTokenScore, FirstTokenScorer

_KL = 0.05
"""Nats."""
_TRIES = 6
_LONGEST_STEP = math.log(10)
_SMALLEST_KL = 1e-6


def _log_divergence(score: FirstTokenScore) -> float:
    return math.log(max(score.kl, _SMALLEST_KL)) if math.isfinite(score.kl) else math.inf


def at_equal_divergence(
    engine: Engine, scorer: FirstTokenScorer, handle: EditHandle, strength: float
) -> FirstTokenScore:
    """The score of held edits at the strength that costs about ``_KL``, or as near to it as ``_TRIES`` come;
    they stay applied.

    Strength and divergence are followed on logarithmic scales (the divergence of a small push grows with its
    square): between the nearest strengths known on both sides, or by that square.
    """
    goal = math.log(_KL)
    seen: dict[float, FirstTokenScore] = {}
    place = nearest = math.log(strength)
    for _ in range(_TRIES):
        engine.apply({handle: math.exp(place)})
        seen[place] = scorer.score()
        found = {at: _log_divergence(score) for at, score in seen.items()}
        nearest = min(found, key=lambda at: abs(found[at] - goal))
        if abs(found[nearest] - goal) < math.log(1.25):
            break
        below = max((at for at in found if found[at] < goal), default=None)
        above = min((at for at in found if found[at] >= goal), default=None)
        if below is not None and above is not None and below < above:
            share = (goal - found[below]) / (found[above] - found[below])
            # Never too near to an end: a divergence that jumps would be approached for ever.
            place = below + (above - below) * min(max(share, 0.1), 0.9)
        else:
            # From the outermost: several strengths may cost the same, as little or as much as can be told.
            outermost = max(found) if above is None else min(found)
            place = outermost + min(max((goal - found[outermost]) / 2, -_LONGEST_STEP), _LONGEST_STEP)
    if place != nearest:
        engine.apply({handle: math.exp(nearest)})
    return seen[nearest]
