"""The searches of a hardening: which of them, at which directions, under which constraints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rosi_edge.abliteration import Hole, find_holes
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.calibration import Calibration
from rosi_edge.direction.difference import Directions
from rosi_edge.edits.paper import rosi_edits, row_means
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.hardening.events import Events
from rosi_edge.hardening.opened import OpenModel
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.search.candidates import HOLES_TRIED, CandidateDirection, direction_candidates
from rosi_edge.search.conditional import search_conditional
from rosi_edge.search.options import SearchOptions
from rosi_edge.search.paper import search
from rosi_edge.search.result import FrontierPoint, SearchResult

_DEEPEST = 0.85
"""Of all layers: the paper's method is tried below."""


@dataclass(frozen=True)
class Choosing:
    """What all searches on a model have in common."""

    model: OpenModel
    sets: RequestSets
    judge: Judge
    options: HardenOptions
    progress: Progress = SILENT

    def conditional(self, calibration: Calibration, events: Events) -> tuple[SearchResult, list[str]]:
        """The conditional method's search; also sentences about what the weights show."""
        model, options = self.model, self.options.conditional
        holes = [] if options.layer is not None else self._holes()
        found = search_conditional(
            model.engines.original(self.progress),
            model.weights,
            model.matrices,
            calibration,
            [*direction_candidates(calibration, options.layer), *_both_signs(holes)],
            self.sets,
            self.judge,
            options,
            self.progress,
            events,
        )
        return found, [_describe(hole) for hole in holes]

    def paper(self, directions: Directions, options: SearchOptions | None = None) -> SearchResult:
        model = self.model
        means = row_means(model.weights, model.matrices, self.progress)
        return search(
            model.engines.original(self.progress),
            directions,
            lambda direction: rosi_edits(model.weights, model.matrices, means, direction),
            self.sets,
            self.judge,
            options or self.options.search,
            self.progress,
        )

    def paper_beside(self, directions: Directions, found: SearchResult) -> FrontierPoint | None:
        """The best of two strengths of the paper's method, at the layer that separates best, under the
        constraints of another search."""
        deepest = _DEEPEST * len(directions.vectors)
        layers = [entry for entry in directions.separation if entry.layer < deepest]
        options = replace(
            self.options.search,
            layers=(max(layers, key=lambda entry: entry.d_prime).layer,),
            min_compliance=found.floor,
            max_kl=self.options.conditional.max_kl,
            evaluations=2,
            original=found.original,
        )
        return self.paper(directions, options).chosen

    def _holes(self) -> list[Hole]:
        """Directions that the weights avoid: what an ablated model cannot write cannot be measured in its
        activations."""
        found = find_holes(self.model.weights, self.model.matrices, progress=self.progress).holes
        holes = [hole for hole in found if hole.space == "stream"][:HOLES_TRIED]
        for hole in holes:
            self.progress.note(_describe(hole))
        return holes


def _describe(hole: Hole) -> str:
    return (
        f"The weights of layers {hole.layers[0]} to {hole.layers[-1]} avoid one direction (energy ratio "
        f"{hole.energy_ratio:.2f}, confidence {hole.confidence:.3f}): signs of abliteration."
    )


def _both_signs(holes: Sequence[Hole]) -> list[CandidateDirection]:
    """An eigenvector's sign is open, so both are tried."""
    return [
        CandidateDirection(
            f"hole {number} {name}",
            (sign * hole.direction).astype(np.float32),
            hole.layers[len(hole.layers) // 2],
        )
        for number, hole in enumerate(holes, start=1)
        for name, sign in (("+", 1), ("−", -1))
    ]
