"""Which layer's direction, and how strong: searched on run-time adapters, never on rewritten files.

First every candidate layer's direction is tried at one strength and scored from the first answer token
alone. Then the strength of the best one is found by bisection, with real answers, for the most refusal that
keeps benign compliance above its floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.difference import Directions
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.evaluation.behaviour import Behaviour, refusal_openings
from rosi_edge.evaluation.divergence import kl_divergence
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.runtime.engine import EditHandle, Engine, Tokens, ask
from rosi_edge.search.constraints import Constraints
from rosi_edge.search.options import SearchOptions
from rosi_edge.search.questions import Questions
from rosi_edge.search.result import AnsweredPoint, LayerTrial, SearchResult
from rosi_edge.search.strength import Bisection, comparable_strength

MakeEdits = Callable[[Float32], Sequence[RankOneEdit]]
"""From a unit direction (hidden,) to edits at strength one."""
_DEEPEST = 0.85
"""Of all layers: beside another search, a layer above is not looked at."""


def search_paper(
    engine: Engine,
    directions: Directions,
    make_edits: MakeEdits,
    sets: RequestSets,
    judge: Judge,
    options: SearchOptions,
    progress: Progress = SILENT,
) -> SearchResult:
    """Find layer and strength on the choosing prompts. The engine is left without edits."""
    # Requests that only sound harmful are reported on, not searched on: they would add a fifth to the time of
    # every point.
    sets = RequestSets(sets.harmful, sets.harmless)
    questions = Questions(engine, sets, judge, options.max_tokens, progress)
    try:
        return _Search(questions, directions, make_edits, options).run()
    finally:
        engine.apply({})


def options_beside(
    options: SearchOptions, directions: Directions, found: SearchResult, max_kl: float
) -> SearchOptions:
    """To look for the best of two strengths at the layer that separates best, under the constraints of
    another search."""
    deepest = _DEEPEST * len(directions.vectors)
    layers = [entry for entry in directions.separation if entry.layer < deepest]
    return replace(
        options,
        layers=(max(layers, key=lambda entry: entry.d_prime).layer,),
        min_compliance=found.floor,
        max_kl=max_kl,
        evaluations=2,
        original=found.original,
    )


class _Search:
    def __init__(
        self, questions: Questions, directions: Directions, make_edits: MakeEdits, options: SearchOptions
    ) -> None:
        self._questions = questions
        self._engine = questions.engine
        self._progress = questions.progress
        self._directions = directions
        self._make_edits = make_edits
        self._options = options

    def run(self) -> SearchResult:
        options = self._options
        self._engine.apply({})
        original = options.original or self._questions.of_the_original()
        constraints = Constraints.of(original, options)
        self._progress.note(constraints.describe())
        layers = options.layers or _candidate_layers(self._engine.facts.layers)
        sweep: list[LayerTrial] = []
        start = options.strength
        if len(layers) > 1 or start is None:
            sweep = self._sweep(layers, original)
            # A step below the strength that the layers were compared at: there compliance had already moved.
            start = start or sweep[0].strength / 2
        layer = self._best_layer(sweep) if len(layers) > 1 else layers[0]
        frontier = self._bisect(layer, start, constraints)
        return SearchResult(
            original=original,
            floor=constraints.floor,
            sweep=tuple(sweep),
            frontier=tuple(sorted(frontier, key=lambda point: point.strength)),
            chosen=constraints.choose(frontier),
        )

    # --- layers ----------------------------------------------------------------------------------------

    def _sweep(self, layers: Sequence[int], original: Behaviour) -> list[LayerTrial]:
        sets = self._questions.sets
        count = self._options.sweep_prompts
        harmful = sets.harmful.take(count).texts
        harmless = sets.harmless.take(count).texts
        prompts = self._engine.encode([ask(text) for text in (*harmful, *harmless)])
        benign = slice(len(harmful), None)
        openings = refusal_openings([original.harmful, original.harmless])
        before = self._engine.next_token_logprobs(prompts)
        trials = []
        strength: float | None = None
        with self._progress.stage("Trying layers", len(layers)) as advance:
            # The middle layer sets the strength at which all are compared.
            for layer in sorted(layers, key=lambda candidate: abs(candidate - layers[len(layers) // 2])):
                handle = self._engine.load_edits(self._make_edits(self._directions.vectors[layer]))
                if strength is None:
                    strength = self._comparable_strength(handle, prompts[benign], before[benign])
                self._engine.apply({handle: strength})
                after = self._engine.next_token_logprobs(prompts)
                self._engine.unload(handle)
                shift = _opening_probability(after, openings) - _opening_probability(before, openings)
                kl = kl_divergence(before[benign], after[benign])
                trials.append(
                    LayerTrial(
                        layer,
                        strength,
                        float(shift[: len(harmful)].mean()),
                        float(shift[benign].mean()),
                        float(kl.mean()),
                    )
                )
                advance(1)
        return sorted(trials, key=lambda trial: trial.layer)

    def _comparable_strength(self, handle: EditHandle, prompts: list[Tokens], before: Float32) -> float:
        """One at which the edit moves harmless predictions by about ``sweep_kl`` nats."""

        def divergence(strength: float) -> float:
            self._engine.apply({handle: strength})
            return float(kl_divergence(before, self._engine.next_token_logprobs(prompts)).mean())

        return comparable_strength(divergence, self._options.sweep_kl)

    def _best_layer(self, sweep: Sequence[LayerTrial]) -> int:
        # A model that never refuses has no openings to score by; then the separation decides.
        d_prime = {entry.layer: entry.d_prime for entry in self._directions.separation}
        return max(sweep, key=lambda trial: (trial.score, d_prime[trial.layer])).layer

    # --- strength --------------------------------------------------------------------------------------

    def _bisect(self, layer: int, start: float, constraints: Constraints) -> list[AnsweredPoint]:
        edits = tuple(self._make_edits(self._directions.vectors[layer]))
        handle = self._engine.load_edits(edits)
        points: list[AnsweredPoint] = []
        bisection = Bisection()
        strength: float | None = start
        for _ in range(1 if self._options.strength is not None else self._options.evaluations):
            if strength is None:
                break
            self._engine.apply({handle: strength})
            title = f"Layer {layer}, strength {strength:.4g}"
            point = AnsweredPoint(layer, strength, self._questions.all(title, constraints.original), edits)
            self._progress.note(f"{point.words}: {point.describe()}")
            points.append(point)
            strength = bisection.after(strength, kept=constraints.keeps_all(point.behaviour))
        self._engine.unload(handle)
        return points


def _candidate_layers(layers: int) -> tuple[int, ...]:
    first, last = layers // 4, max(layers // 4, layers * 7 // 8 - 1)
    step = max(1, -(-(last - first + 1) // 7))
    return tuple(range(first, last + 1, step))


def _opening_probability(logprobs: Float32, openings: Sequence[int]) -> npt.NDArray[np.float64]:
    """Probability of opening with one of ``openings``, (n,); zeros without openings."""
    probability: npt.NDArray[np.float64] = np.exp(logprobs[:, list(openings)], dtype=np.float64).sum(axis=1)
    return probability
