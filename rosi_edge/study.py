"""How many calibration prompts are enough: directions and their effect from samples of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rosi_edge.calibration import calibrate, candidate_matrices, solve
from rosi_edge.conditional_search import default_setting, layer_candidates
from rosi_edge.evaluation.behaviour import RequestSets, measure_behaviour, refusal_openings
from rosi_edge.evaluation.statistics import Estimate, mean
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.first_token import FirstTokenScore, FirstTokenScorer
from rosi_edge.injection.conditional import Form
from rosi_edge.injection.profile import conditional_edits
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights
from rosi_edge.progress import SILENT, Progress
from rosi_edge.runtime.engine import Engine, edits_applied

_KL = 0.05
"""Nats at which the effects of samples are compared: each edit gets the strength that costs about this."""
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
    sets: RequestSets,
    choosing: RequestSets,
    judge: Judge,
    *,
    sizes: Sequence[int],
    samples: int = 3,
    seed: int = 0,
    progress: Progress = SILENT,
) -> CalibrationStudy:
    """Draw ``samples`` samples of each size from the calibration prompts and compare what they give.

    The effect is that of the setting a search starts from, scored by first answer tokens at equal divergence.
    """
    candidates = candidate_matrices(matrices, engine.facts.layers)
    original = measure_behaviour(
        engine, choosing, judge, max_tokens=8, progress=progress, title="Original model"
    )
    judged = [j for j in (original.harmful, original.harmless, original.sounds_harmful) if j]
    groups = [judged_set.prompts for judged_set in judged]
    scorer = FirstTokenScorer(engine, groups, refusal_openings(judged))
    results = []
    for size in sizes:
        vectors = []
        scores = []
        layer = 0
        for sample in range(samples):
            drawn = RequestSets(
                sets.harmful.take(size, seed + 1 + sample),
                sets.harmless.take(size, seed + 1 + sample),
                sets.sounds_harmful.take(size, seed + 1 + sample) if sets.sounds_harmful else None,
            )
            calibration = calibrate(engine, drawn, candidates, progress=progress)
            directions = layer_candidates(calibration, None)
            with calibration.inputs as inputs:
                keys = solve(inputs, ridge=_RIDGE, forms=[Form.RIDGE], progress=progress)
            setting = default_setting(
                candidates, engine.facts.layers, directions, benign_sets=len(groups) - 1
            )
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
                samples,
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


def at_equal_divergence(
    engine: Engine, scorer: FirstTokenScorer, handle: int, strength: float
) -> FirstTokenScore:
    """The score of held edits at the strength that costs about ``_KL``; they stay applied."""
    score = scorer.original
    for _ in range(3):
        engine.apply({handle: strength})
        score = scorer.score()
        # The divergence grows about with the square of a small push.
        ratio = _KL / max(score.kl, 1e-6)
        if 0.8 < ratio < 1.25:
            break
        strength *= float(np.clip(np.sqrt(ratio), 0.3, 3.0))
    return score
