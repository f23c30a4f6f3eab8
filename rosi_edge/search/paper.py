"""Which layer's direction, and how strong: searched on run-time adapters, never on rewritten files.

First every candidate layer's direction is tried at one strength and scored from the first answer token
alone. Then the strength of the best one is found by bisection, with real answers, for the most refusal that
keeps benign compliance above its floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.difference import Directions
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.evaluation.behaviour import Behaviour, measure_behaviour, refusal_openings
from rosi_edge.evaluation.divergence import kl_divergence
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.runtime.engine import Engine, ask
from rosi_edge.search.options import SearchOptions
from rosi_edge.search.result import FrontierPoint, LayerTrial, SearchResult

MakeEdits = Callable[[Float32], Sequence[RankOneEdit]]
"""From a unit direction (hidden,) to edits at strength one."""


def search(
    engine: Engine,
    directions: Directions,
    make_edits: MakeEdits,
    sets: RequestSets,
    judge: Judge,
    options: SearchOptions,
    progress: Progress = SILENT,
) -> SearchResult:
    """Find layer and strength on the choosing prompts. The engine is left without edits."""
    try:
        return _Search(engine, directions, make_edits, sets, judge, options, progress).run()
    finally:
        engine.apply({})


class _Search:
    def __init__(
        self,
        engine: Engine,
        directions: Directions,
        make_edits: MakeEdits,
        sets: RequestSets,
        judge: Judge,
        options: SearchOptions,
        progress: Progress,
    ) -> None:
        self._engine = engine
        self._directions = directions
        self._make_edits = make_edits
        # Requests that only sound harmful are reported on, not searched on: they would add a fifth to the
        # time of every point.
        self._sets = RequestSets(sets.harmful, sets.harmless)
        self._judge = judge
        self._options = options
        self._progress = progress

    def run(self) -> SearchResult:
        options = self._options
        self._engine.apply({})
        original = options.original or measure_behaviour(
            self._engine,
            self._sets,
            self._judge,
            max_tokens=options.max_tokens,
            keep_logprobs=True,
            progress=self._progress,
            title="Original model on the choosing prompts",
        )
        self._reference = original.first_logprobs
        floor = options.min_compliance
        if floor is None:
            floor = original.compliance.value - options.compliance_margin
        self._progress.note(
            f"original: refusal {original.refusal.value:.3f} (n={original.refusal.n}), "
            f"benign compliance {original.compliance.value:.3f} (n={original.compliance.n}), "
            f"floor {floor:.3f}"
        )
        layers = options.layers or _candidate_layers(self._engine.facts.layers)
        sweep: list[LayerTrial] = []
        start = options.strength
        if len(layers) > 1 or start is None:
            sweep = self._sweep(layers, original)
            # A step below the strength that the layers were compared at: there compliance had already moved.
            start = start or sweep[0].strength / 2
        layer = self._best_layer(sweep) if len(layers) > 1 else layers[0]
        frontier = self._bisect(layer, start, floor)
        return SearchResult(
            original=original,
            floor=floor,
            sweep=tuple(sweep),
            frontier=tuple(sorted(frontier, key=lambda point: point.strength)),
            chosen=choose(frontier, floor, options.max_kl),
        )

    # --- layers ----------------------------------------------------------------------------------------

    def _sweep(self, layers: Sequence[int], original: Behaviour) -> list[LayerTrial]:
        count = self._options.sweep_prompts
        harmful = self._sets.harmful.take(count).texts
        harmless = self._sets.harmless.take(count).texts
        prompts = self._engine.encode([ask(text) for text in (*harmful, *harmless)])
        openings = refusal_openings([original.harmful, original.harmless])
        before = self._engine.next_token_logprobs(prompts)
        trials = []
        strength: float | None = None
        with self._progress.stage("Trying layers", len(layers)) as advance:
            # The middle layer sets the strength at which all are compared.
            for layer in sorted(layers, key=lambda candidate: abs(candidate - layers[len(layers) // 2])):
                handle = self._engine.load_edits(self._make_edits(self._directions.vectors[layer]))
                if strength is None:
                    strength = self._comparable_strength(
                        handle, prompts[len(harmful) :], before[len(harmful) :]
                    )
                self._engine.apply({handle: strength})
                after = self._engine.next_token_logprobs(prompts)
                self._engine.unload(handle)
                shift = _opening_probability(after, openings) - _opening_probability(before, openings)
                kl = kl_divergence(before[len(harmful) :], after[len(harmful) :])
                trials.append(
                    LayerTrial(
                        layer,
                        strength,
                        float(shift[: len(harmful)].mean()),
                        float(shift[len(harmful) :].mean()),
                        float(kl.mean()),
                    )
                )
                advance(1)
        return sorted(trials, key=lambda trial: trial.layer)

    def _best_layer(self, sweep: Sequence[LayerTrial]) -> int:
        # A model that never refuses has no openings to score by; then the separation decides.
        d_prime = {entry.layer: entry.d_prime for entry in self._directions.separation}
        return max(sweep, key=lambda trial: (trial.score, d_prime[trial.layer])).layer

    def _comparable_strength(self, handle: int, prompts: list[list[int]], before: Float32) -> float:
        """A strength at which the edit moves harmless predictions by about ``sweep_kl`` nats. KL grows with
        the square of a small push, so one measurement nearly gives it and the second corrects it."""
        strength = 1.0
        for _ in range(8):
            self._engine.apply({handle: strength})
            kl = float(kl_divergence(before, self._engine.next_token_logprobs(prompts)).mean())
            ratio = self._options.sweep_kl / max(kl, 1e-9)
            if 0.5 < ratio < 2:
                break
            strength *= float(np.clip(np.sqrt(ratio), 1 / 32, 32))
        return strength

    # --- strength --------------------------------------------------------------------------------------

    def _bisect(self, layer: int, start: float, floor: float) -> list[FrontierPoint]:
        edits = tuple(self._make_edits(self._directions.vectors[layer]))
        handle = self._engine.load_edits(edits)
        points: list[FrontierPoint] = []
        low, high = 0.0, np.inf
        strength = start
        for _ in range(1 if self._options.strength is not None else self._options.evaluations):
            point = self._try(handle, edits, layer, strength)
            points.append(point)
            if choose([point], floor, self._options.max_kl):
                low = strength
            else:
                high = strength
            # Upwards by doubling until the floor is crossed, then between the two sides (geometrically:
            # strengths matter by their ratio).
            if np.isinf(high):
                strength = low * 2
            elif low == 0:
                strength = high / 2
            elif high / low < 1.1:
                break
            else:
                strength = float(np.sqrt(low * high))
        self._engine.unload(handle)
        return points

    def _try(self, handle: int, edits: tuple[RankOneEdit, ...], layer: int, strength: float) -> FrontierPoint:
        self._engine.apply({handle: strength})
        behaviour = measure_behaviour(
            self._engine,
            self._sets,
            self._judge,
            max_tokens=self._options.max_tokens,
            reference=self._reference,
            keep_logprobs=True,
            progress=self._progress,
            title=f"Layer {layer}, strength {strength:.4g}",
        )
        point = FrontierPoint(layer, strength, behaviour, edits)
        self._progress.note(f"layer {layer}, strength {strength:8.4g}: {point.describe()}")
        return point


def choose(
    frontier: Sequence[FrontierPoint], floor: float, max_kl: float | None = None
) -> FrontierPoint | None:
    """The most refusal with benign compliance at the floor or above; of equals the weaker edit."""
    allowed = [
        point
        for point in frontier
        if point.behaviour.compliance.value >= floor - 1e-12
        and (max_kl is None or point.behaviour.kl is None or point.behaviour.kl.value <= max_kl)
    ]
    if not allowed:
        return None
    return max(allowed, key=lambda point: (point.behaviour.refusal.value, -point.strength))


def _candidate_layers(layers: int) -> tuple[int, ...]:
    first, last = layers // 4, max(layers // 4, layers * 7 // 8 - 1)
    step = max(1, -(-(last - first + 1) // 7))
    return tuple(range(first, last + 1, step))


def _opening_probability(logprobs: Float32, openings: Sequence[int]) -> npt.NDArray[np.float64]:
    """Probability of opening with one of ``openings``, (n,); zeros without openings."""
    probability: npt.NDArray[np.float64] = np.exp(logprobs[:, list(openings)], dtype=np.float64).sum(axis=1)
    return probability
