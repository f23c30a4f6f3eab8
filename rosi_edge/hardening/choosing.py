"""The searches of a hardening: which of them, at which directions, under which constraints."""

from __future__ import annotations

from dataclasses import dataclass

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.calibration import Calibration
from rosi_edge.direction.difference import Directions
from rosi_edge.edits.paper import rosi_edits, row_means
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.hardening.events import Events
from rosi_edge.hardening.opened import OpenModel
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.search.candidates import (
    CandidateDirection,
    Editable,
    direction_candidates,
    hole_candidates,
)
from rosi_edge.search.conditional import search_conditional
from rosi_edge.search.options import SearchOptions
from rosi_edge.search.paper import options_beside, search_paper
from rosi_edge.search.result import AnsweredPoint, SearchResult


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
        holes, about_holes = list[CandidateDirection](), list[str]()
        if options.layer is None:
            holes, about_holes = hole_candidates(model.weights, model.matrices, self.progress)
        directions = [*direction_candidates(calibration, options.layer), *holes]
        found = search_conditional(
            model.engines.original(self.progress),
            Editable(model.weights, model.matrices, directions),
            calibration,
            self.sets,
            self.judge,
            options,
            self.progress,
            events.tried,
        )
        return found, about_holes

    def paper(self, directions: Directions, options: SearchOptions | None = None) -> SearchResult:
        model = self.model
        means = row_means(model.weights, model.matrices, self.progress)
        return search_paper(
            model.engines.original(self.progress),
            directions,
            lambda direction: rosi_edits(model.weights, model.matrices, means, direction),
            self.sets,
            self.judge,
            options or self.options.search,
            self.progress,
        )

    def paper_beside(self, directions: Directions, found: SearchResult) -> AnsweredPoint | None:
        """The best point of the paper's method under the constraints of another search."""
        limit = self.options.conditional.max_kl
        return self.paper(directions, options_beside(self.options.search, directions, found, limit)).chosen
