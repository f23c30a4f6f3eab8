"""Directions of prompt categories besides the common one, with the keys that fire on each category."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.calibration import Keys, calibrate, solve
from rosi_edge.edits.keys import Form
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.prompts.sets import PromptSet
from rosi_edge.runtime.engine import Engine, ask
from rosi_edge.runtime.taps import TapRequest

_NEGATIVES = 96
"""Prompts of each negative set in the pass for a category's key."""


@dataclass(frozen=True)
class FurtherDirection:
    """What one category adds.

    Attributes:
        vector: unit vector, (hidden,), orthogonal to the common direction and to those before it.
        rest: length of what its difference of means has besides those, in parts of the whole.
        keys: by matrix; they fire on the category's prompts.
    """

    category: str
    vector: Float32
    rest: float
    keys: Keys


def further_directions(
    engine: Engine,
    sets: RequestSets,
    matrices: Sequence[WriteMatrix],
    *,
    layer: int,
    most: int,
    form: Form,
    ridge: float,
    progress: Progress = SILENT,
) -> Iterator[FurtherDirection]:
    """At most ``most`` directions of categories, the one with the most of its own first; each is read when it
    is asked for, because each is a pass over its prompts.

    Args:
        sets: calibration prompts, the positive ones with categories.
        layer: the block after which directions are taken.
    """
    prompts = engine.encode([ask(text) for text in (*sets.harmful.texts, *sets.harmless.texts)])
    with progress.stage("Reading the categories' directions", len(prompts)) as advance:
        rows = engine.capture(prompts, TapRequest(blocks=(layer,)), advance=advance).stream_rows(layer)
    count = len(sets.harmful)
    categories = [prompt.category for prompt in sets.harmful.prompts]
    _, found = category_directions(rows[:count], categories, rows[count:], most)
    for direction in found:
        own = RequestSets(
            of_category(sets.harmful, direction.category),
            sets.harmless.take(_NEGATIVES),
            sets.sounds_harmful.take(_NEGATIVES) if sets.sounds_harmful else None,
            sets.guarded,
        )
        with calibrate(engine, own, matrices, progress=progress).inputs as inputs:
            keys = solve(inputs, ridge=ridge, forms=[form], progress=progress)
        yield FurtherDirection(direction.category, direction.vector, direction.rest, keys)


def of_category(prompts: PromptSet, category: str) -> PromptSet:
    """The prompts of one category."""
    members = [prompt for prompt in prompts.prompts if prompt.category == category]
    return PromptSet.of(f"{prompts.name}: {category}", members, prompts.source)


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
