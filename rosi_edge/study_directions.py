"""Does more than one direction pay? Refusal by hazard category, before and with one direction or several.

Every number of directions is compared at the same divergence on harmless prompts, by first answer tokens, in
the setting a search starts from. A category's direction gets a key of its own, which fires on its prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rosi_edge.calibration import Calibration, Keys, calibrate, candidate_matrices, solve
from rosi_edge.conditional_search import default_setting, layer_candidates
from rosi_edge.evaluation.behaviour import RequestSets, measure_behaviour, refusal_openings
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.first_token import FirstTokenScore, FirstTokenScorer
from rosi_edge.injection.conditional import Form
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.injection.profile import conditional_edits
from rosi_edge.injection.several import category_directions
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights
from rosi_edge.progress import SILENT, Progress
from rosi_edge.prompts import PromptSet
from rosi_edge.runtime.engine import Engine, ask
from rosi_edge.runtime.taps import TapRequest
from rosi_edge.study import at_equal_divergence

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
    original: without any edit.
    results: one direction first.
    """

    categories: tuple[tuple[str, int], ...]
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

    first, keys = _keys(engine, sets, candidates, progress)
    directions = layer_candidates(first, None)
    setting = default_setting(candidates, layers, directions, benign_sets=len(first.sets) - 1)
    chosen = next(candidate for candidate in directions if candidate.name == setting.direction)
    prompts = engine.encode([ask(text) for text in (*sets.harmful.texts, *sets.harmless.texts)])
    with progress.stage("Reading the stream", len(prompts)) as advance:
        rows = engine.capture(prompts, TapRequest(blocks=(chosen.layer,)), advance=advance).stream_rows(
            chosen.layer
        )
    count = len(sets.harmful)
    common, further = category_directions(
        rows[:count], [prompt.category for prompt in sets.harmful.prompts], rows[count:], most - 1
    )
    edits = list(conditional_edits(file, candidates, keys, common, setting))
    results = [_measure(engine, scorer, edits, setting.strength, (), ())]
    for number, direction in enumerate(further, start=1):
        own = RequestSets(
            _of_category(sets.harmful, direction.category),
            sets.harmless.take(_NEGATIVES),
            sets.sounds_harmful.take(_NEGATIVES) if sets.sounds_harmful else None,
        )
        _, its_keys = _keys(engine, own, candidates, progress)
        edits += conditional_edits(file, candidates, its_keys, direction.vector, setting)
        used = further[:number]
        results.append(
            _measure(
                engine,
                scorer,
                edits,
                setting.strength,
                tuple(each.category for each in used),
                tuple(each.rest for each in used),
            )
        )
    return DirectionsStudy(
        tuple((name, len(each)) for name, each in zip(names, categories, strict=True)),
        _result(scorer.original, (), ()),
        tuple(results),
    )


def _keys(
    engine: Engine, sets: RequestSets, matrices: Sequence[WriteMatrix], progress: Progress
) -> tuple[Calibration, Keys]:
    calibration = calibrate(engine, sets, matrices, progress=progress)
    with calibration.inputs as inputs:
        return calibration, solve(inputs, ridge=_RIDGE, forms=[Form.RIDGE], progress=progress)


def _of_category(prompts: PromptSet, category: str) -> PromptSet:
    members = [prompt for prompt in prompts.prompts if prompt.category == category]
    return PromptSet.of(f"{prompts.name}: {category}", members, prompts.source)


def _measure(
    engine: Engine,
    scorer: FirstTokenScorer,
    edits: Sequence[RankOneEdit],
    strength: float,
    added: tuple[str, ...],
    rest: tuple[float, ...],
) -> DirectionsResult:
    handle = engine.load_edits(edits)
    try:
        return _result(at_equal_divergence(engine, scorer, handle, strength), added, rest)
    finally:
        engine.apply({})
        engine.unload(handle)


def _result(score: FirstTokenScore, added: tuple[str, ...], rest: tuple[float, ...]) -> DirectionsResult:
    return DirectionsResult(added, rest, score.refused[0], score.refused[1], score.refused[2:], score.kl)
