"""How many calibration prompts are enough: directions and their effect from samples of several sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.statistics import Estimate, mean
from rosi_edge.direction.calibration import calibrate, candidate_matrices, solve
from rosi_edge.edits.keys import Form
from rosi_edge.edits.profile import conditional_edits
from rosi_edge.errors import PromptSetError
from rosi_edge.evaluation.behaviour import measure_behaviour, refusal_openings
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.prompts.sets import PromptSet
from rosi_edge.runtime.engine import Engine, edits_applied
from rosi_edge.search.candidates import layer_candidates
from rosi_edge.search.first_token import FirstTokenScore, FirstTokenScorer
from rosi_edge.search.space import Space

_KL = 0.05
"""Nats at which the effects of samples are compared: each edit gets the strength that costs about this."""
_RIDGE = 0.01
_TRIES = 6
_LONGEST_STEP = math.log(10)
_SMALLEST_KL = 1e-6


@dataclass(frozen=True)
class SizeResult:
    """What samples of one size gave.

    Attributes:
        size: prompts of each set.
        samples: how many samples were drawn.
        cosine: between the directions of pairs of samples, at the layer the search starts from.
        refused: share of harmful choosing prompts that open with a refusal, one value a sample; benign
            likewise.
        kl: what it cost on harmless prompts, nats.
    """

    size: int
    samples: int
    layer: int
    cosine: Estimate | None
    refused: Estimate
    benign_refused: Estimate
    kl: Estimate


@dataclass(frozen=True)
class CalibrationStudy:
    """Attributes:
    refused, benign_refused: of the original model, by first tokens likewise.
    """

    refused: float
    benign_refused: float
    sizes: tuple[SizeResult, ...]


def study_calibration(
    engine: Engine,
    file: Weights,
    matrices: Sequence[WriteMatrix],
    drawn: Sequence[Sequence[RequestSets]],
    choosing: RequestSets,
    judge: Judge,
    *,
    progress: Progress = SILENT,
) -> CalibrationStudy:
    """Compare what samples of calibration prompts give.

    The effect is that of the setting a search starts from, scored by first answer tokens at equal divergence.

    Args:
        drawn: for each size its samples, as ``disjoint_samples`` gives them.
    """
    candidates = candidate_matrices(matrices, engine.facts.layers)
    original = measure_behaviour(
        engine, choosing, judge, max_tokens=8, progress=progress, title="Original model"
    )
    judged = [j for j in (original.harmful, original.harmless, original.sounds_harmful) if j]
    groups = [judged_set.prompts for judged_set in judged]
    scorer = FirstTokenScorer(engine, groups, refusal_openings(judged))
    results = []
    for samples in drawn:
        size = len(samples[0].harmful)
        vectors = []
        scores = []
        layer = 0
        for sample in samples:
            calibration = calibrate(engine, sample, candidates, progress=progress)
            directions = layer_candidates(calibration, None)
            with calibration.inputs as inputs:
                keys = solve(inputs, ridge=_RIDGE, forms=[Form.RIDGE], progress=progress)
            space = Space(engine.facts.layers, benign_sets=len(groups) - 1)
            setting = space.start(candidates, directions)
            chosen = next(candidate for candidate in directions if candidate.name == setting.direction)
            layer = chosen.layer
            vectors.append(chosen.vector)
            edits = conditional_edits(file, candidates, keys, chosen.vector, setting)
            with edits_applied(engine, edits, setting.strength) as handle:
                scores.append(at_equal_divergence(engine, scorer, handle, setting.strength))
        cosines = [float(a @ b) for a, b in combinations(vectors, 2)]
        results.append(
            SizeResult(
                size,
                len(samples),
                layer,
                mean(cosines) if cosines else None,
                mean([score.refused[0] for score in scores]),
                mean([score.refused[1] for score in scores]),
                mean([score.kl for score in scores]),
            )
        )
        progress.note(
            f"{size} prompts of each: cosine {np.mean(cosines) if cosines else float('nan'):.3f}, "
            f"refused {results[-1].refused.value:.3f}"
        )
    before = scorer.original
    return CalibrationStudy(before.refused[0], before.refused[1], tuple(results))


def disjoint_samples(sets: RequestSets, size: int, samples: int, seed: int) -> list[RequestSets]:
    """So many samples of ``size`` prompts of each set that share no prompt: what they agree on is not that
    they are the same.

    Raises:
        PromptSetError: there are too few prompts.
    """

    def drawn(prompts: PromptSet) -> list[PromptSet]:
        if size * samples > len(prompts):
            raise PromptSetError(
                f"{samples} samples of {size} prompts were asked for, and {prompts.name} has {len(prompts)}",
                f"Ask for sizes of at most {len(prompts) // samples}, or for fewer samples",
            )
        # A smaller draw is part of a larger one: what the larger adds is the next sample.
        nested = [prompts.take(size * number, seed).prompts for number in range(1, samples + 1)]
        return [
            PromptSet.of(prompts.name, [one for one in larger if one not in smaller], prompts.source)
            for smaller, larger in zip([(), *nested], nested, strict=False)
        ]

    harmful, harmless = drawn(sets.harmful), drawn(sets.harmless)
    sounding = drawn(sets.sounds_harmful) if sets.sounds_harmful else [None] * samples
    return [RequestSets(*each) for each in zip(harmful, harmless, sounding, strict=True)]


def _log_divergence(score: FirstTokenScore) -> float:
    return math.log(max(score.kl, _SMALLEST_KL)) if math.isfinite(score.kl) else math.inf


def at_equal_divergence(
    engine: Engine, scorer: FirstTokenScorer, handle: int, strength: float
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
