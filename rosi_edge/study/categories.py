"""Directions of prompt categories besides the common one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rosi_edge.basics.arrays import Float32, Float64

_LEAST_PROMPTS = 8
"""A category with fewer has no mean worth the name."""
_LEAST_REST = 0.05
"""A direction that keeps less of its length beside those before it says nothing of its own."""


@dataclass(frozen=True)
class CategoryDirection:
    """What one category adds.

    Attributes:
        vector: unit vector, (hidden,), orthogonal to the common direction and to the categories' before it.
        rest: length of what the category's difference of means has besides those, in parts of the whole.
    """

    category: str
    vector: Float32
    rest: float


def category_directions(
    positive: Float32, categories: Sequence[str | None], negative: Float32, most: int
) -> list[CategoryDirection]:
    """At most ``most`` directions of categories, the one with the most of its own first.

    Args:
        positive: (n, hidden), the stream on positive prompts; ``categories`` of each.
        negative: (m, hidden), the stream on negative ones.

    Raises:
        ValueError: positive and negative prompts have one mean.
    """
    origin = negative.mean(axis=0, dtype=np.float64)
    common = positive.mean(axis=0, dtype=np.float64) - origin
    length = float(np.linalg.norm(common))
    if not length:
        raise ValueError("positive and negative prompts have one mean")
    known = np.array([category or "" for category in categories])
    left: dict[str, Float64] = {}
    for name in sorted(set(known) - {""}):
        members = known == name
        if int(members.sum()) >= _LEAST_PROMPTS:
            left[name] = positive[members].mean(axis=0, dtype=np.float64) - origin
    found: list[CategoryDirection] = []
    basis = [common / length]
    while left and len(found) < most:
        rests = {name: _without(vector, basis) for name, vector in left.items()}
        name = max(rests, key=lambda key: float(np.linalg.norm(rests[key])))
        rest = float(np.linalg.norm(rests[name]))
        whole = float(np.linalg.norm(left.pop(name)))
        if rest < _LEAST_REST * whole:
            break
        basis.append(rests[name] / rest)
        found.append(CategoryDirection(name, basis[-1].astype(np.float32), rest / whole))
    return found


def _without(vector: Float64, basis: Sequence[Float64]) -> Float64:
    """Gram-Schmidt, twice: once leaves rounding errors along what was taken out."""
    for _ in range(2):
        for known in basis:
            vector = vector - (vector @ known) * known
    return vector
