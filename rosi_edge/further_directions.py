"""Directions of prompt categories besides the common one, with the keys that fire on each category."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rosi_edge.calibration import Keys, calibrate, solve
from rosi_edge.evaluation.behaviour import RequestSets
from rosi_edge.injection.conditional import Form
from rosi_edge.injection.several import category_directions
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.progress import SILENT, Progress
from rosi_edge.prompts import PromptSet
from rosi_edge.runtime.engine import Engine, ask
from rosi_edge.runtime.taps import TapRequest

Float32 = npt.NDArray[np.float32]

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
