"""How many calibration prompts are enough: directions and their effect from samples of several sizes."""

from __future__ import annotations

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
from rosi_edge.search.first_token import FirstTokenScorer
from rosi_edge.search.space import Space
from rosi_edge.study.equal_divergence import at_equal_divergence

_RIDGE = 0.01


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
