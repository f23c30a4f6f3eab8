"""The conditional method's search: which direction, which layers, which keys, how strong.

Everything is tried as a run-time adapter; no file is written. A setting is scored from first answer tokens
at two strengths, the second chosen from the divergence that the first one cost. Only the best settings are
asked for real answers.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.calibration import (
    Calibration,
    Keys,
    read_responses,
    solve,
)
from rosi_edge.edits.keys import Form
from rosi_edge.edits.profile import Profile, Setting, conditional_edits
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.evaluation.behaviour import (
    Answered,
    Behaviour,
    Judged,
    ask_group,
    measure_behaviour,
    refusal_openings,
)
from rosi_edge.evaluation.verdicts import Judge, Verdict
from rosi_edge.hardening.events import Events
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.prompts.sets import PromptSet
from rosi_edge.runtime.engine import Engine, edits_applied
from rosi_edge.search.answers import MOST_STRONGER, SCREENED, SHOWN, STRONGER, Climb, as_tried
from rosi_edge.search.candidates import BELOW_GUARDED, CandidateDirection, default_setting
from rosi_edge.search.constraints import SOUNDS_HARMFUL_MARGIN, choose, keeps_constraints
from rosi_edge.search.first_token import FirstTokenScore, FirstTokenScorer
from rosi_edge.search.journal import SEARCH, as_json, done_trials, from_json, next_trial, storage_errors
from rosi_edge.search.options import ConditionalOptions
from rosi_edge.search.result import FrontierPoint, LayerTrial, Point, SearchResult, Tried
from rosi_edge.search.score import BENIGN_PRICE, CAUTION, MOST_DOUBLINGS, SAME_STRENGTH, VISIBLE, Applied

_SCORED = (48, 64, 32)
"""Prompts of each set that first tokens are read of."""
_NAMES = ("harmful", "harmless", "sounding harmful")
_DIRECTIONS_SEARCHED = 3


def search_conditional(
    engine: Engine,
    file: Weights,
    matrices: Sequence[WriteMatrix],
    calibration: Calibration,
    directions: Sequence[CandidateDirection],
    sets: RequestSets,
    judge: Judge,
    options: ConditionalOptions,
    progress: Progress = SILENT,
    events: Events = Events(),  # noqa: B008
) -> SearchResult:
    """Find the setting with the most refusal that keeps the constraints. The engine is left without edits."""
    try:
        return _Search(
            engine, file, matrices, calibration, directions, sets, judge, options, progress, events
        ).run()
    finally:
        engine.apply({})


class _Search:
    def __init__(
        self,
        engine: Engine,
        file: Weights,
        matrices: Sequence[WriteMatrix],
        calibration: Calibration,
        directions: Sequence[CandidateDirection],
        sets: RequestSets,
        judge: Judge,
        options: ConditionalOptions,
        progress: Progress,
        events: Events,
    ) -> None:
        self._events = events
        names = set(calibration.inputs.tensors)
        self._engine = engine
        self._file = file
        self._matrices = [matrix for matrix in matrices if matrix.name in names]
        self._calibration = calibration
        self._directions = {candidate.name: candidate for candidate in directions}
        self._sets = sets
        self._groups = sets.groups
        self._judge = judge
        self._options = options
        self._progress = progress
        self._keys: Keys = {}
        self._deadline = time.monotonic() + options.time_limit if options.time_limit else None

    def run(self) -> SearchResult:
        options = self._options
        self._engine.apply({})
        original = measure_behaviour(
            self._engine,
            self._sets,
            self._judge,
            max_tokens=options.max_tokens,
            keep_logprobs=True,
            progress=self._progress,
            title="Original model on the choosing prompts",
        )
        floor = options.min_compliance
        if floor is None:
            floor = original.compliance.value - options.compliance_margin
        self._progress.note(
            f"original: refusal {original.refusal.value:.3f} (n={original.refusal.n}), "
            f"benign compliance {original.compliance.value:.3f} (n={original.compliance.n}), "
            f"floor {floor:.3f}"
        )
        judged = [j for j in (original.harmful, original.harmless, original.sounds_harmful) if j]
        judged += self._elicited()
        scored = [prompts.take(n) for prompts, n in zip(self._groups, _SCORED, strict=False)]
        self._scorer = FirstTokenScorer(self._engine, scored, refusal_openings(judged))
        start = self._solve_keys()
        sweep, order = self._sweep(start)
        points = self._explore(start, order)
        frontier = self._answer(points, original, floor)
        return SearchResult(
            original=original,
            floor=floor,
            sweep=tuple(sweep),
            frontier=tuple(sorted(frontier, key=lambda point: point.strength)),
            chosen=choose(frontier, original, floor, options),
        )

    def _elicited(self) -> list[Judged]:
        """What harmful prompts get under the system prompt that the directions were taken under: a model that
        hardly refuses otherwise shows there how its refusals begin."""
        system = self._calibration.directions.elicitation
        if system is None:
            return []
        prompts = self._sets.harmful
        with self._progress.stage("Learning how refusals begin", len(prompts)) as advance:
            answered = ask_group(
                self._engine,
                prompts,
                self._judge,
                max_tokens=self._options.max_tokens,
                system=system,
                advance=advance,
            )
        return [answered.judged]

    # --- keys ------------------------------------------------------------------------------------------

    def _default(self) -> Setting:
        return default_setting(
            self._matrices,
            self._engine.facts.layers,
            list(self._directions.values()),
            benign_sets=len(self._groups) - 1,
            guarded=self._calibration.guarded is not None,
            strength=self._options.strength or 0.5,
        )

    def _solve_keys(self) -> Setting:
        """Keys twice: first as if edits did not see each other, then asked not to answer each other's effect,
        which is read under the first ones."""
        options = self._options
        inputs = self._calibration.inputs
        self._keys = solve(inputs, ridge=options.ridge, forms=[Form.RIDGE], progress=self._progress)
        setting = self._default()
        point = self._score(setting)
        # Keys that are silent on benign prompts cost little divergence there, however strong they are in a
        # model with weak refusals. Nothing has been tried before the divergence can be seen.
        for _ in range(MOST_DOUBLINGS):
            following = self._next_strength(point)
            if point.score.kl > VISIBLE or following < 1.99 * setting.strength:
                break
            setting = setting.at(following)
            point = self._score(setting)
        setting = setting.at(self._next_strength(point))
        responses = read_responses(
            self._engine, self._calibration, self._edits(setting), setting.strength, self._progress
        )
        self._keys = solve(inputs, ridge=options.ridge, responses=responses, progress=self._progress)
        return setting

    # --- the cheap score -------------------------------------------------------------------------------

    def _edits(self, setting: Setting) -> tuple[RankOneEdit, ...]:
        vector = self._directions[setting.direction].vector
        return conditional_edits(self._file, self._matrices, self._keys, vector, setting)

    @contextmanager
    def _applied(self, setting: Setting) -> Iterator[Applied]:
        """The setting's edits, active at its strength until the end."""
        edits = self._edits(setting)
        with edits_applied(self._engine, edits, setting.strength) as handle:
            yield Applied(handle, edits)

    def _score(self, setting: Setting) -> Point:
        with self._applied(setting):
            return Point(setting, self._scorer.score())

    def _score_twice(self, setting: Setting) -> list[Point]:
        """At the setting's strength and, unless that is about the same, at the one where the divergence
        should be nine tenths of what is allowed."""
        with self._applied(setting) as applied:
            first = Point(setting, self._scorer.score())
            second = setting.at(self._next_strength(first))
            if abs(second.strength / setting.strength - 1) < SAME_STRENGTH:
                return [first]
            self._engine.apply({applied.handle: second.strength})
            return [first, Point(second, self._scorer.score())]

    def _next_strength(self, point: Point) -> float:
        # The divergence grows about with the square of a small push.
        if self._options.strength:
            return self._options.strength
        ratio = 0.9 * self._options.max_kl / max(point.score.kl, 1e-6)
        return point.setting.strength * float(np.clip(np.sqrt(ratio), 0.4, 2.0))

    def _value(self, score: FirstTokenScore, failures: int = 0) -> float:
        """Refusals gained, less what breaks a constraint.

        Args:
            failures: points whose real answers broke a constraint although their first tokens looked well:
                each is a reason to want fewer benign refusals in what is asked next.
        """
        before = self._scorer.original
        wanted = before.refused[1] - CAUTION
        value = score.refused[0] - BENIGN_PRICE * (failures + 1) * max(0.0, score.refused[1] - wanted)
        for share, original in zip(score.refused[2:], before.refused[2:], strict=True):
            value -= max(0.0, share - original - SOUNDS_HARMFUL_MARGIN)
        return value - 0.5 * max(0.0, score.kl / self._options.max_kl - 1.0)

    def _sweep(self, start: Setting) -> tuple[list[LayerTrial], list[str]]:
        """Every candidate direction in the same place at the same strength; names, the best first.

        Which is best is decided at each one's own strength, where its divergence is about what is allowed.
        """
        trials = []
        values: dict[str, float] = {}
        before = self._scorer.original
        with self._progress.stage("Trying directions", len(self._directions)) as advance:
            for candidate in self._directions.values():
                if values and self._late():
                    break
                points = self._score_twice(replace(start, direction=candidate.name))
                values[candidate.name] = max(self._value(point.score) for point in points)
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
                    self._progress.note(
                        f"{candidate.name}, strength {point.setting.strength:.3f}: "
                        f"{point.score.describe(self._names)}"
                    )
                    self._tell(point)
                advance(1)
        return trials, sorted(values, key=lambda name: -values[name])

    @property
    def _names(self) -> tuple[str, ...]:
        return _NAMES[: len(self._groups)]

    def _explore(self, start: Setting, order: Sequence[str]) -> list[Point]:
        options = self._options
        directions = list(order[:_DIRECTIONS_SEARCHED])
        study = self._study(directions)
        if not study.trials:
            for parameters in self._starting_points(directions[0]):
                study.enqueue_trial(parameters)
        with self._progress.stage("Trying settings", options.trials) as advance:
            advance(min(len(done_trials(study)), options.trials))
            # One setting at least: without any there would be nothing to ask.
            while (done := len(done_trials(study))) < options.trials and not (done and self._late()):
                # A sampler of its own for every trial: an interrupted search goes on as if it had not been.
                study.sampler = optuna.samplers.TPESampler(
                    seed=options.seed * 10_007 + len(study.trials), n_startup_trials=6, multivariate=True
                )
                trial = next_trial(study)
                points = self._score_twice(self._suggest(trial, directions, start.strength))
                best = max(points, key=lambda point: self._value(point.score))
                # Optuna may hand a waiting starting point to two processes: the first to finish it is kept.
                with suppress(UpdateFinishedTrialError):
                    trial.set_user_attr("points", [as_json(point) for point in points])
                    study.tell(trial, self._value(best.score), skip_if_finished=True)
                self._progress.note(f"{best.setting.describe()}: {best.score.describe(self._names)}")
                for point in points:
                    self._tell(point)
                advance(1)
        return [from_json(point) for trial in done_trials(study) for point in trial.user_attrs["points"]]

    def _tell(self, point: Point) -> None:
        setting, score = point.setting, point.score
        layer = self._directions[setting.direction].layer
        self._events.tried(
            Tried(
                setting.describe(),
                layer,
                setting.strength,
                score.refused[0],
                1 - score.refused[1],
                score.kl,
                answered=False,
            )
        )

    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _study(self, directions: Sequence[str]) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        options = self._options
        # Whatever the trials' figures depend on: another model or other prompts are another study.
        identity = {
            "search": SEARCH,
            "sets": [prompts.sha256 for prompts in self._scored_prompts()],
            "directions": [
                hashlib.sha256(self._directions[name].vector.tobytes()).hexdigest() for name in directions
            ],
            "options": [options.ridge, options.max_kl, options.strength, options.seed],
            "original": asdict(self._scorer.original),
        }
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        with storage_errors(options.storage, options.folder):
            storage: Any = options.storage
            if storage is None and options.folder is not None:
                options.folder.mkdir(parents=True, exist_ok=True)
                storage = JournalStorage(JournalFileBackend(str(options.folder / f"{name}.journal")))
            return optuna.create_study(
                study_name=name, storage=storage, direction="maximize", load_if_exists=True
            )

    def _scored_prompts(self) -> list[PromptSet]:
        """The prompts that the cheap score depends on, through the keys or itself."""
        guarded = self._calibration.guarded
        return [*self._calibration.sets, *self._groups, *([guarded] if guarded else [])]

    def _starting_points(self, direction: str) -> list[dict[str, Any]]:
        point = {"direction": direction, "form": str(Form.RIDGE), "center": 0.65, "width": 0.16}
        point |= {"shift": 0.0, "mlp width": 0.16, "mlp": 1.0, "below": 0.25, "below others": 0.1}
        if self._calibration.guarded is not None:
            point["below guarded"] = BELOW_GUARDED
        # Benign requests that only sound harmful are the hard ones: pushed down further than the plain ones,
        # they take many of these along.
        hard = {"below": 0.25, "below others": 0.4}
        attention = {"center": 0.67, "width": 0.17, "mlp width": 0.18, "mlp": 0.35}
        return [
            point,
            point | attention | hard | {"form": str(Form.DISCRIMINANT)},
            point | {"form": str(Form.NULL_SPACE), "below": 0.45, "below others": 0.4},
            point | attention | hard | {"below": 0.4},
            point | hard | {"form": str(Form.DISCRIMINANT), "center": 0.7, "width": 0.2, "mlp width": 0.2},
        ]

    def _suggest(self, trial: optuna.Trial, directions: Sequence[str], strength: float) -> Setting:
        """Depths are suggested as shares, so that one space fits every model."""
        layers = self._engine.facts.layers
        center = trial.suggest_float("center", 0.5, 0.82)
        shift = trial.suggest_float("shift", -0.1, 0.1)
        return Setting(
            direction=str(trial.suggest_categorical("direction", list(directions))),
            form=Form(str(trial.suggest_categorical("form", [str(form) for form in Form]))),
            attention=Profile(center * layers, trial.suggest_float("width", 0.05, 0.25) * layers),
            mlp=Profile(
                (center + shift) * layers,
                trial.suggest_float("mlp width", 0.05, 0.25) * layers,
                trial.suggest_float("mlp", 0.3, 1.7),
            ),
            below=self._suggest_below(trial),
            strength=strength,
        )

    def _suggest_below(self, trial: optuna.Trial) -> tuple[float, ...]:
        benign = (trial.suggest_float("below", 0.0, 0.7), trial.suggest_float("below others", 0.0, 0.5))
        below = benign[: len(self._groups) - 1]
        if self._calibration.guarded is None:
            return below
        return (*below, trial.suggest_float("below guarded", -0.6, 0.0))

    # --- real answers ----------------------------------------------------------------------------------

    def _answer(self, points: Sequence[Point], original: Behaviour, floor: float) -> list[FrontierPoint]:
        """Real answers of the most promising points.

        The harmless prompts are asked first: a point that breaks the floor of benign compliance is dropped
        there, one that breaks nothing but the limit of the divergence is asked again weaker. One that keeps
        all constraints is asked again stronger, and if that was too much, halfway back. When none keeps the
        floor, those that come closest are asked the rest, so that there is something to show.
        """
        options = self._options
        left = list(points)
        frontier: list[FrontierPoint] = []
        closest: list[tuple[Setting, Answered]] = []
        failures = 0
        again: Setting | None = None
        climb = Climb()
        for _ in range(options.answered * SCREENED):
            if len(frontier) == options.answered or (again is None and not left):
                break
            if again is None:
                best = max(left, key=lambda point: self._value(point.score, failures))
                left.remove(best)
                again, climb = best.setting, Climb()
            setting, again = again, None
            with self._applied(setting) as applied:
                harmless = self._ask_harmless(original)
                compliance = harmless.judged.share(Verdict.COMPLIED)
                if compliance.value < floor - 1e-12 and not options.strength:
                    failures += 1
                    closest.append((setting, harmless))
                    # No more than will be shown: the log-probabilities are large.
                    closest.sort(key=lambda pair: -pair[1].judged.share(Verdict.COMPLIED).value)
                    del closest[SHOWN:]
                    again = climb.after_breaking(setting)
                    self._progress.note(
                        f"{setting.describe()}: benign compliance {compliance.value:.3f}, under the floor"
                    )
                    continue
                weaker = self._weaker(setting, harmless)
                if weaker is not None and not options.strength:
                    again = weaker
                    continue
                frontier.append(self._ask(setting, applied.edits, original, harmless))
            if options.strength:
                break
            if keeps_constraints(frontier[-1], original, floor, options.max_kl):
                again = climb.after_keeping(setting, self._step(harmless))
            else:
                again = climb.after_breaking(setting)
        if not any(keeps_constraints(point, original, floor, np.inf) for point in frontier):
            for setting, harmless in closest[: max(0, SHOWN - len(frontier))]:
                with self._applied(setting) as applied:
                    frontier.append(self._ask(setting, applied.edits, original, harmless))
        return frontier

    def _weaker(self, setting: Setting, harmless: Answered) -> Setting | None:
        """The setting at the strength whose divergence is allowed; None when it is already. The divergence
        grows about with the square of the strength."""
        if harmless.kl is None or harmless.kl.value <= self._options.max_kl:
            return None
        return setting.at(setting.strength * float(np.sqrt(0.93 * self._options.max_kl / harmless.kl.value)))

    def _step(self, harmless: Answered) -> float:
        """By how much a strength that keeps all constraints may be multiplied: half the way (in the
        logarithm) to the divergence that is allowed, but no less than a small step where that is allowed."""
        if harmless.kl is None:
            return STRONGER
        allowed = float(np.sqrt(0.97 * self._options.max_kl / max(harmless.kl.value, 1e-9)))
        return min(max(STRONGER, float(np.sqrt(allowed))), allowed, MOST_STRONGER)

    def _ask_harmless(self, original: Behaviour) -> Answered:
        """Of the edits applied now."""
        prompts = self._sets.harmless
        with self._progress.stage("Asking a candidate what is harmless", len(prompts)) as advance:
            return ask_group(
                self._engine,
                prompts,
                self._judge,
                max_tokens=self._options.max_tokens,
                reference=original.first_logprobs,
                with_logprobs=True,
                advance=advance,
            )

    def _ask(
        self, setting: Setting, edits: tuple[RankOneEdit, ...], original: Behaviour, harmless: Answered
    ) -> FrontierPoint:
        """The rest of the prompts, of the setting's edits, which are applied now."""
        behaviour = measure_behaviour(
            self._engine,
            self._sets,
            self._judge,
            max_tokens=self._options.max_tokens,
            reference=original.first_logprobs,
            keep_logprobs=True,
            harmless=harmless,
            progress=self._progress,
            title="Asking a candidate",
        )
        layer = self._directions[setting.direction].layer
        point = FrontierPoint(layer, setting.strength, behaviour, edits, setting.describe())
        self._progress.note(f"{setting.describe()}: {point.describe()}")
        self._events.tried(as_tried(point))
        return point
