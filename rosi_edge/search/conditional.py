"""The conditional method's search: which direction, which layers, which keys, how strong.

Everything is tried as a run-time adapter; no file is written. A setting is scored from first answer tokens
at two strengths, the second chosen from the divergence that the first one cost. Only the best settings are
asked for real answers.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.calibration import Calibration, read_responses, solve
from rosi_edge.edits.keys import Form
from rosi_edge.edits.profile import Setting
from rosi_edge.evaluation.behaviour import Behaviour, refusal_openings
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.runtime.engine import Engine
from rosi_edge.search.answers import Answers
from rosi_edge.search.candidates import Editable
from rosi_edge.search.constraints import Constraints
from rosi_edge.search.first_token import FirstTokenScorer
from rosi_edge.search.journal import Journal
from rosi_edge.search.options import ConditionalOptions
from rosi_edge.search.questions import Questions
from rosi_edge.search.result import LayerTrial, Point, SearchResult, Tried
from rosi_edge.search.score import SettingScorer
from rosi_edge.search.space import Space
from rosi_edge.search.strength import at_first_strength

_SCORED = (48, 64, 32)
"""Prompts of each set that first tokens are read of."""
_DIRECTIONS_SEARCHED = 3


def search_conditional(
    engine: Engine,
    editable: Editable,
    calibration: Calibration,
    sets: RequestSets,
    judge: Judge,
    options: ConditionalOptions,
    progress: Progress = SILENT,
    tried: Callable[[Tried], None] = lambda point: None,
) -> SearchResult:
    """Find the setting with the most refusal that keeps the constraints. The engine is left without edits.

    Args:
        tried: told of every point as it has been measured.

    Raises:
        RosiEdgeError: what is tried cannot be kept where the options say.
    """
    names = set(calibration.inputs.tensors)
    read = [matrix for matrix in editable.matrices if matrix.name in names]
    questions = Questions(engine, sets, judge, options.max_tokens, progress)
    try:
        return _Search(replace(editable, matrices=read), calibration, questions, options, tried).run()
    finally:
        engine.apply({})


class _Search:
    def __init__(
        self,
        editable: Editable,
        calibration: Calibration,
        questions: Questions,
        options: ConditionalOptions,
        tried: Callable[[Tried], None],
    ) -> None:
        self._editable = editable
        self._calibration = calibration
        self._questions = questions
        self._options = options
        self._tried = tried
        self._progress = questions.progress
        self._space = Space(
            questions.engine.facts.layers,
            benign_sets=len(questions.sets.groups) - 1,
            guarded=calibration.guarded is not None,
        )
        self._deadline = time.monotonic() + options.time_limit if options.time_limit else None

    def run(self) -> SearchResult:
        constraints = Constraints.of(self._questions.of_the_original(), self._options)
        self._progress.note(constraints.describe())
        scorer, start = self._solve_keys(self._first_tokens(constraints.original))
        sweep, directions = self._try_directions(scorer, start)
        points = self._try_settings(scorer, start, directions[:_DIRECTIONS_SEARCHED])
        frontier = Answers(scorer, self._questions, constraints, self._tried).of_best(points)
        return SearchResult(
            original=constraints.original,
            floor=constraints.floor,
            sweep=tuple(sweep),
            frontier=tuple(sorted(frontier, key=lambda point: point.strength)),
            chosen=constraints.choose(frontier),
        )

    def _first_tokens(self, original: Behaviour) -> FirstTokenScorer:
        """How this model's refusals begin is learnt from its answers."""
        judged = [each for each in (original.harmful, original.harmless, original.sounds_harmful) if each]
        system = self._calibration.directions.elicitation
        if system is not None:
            judged.append(self._questions.harmful_under(system))
        groups = self._questions.sets.groups
        scored = [prompts.take(n) for prompts, n in zip(groups, _SCORED, strict=False)]
        return FirstTokenScorer(self._questions.engine, scored, refusal_openings(judged))

    def _solve_keys(self, first_tokens: FirstTokenScorer) -> tuple[SettingScorer, Setting]:
        """Keys twice: first as if edits did not see each other, then asked not to answer each other's effect,
        which is read under the first ones. Also where to start."""
        options, engine, inputs = self._options, self._questions.engine, self._calibration.inputs
        keys = solve(inputs, ridge=options.ridge, forms=[Form.RIDGE], progress=self._progress)
        scorer = SettingScorer(engine, self._editable, keys, first_tokens, options)
        start = self._space.start(self._editable.matrices, self._editable.directions, options.strength or 0.5)
        start = at_first_strength(start, scorer.score, options)
        responses = read_responses(
            engine, self._calibration, scorer.edits(start), start.strength, self._progress
        )
        keys = solve(inputs, ridge=options.ridge, responses=responses, progress=self._progress)
        return replace(scorer, keys=keys), start

    def _try_directions(self, scorer: SettingScorer, start: Setting) -> tuple[list[LayerTrial], list[str]]:
        """Every candidate direction in the same place at the same strength; names, the best first.

        Which is best is decided at each one's own strength, where its divergence is about what is allowed.
        """
        trials = []
        values: dict[str, float] = {}
        before = scorer.first_tokens.original
        with self._progress.stage("Trying directions", len(self._editable.directions)) as advance:
            for candidate in self._editable.directions:
                if values and self._late():
                    break
                points = scorer.score_twice(replace(start, direction=candidate.name))
                values[candidate.name] = max(scorer.value(point.score) for point in points)
                shown = points[0].score
                trials.append(
                    LayerTrial(
                        candidate.layer,
                        start.strength,
                        shown.refused[0] - before.refused[0],
                        shown.refused[1] - before.refused[1],
                        shown.kl,
                        candidate.name,
                    )
                )
                for point in points:
                    strength = f"{candidate.name}, strength {point.setting.strength:.3f}"
                    self._progress.note(f"{strength}: {point.score.describe()}")
                    self._tried(Tried.by_first_tokens(point))
                advance(1)
        return trials, sorted(values, key=lambda name: -values[name])

    def _try_settings(self, scorer: SettingScorer, start: Setting, directions: Sequence[str]) -> list[Point]:
        options = self._options
        journal = Journal(
            self._identity(scorer, directions), options, self._space.starting_points(directions[0])
        )
        with self._progress.stage("Trying settings", options.trials) as advance:
            advance(min(len(journal), options.trials))
            # One setting at least: without any there would be nothing to ask.
            while (done := len(journal)) < options.trials and not (done and self._late()):
                trial = journal.begin()
                points = scorer.score_twice(self._space.suggest(trial, directions, start.strength))
                best = max(points, key=lambda point: scorer.value(point.score))
                journal.finish(trial, points, scorer.value(best.score))
                self._progress.note(f"{best.setting.describe()}: {best.score.describe()}")
                for point in points:
                    self._tried(Tried.by_first_tokens(point))
                advance(1)
        return journal.points

    def _identity(self, scorer: SettingScorer, directions: Sequence[str]) -> dict[str, Any]:
        """Whatever the figures of the trials depend on."""
        calibration, options = self._calibration, self._options
        guarded = [calibration.guarded] if calibration.guarded else []
        vectors = {candidate.name: candidate.vector for candidate in self._editable.directions}
        return {
            "sets": [p.sha256 for p in (*calibration.sets, *self._questions.sets.groups, *guarded)],
            "directions": [hashlib.sha256(vectors[name].tobytes()).hexdigest() for name in directions],
            "options": [options.ridge, options.max_kl, options.strength, options.seed],
            "original": asdict(scorer.first_tokens.original),
        }

    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline
