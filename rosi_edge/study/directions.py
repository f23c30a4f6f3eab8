"""Does more than one direction pay? Refusal by hazard category, before and with one direction or several.

Every number of directions is compared at the same divergence on harmless prompts, by first answer tokens, in
the setting a search starts from. A category's direction gets a key of its own, which fires on its prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.calibration import calibrate, candidate_matrices, solve
from rosi_edge.edits.profile import conditional_edits
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.evaluation.behaviour import measure_behaviour, refusal_openings
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.prompts.sets import PromptSet
from rosi_edge.runtime.engine import Engine, ask, edits_applied
from rosi_edge.runtime.taps import TapRequest
from rosi_edge.search.candidates import layer_candidates
from rosi_edge.search.first_token import FirstTokenScore, FirstTokenScorer
from rosi_edge.search.space import Space
from rosi_edge.study.categories import CategoryDirection, category_directions
from rosi_edge.study.equal_divergence import at_equal_divergence

_RIDGE = 0.01
_NEGATIVES = 96
"""Prompts of each negative set in the pass for a category's key."""
PAYS = 0.02
"""Share of harmful prompts more that must open with a refusal for another direction to pay."""


@dataclass(frozen=True)
class DirectionsResult:
    """What so many directions gave, as shares of prompts that open with a refusal.

    Attributes:
        added: the categories whose directions were added to the common one.
        rest: for each of them, what its difference of means has besides the directions before it, in parts.
        by_category: in the order of ``DirectionsStudy.categories``.
        kl: what it cost on harmless prompts, nats.
    """

    added: tuple[str, ...]
    rest: tuple[float, ...]
    harmful: float
    harmless: float
    by_category: tuple[float, ...]
    kl: float


@dataclass(frozen=True)
class DirectionsStudy:
    """Attributes:
    categories: with the number of their choosing prompts.
    prompts: how many harmful and harmless ones the shares are of.
    original: without any edit.
    results: one direction first.
    """

    categories: tuple[tuple[str, int], ...]
    prompts: tuple[int, int]
    original: DirectionsResult
    results: tuple[DirectionsResult, ...]

    @property
    def best(self) -> int:
        """The smallest number of directions that none larger beats by ``PAYS`` without more refusals of
        harmless prompts."""
        best = 0
        for number, result in enumerate(self.results):
            known = self.results[best]
            if result.harmful >= known.harmful + PAYS and result.harmless <= known.harmless + PAYS:
                best = number
        return best + 1


def study_directions(
    engine: Engine,
    file: Weights,
    matrices: Sequence[WriteMatrix],
    sets: RequestSets,
    choosing: RequestSets,
    judge: Judge,
    *,
    most: int,
    progress: Progress = SILENT,
) -> DirectionsStudy:
    """Compare one to ``most`` directions.

    Args:
        sets: calibration prompts, the harmful ones with categories.
        choosing: prompts that refusal is read of.
    """
    layers = engine.facts.layers
    candidates = candidate_matrices(matrices, layers)
    original = measure_behaviour(
        engine, choosing, judge, max_tokens=8, progress=progress, title="Original model"
    )
    judged = [one for one in (original.harmful, original.harmless, original.sounds_harmful) if one]
    names = sorted({prompt.category for prompt in choosing.harmful.prompts if prompt.category})
    categories = [_of_category(choosing.harmful, name) for name in names]
    scorer = FirstTokenScorer(
        engine, [choosing.harmful, choosing.harmless, *categories], refusal_openings(judged)
    )

    first = calibrate(engine, sets, candidates, progress=progress)
    with first.inputs:
        directions = layer_candidates(first, None)
        setting = Space(layers, benign_sets=len(first.sets) - 1).start(candidates, directions)
        common = next(candidate for candidate in directions if candidate.name == setting.direction)
        keys = solve(first.inputs, ridge=_RIDGE, forms=[setting.form], progress=progress)
    edits = list(conditional_edits(file, candidates, keys, common.vector, setting))
    results = [_measure(engine, scorer, edits, setting.strength, ())]
    used: list[CategoryDirection] = []
    for direction in _of_categories(engine, sets, common.layer, most - 1, progress):
        # A pass of its own for a category's key: it fires on its prompts.
        own = RequestSets(
            _of_category(sets.harmful, direction.category),
            sets.harmless.take(_NEGATIVES),
            sets.sounds_harmful.take(_NEGATIVES) if sets.sounds_harmful else None,
            sets.guarded,
        )
        with calibrate(engine, own, candidates, progress=progress).inputs as inputs:
            keys = solve(inputs, ridge=_RIDGE, forms=[setting.form], progress=progress)
        used.append(direction)
        edits += conditional_edits(file, candidates, keys, direction.vector, setting)
        results.append(_measure(engine, scorer, edits, setting.strength, used))
    return DirectionsStudy(
        tuple((name, len(each)) for name, each in zip(names, categories, strict=True)),
        (len(choosing.harmful), len(choosing.harmless)),
        _result(scorer.original, ()),
        tuple(results),
    )


def _of_categories(
    engine: Engine, sets: RequestSets, layer: int, most: int, progress: Progress
) -> list[CategoryDirection]:
    """Read after one block."""
    prompts = engine.encode([ask(text) for text in (*sets.harmful.texts, *sets.harmless.texts)])
    with progress.stage("Reading the categories' directions", len(prompts)) as advance:
        rows = engine.capture(prompts, TapRequest(blocks=(layer,)), advance=advance).stream_rows(layer)
    count = len(sets.harmful)
    categories = [prompt.category for prompt in sets.harmful.prompts]
    return category_directions(rows[:count], categories, rows[count:], most)


def _of_category(prompts: PromptSet, category: str) -> PromptSet:
    members = [prompt for prompt in prompts.prompts if prompt.category == category]
    return PromptSet.of(f"{prompts.name}: {category}", members, prompts.source)


def _measure(
    engine: Engine,
    scorer: FirstTokenScorer,
    edits: Sequence[RankOneEdit],
    strength: float,
    used: Sequence[CategoryDirection],
) -> DirectionsResult:
    with edits_applied(engine, edits, strength) as handle:
        return _result(at_equal_divergence(engine, scorer, handle, strength), used)


def _result(score: FirstTokenScore, used: Sequence[CategoryDirection]) -> DirectionsResult:
    return DirectionsResult(
        tuple(direction.category for direction in used),
        tuple(direction.rest for direction in used),
        score.refused[0],
        score.refused[1],
        score.refused[2:],
        score.kl,
    )
