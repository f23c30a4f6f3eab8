"""More than one direction: what categories of prompts have besides the common direction.

The first direction is the difference of means over all positive prompts. What tells the categories apart is
the spread of their own differences of means around it; its leading parts, made orthogonal to all before
(Gram-Schmidt), are further directions, one a category.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

LEAST_PROMPTS = 8
"""A category with fewer has no mean worth the name."""
_LEAST_REST = 0.05
"""A direction that keeps less of its length beside those before it says nothing of its own."""


@dataclass(frozen=True)
class CategoryDirection:
    """What one category adds.

    Attributes:
        vector: unit vector, (hidden,), orthogonal to the common direction and to the categories' before it.
        rest: length of what the category's difference of means has besides those, in parts of the whole.
        prompts: numbers of its prompts.
    """

    category: str
    vector: Float32
    rest: float
    prompts: tuple[int, ...]


def category_directions(
    positive: Float32, categories: Sequence[str | None], negative: Float32, most: int
) -> tuple[Float32, list[CategoryDirection]]:
    """The common direction, and at most ``most`` of categories, the one with the most of its own first.

    Args:
        positive: (n, hidden), the stream on positive prompts; ``categories`` of each.
        negative: (m, hidden), the stream on negative ones.

    Returns:
        a unit vector, (hidden,), and the categories' directions.
    """
    origin = negative.mean(axis=0, dtype=np.float64)
    common = positive.mean(axis=0, dtype=np.float64) - origin
    length = float(np.linalg.norm(common))
    if not length:
        raise ValueError("positive and negative prompts have one mean")
    common /= length
    known = np.array([category or "" for category in categories])
    left: dict[str, npt.NDArray[np.float64]] = {}
    for name in sorted(set(known) - {""}):
        members = known == name
        if int(members.sum()) >= LEAST_PROMPTS:
            left[name] = positive[members].mean(axis=0, dtype=np.float64) - origin
    whole = {name: float(np.linalg.norm(vector)) for name, vector in left.items()}
    found: list[CategoryDirection] = []
    basis = [common]
    while left and len(found) < most:
        rests = {name: _without(vector, basis) for name, vector in left.items()}
        name = max(rests, key=lambda key: float(np.linalg.norm(rests[key])))
        rest = float(np.linalg.norm(rests[name]))
        del left[name]
        if rest < _LEAST_REST * whole[name]:
            break
        vector = rests[name] / rest
        basis.append(vector)
        members = tuple(int(index) for index in np.flatnonzero(known == name))
        found.append(CategoryDirection(name, vector.astype(np.float32), rest / whole[name], members))
    return common.astype(np.float32), found


def _without(
    vector: npt.NDArray[np.float64], basis: Sequence[npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """Gram-Schmidt, twice: once leaves rounding errors along what was taken out."""
    for _ in range(2):
        for known in basis:
            vector = vector - (vector @ known) * known
    return vector
