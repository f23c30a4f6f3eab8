"""The conditional method's search: which direction, which layers, which keys, how strong.

Everything is tried as a run-time adapter; no file is written. A setting is scored from first answer tokens
at two strengths, the second chosen from the divergence that the first one cost. Only the best settings are
asked for real answers.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from rosi_edge.calibration import Calibration, Keys, read_responses, solve
from rosi_edge.direction import EACH_LAYERS_OWN
from rosi_edge.errors import RosiEdgeError
from rosi_edge.evaluation.behaviour import (
    MOST_GUARDED_LOSS,
    Answered,
    Behaviour,
    Judged,
    RequestSets,
    ask_group,
    measure_behaviour,
    refusal_openings,
)
from rosi_edge.evaluation.statistics import Estimate
from rosi_edge.evaluation.verdicts import Judge, Verdict
from rosi_edge.events import Events, Tried
from rosi_edge.first_token import FirstTokenScore, FirstTokenScorer
from rosi_edge.injection.conditional import Form
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.injection.profile import Profile, Setting, conditional_edits
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights
from rosi_edge.progress import SILENT, Progress
from rosi_edge.prompts import PromptSet
from rosi_edge.runtime.engine import EditHandle, Engine, edits_applied
from rosi_edge.search import FrontierPoint, LayerTrial, SearchResult

Float32 = npt.NDArray[np.float32]

_SCORED = (48, 64, 32)
"""Prompts of each set that first tokens are read of."""
_NAMES = ("harmful", "harmless", "sounding harmful")
_SOUNDS_HARMFUL_MARGIN = 0.03
_DIRECTIONS_SEARCHED = 3
_MIDDLE = 0.63
"""Depth at which directions and edits usually do most."""
_CAUTION = 0.015
"""Share of first tokens by which benign refusals should fall for real answers to keep their compliance."""
_BENIGN_PRICE = 6.0
"""Share of harmful refusals that a share of benign ones is worth, beyond what is allowed. High, because the
floor of benign compliance is a constraint: what breaks it is not taken, however much it refuses."""
_SCREENED = 3
"""Points asked the harmless prompts for each that may be asked everything."""
_SHOWN = 2
"""Points asked everything even when all break the floor."""
_BELOW_GUARDED = -0.2
"""β of guarded requests: they are pushed a little along. Pushed away as benign ones are, or not at all, they
were refused less often on the demo model: a direction of declining shares something with that of refusal."""
_SAME_STRENGTH = 0.08
"""Strengths that differ by a smaller share are not worth another score."""
_MOST_DOUBLINGS = 6
_VISIBLE = 0.025
"""Nats of divergence from which on a strength is one to start from, however much more is allowed."""
_SEARCH = 3
"""Raised when a search tries other settings or strengths, or keeps them in another form: it does not go on in
an older one's journal."""
_STRONGER = 1.12
"""Next strength to ask for real answers, after one that kept the constraints with little divergence left."""
_MOST_STRONGER = 2.0
_LEAST_STEP = 1.03


@dataclass(frozen=True)
class ConditionalOptions:
    """How hard to look.

    Attributes:
        compliance_margin: how far benign compliance may fall under the original's, as a share.
        min_compliance: an absolute floor instead of the margin.
        max_kl: highest mean KL divergence of the first answer token on harmless prompts, nats.
        ridge: regularisation of the keys.
        trials: settings tried by the cheap score, at two strengths each.
        time_limit: seconds after which no further direction or setting is tried; the first of each always is.
        answered: points of the frontier that are asked for real answers.
        max_tokens: length of these answers.
        layer: a fixed layer of the direction.
        strength: a fixed strength.
        storage: an Optuna storage URL that several processes share; None for a journal in ``folder``.
        folder: where journals are kept, so that an interrupted search goes on; None to keep nothing.
    """

    compliance_margin: float = 0.01
    min_compliance: float | None = None
    max_kl: float = 0.10
    ridge: float = 0.01
    trials: int = 10
    time_limit: float | None = None
    answered: int = 4
    max_tokens: int = 16
    layer: int | None = None
    strength: float | None = None
    storage: str | None = None
    folder: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class CandidateDirection:
    """A direction that the search may take.

    Attributes:
        vector: unit vector, (hidden,), or one a layer, (layers, hidden).
        layer: the block it was taken after; a middle one for one found in the weights, or one a layer.
    """

    name: str
    vector: Float32
    layer: int


@dataclass(frozen=True)
class _Point:
    """A setting at one strength, and its cheap score."""

    setting: Setting
    score: FirstTokenScore


@dataclass
class _Climb:
    """One setting asked at growing strengths until it breaks a constraint, then in between.

    Attributes:
        kept: the highest strength that kept all constraints; 0 before any did.
        step: by how much that one may be multiplied.
        broke: the lowest strength above it that broke one.
    """

    kept: float = 0.0
    step: float = 1.0
    broke: float = float("inf")

    def after_keeping(self, setting: Setting, step: float) -> Setting | None:
        """The next one to ask; None when there is none worth asking."""
        self.kept, self.step = setting.strength, step
        return self._next(setting)

    def after_breaking(self, setting: Setting) -> Setting | None:
        """As ``after_keeping``; None when no strength has kept the constraints."""
        self.broke = setting.strength
        return self._next(setting)

    def _next(self, setting: Setting) -> Setting | None:
        if not self.kept or self.step <= _LEAST_STEP or self.broke <= self.kept * _STRONGER * (1 + 1e-6):
            return None
        return setting.at(self.kept * min(self.step, float(np.sqrt(self.broke / self.kept))))


@dataclass(frozen=True)
class _Applied:
    """Edits that the engine has active, and what it calls them."""

    handle: EditHandle
    edits: tuple[RankOneEdit, ...]


def layer_candidates(calibration: Calibration, layer: int | None) -> list[CandidateDirection]:
    """The directions of the layers worth trying: the given one, or about ten of the middle and upper ones."""
    vectors = calibration.directions.vectors
    layers = len(vectors)
    chosen = [layer] if layer is not None else range(int(0.4 * layers), int(0.85 * layers) + 1, 1)
    step = max(1, -(-len(chosen) // 10))
    return [CandidateDirection(f"layer {number}", vectors[number], number) for number in chosen[::step]]


def direction_candidates(calibration: Calibration, layer: int | None) -> list[CandidateDirection]:
    """The measured directions that a search tries: those of ``layer_candidates``, and unless a layer is given
    each layer's own in its place."""
    single = layer_candidates(calibration, layer)
    if layer is not None:
        return single
    vectors = calibration.directions.vectors
    return [*single, CandidateDirection(EACH_LAYERS_OWN, vectors, int(_MIDDLE * len(vectors)))]


def default_setting(
    matrices: Sequence[WriteMatrix],
    layers: int,
    directions: Sequence[CandidateDirection],
    *,
    benign_sets: int,
    guarded: bool = False,
    strength: float = 0.5,
) -> Setting:
    """Where a search starts: a plateau over the upper middle of the model.

    Args:
        matrices: those that may be edited.
        layers: of the model.
        benign_sets: how many sets of benign inputs the keys were solved with.
        guarded: whether they were solved with guarded ones besides.
    """
    center = float(np.clip(0.65 * layers, matrices[0].block, matrices[-1].block))
    plateau = Profile(center, max(0.16 * layers, 0.5))
    middle = min(directions, key=lambda candidate: abs(candidate.layer - _MIDDLE * layers))
    below = (*(0.25, 0.1)[:benign_sets], *([_BELOW_GUARDED] if guarded else []))
    return Setting(middle.name, Form.RIDGE, plateau, plateau, below=below, strength=strength)


def check_storage(url: str) -> None:
    """Open a storage once, long before the search gets to it.

    Raises:
        RosiEdgeError: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _storage_errors(url, None):
        optuna.storages.get_storage(url)


def shown_storage(url: str) -> str:
    """The address of a storage as it may be shown: without its password.

    Raises:
        RosiEdgeError: it is no address.
    """
    with _storage_errors(url, None):
        return make_url(url).render_as_string(hide_password=True)


@contextmanager
def _storage_errors(url: str | None, folder: Path | None) -> Iterator[None]:
    try:
        yield
    except (ValueError, ImportError, OSError, OptunaError, SQLAlchemyError) as error:
        # The address is left out: it may hold a password.
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        if url is None:
            raise RosiEdgeError(
                f"the search cannot keep what it tries in {folder}: {reason}",
                "Make that folder writable, or name another one with ROSI_EDGE_CACHE",
            ) from error
        raise RosiEdgeError(
            f"the storage given with --storage cannot be used: {reason}",
            "Give an Optuna storage URL, such as sqlite:///search.db",
        ) from error


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
        for _ in range(_MOST_DOUBLINGS):
            following = self._next_strength(point)
            if point.score.kl > _VISIBLE or following < 1.99 * setting.strength:
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
    def _applied(self, setting: Setting) -> Iterator[_Applied]:
        """The setting's edits, active at its strength until the end."""
        edits = self._edits(setting)
        with edits_applied(self._engine, edits, setting.strength) as handle:
            yield _Applied(handle, edits)

    def _score(self, setting: Setting) -> _Point:
        with self._applied(setting):
            return _Point(setting, self._scorer.score())

    def _score_twice(self, setting: Setting) -> list[_Point]:
        """At the setting's strength and, unless that is about the same, at the one where the divergence
        should be nine tenths of what is allowed."""
        with self._applied(setting) as applied:
            first = _Point(setting, self._scorer.score())
            second = setting.at(self._next_strength(first))
            if abs(second.strength / setting.strength - 1) < _SAME_STRENGTH:
                return [first]
            self._engine.apply({applied.handle: second.strength})
            return [first, _Point(second, self._scorer.score())]

    def _next_strength(self, point: _Point) -> float:
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
        wanted = before.refused[1] - _CAUTION
        value = score.refused[0] - _BENIGN_PRICE * (failures + 1) * max(0.0, score.refused[1] - wanted)
        for share, original in zip(score.refused[2:], before.refused[2:], strict=True):
            value -= max(0.0, share - original - _SOUNDS_HARMFUL_MARGIN)
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

    def _explore(self, start: Setting, order: Sequence[str]) -> list[_Point]:
        options = self._options
        directions = list(order[:_DIRECTIONS_SEARCHED])
        study = self._study(directions)
        if not study.trials:
            for parameters in self._starting_points(directions[0]):
                study.enqueue_trial(parameters)
        with self._progress.stage("Trying settings", options.trials) as advance:
            advance(min(len(_done(study)), options.trials))
            # One setting at least: without any there would be nothing to ask.
            while (done := len(_done(study))) < options.trials and not (done and self._late()):
                # A sampler of its own for every trial: an interrupted search goes on as if it had not been.
                study.sampler = optuna.samplers.TPESampler(
                    seed=options.seed * 10_007 + len(study.trials), n_startup_trials=6, multivariate=True
                )
                trial = _ask(study)
                points = self._score_twice(self._suggest(trial, directions, start.strength))
                best = max(points, key=lambda point: self._value(point.score))
                # Optuna may hand a waiting starting point to two processes: the first to finish it is kept.
                with suppress(UpdateFinishedTrialError):
                    trial.set_user_attr("points", [_as_json(point) for point in points])
                    study.tell(trial, self._value(best.score), skip_if_finished=True)
                self._progress.note(f"{best.setting.describe()}: {best.score.describe(self._names)}")
                for point in points:
                    self._tell(point)
                advance(1)
        return [_from_json(point) for trial in _done(study) for point in trial.user_attrs["points"]]

    def _tell(self, point: _Point) -> None:
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
            "search": _SEARCH,
            "sets": [prompts.sha256 for prompts in self._scored_prompts()],
            "directions": [
                hashlib.sha256(self._directions[name].vector.tobytes()).hexdigest() for name in directions
            ],
            "options": [options.ridge, options.max_kl, options.strength, options.seed],
            "original": asdict(self._scorer.original),
        }
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        with _storage_errors(options.storage, options.folder):
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
            point["below guarded"] = _BELOW_GUARDED
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

    def _answer(self, points: Sequence[_Point], original: Behaviour, floor: float) -> list[FrontierPoint]:
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
        climb = _Climb()
        for _ in range(options.answered * _SCREENED):
            if len(frontier) == options.answered or (again is None and not left):
                break
            if again is None:
                best = max(left, key=lambda point: self._value(point.score, failures))
                left.remove(best)
                again, climb = best.setting, _Climb()
            setting, again = again, None
            with self._applied(setting) as applied:
                harmless = self._ask_harmless(original)
                compliance = harmless.judged.share(Verdict.COMPLIED)
                if compliance.value < floor - 1e-12 and not options.strength:
                    failures += 1
                    closest.append((setting, harmless))
                    # No more than will be shown: the log-probabilities are large.
                    closest.sort(key=lambda pair: -pair[1].judged.share(Verdict.COMPLIED).value)
                    del closest[_SHOWN:]
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
            for setting, harmless in closest[: max(0, _SHOWN - len(frontier))]:
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
            return _STRONGER
        allowed = float(np.sqrt(0.97 * self._options.max_kl / max(harmless.kl.value, 1e-9)))
        return min(max(_STRONGER, float(np.sqrt(allowed))), allowed, _MOST_STRONGER)

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
        self._events.tried(_as_tried(point))
        return point


def _as_tried(point: FrontierPoint) -> Tried:
    behaviour = point.behaviour
    return Tried(
        point.setting,
        point.layer,
        point.strength,
        behaviour.refusal.value,
        behaviour.compliance.value,
        behaviour.kl.value if behaviour.kl else None,
        answered=True,
    )


def _ask(study: optuna.Study) -> optuna.Trial:
    """The next trial. A starting point that waits in a shared study may be taken and finished by another
    process between Optuna's finding it and taking it."""
    while True:
        with suppress(UpdateFinishedTrialError):
            return study.ask()


def _done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if "points" in trial.user_attrs]


def _as_json(point: _Point) -> dict[str, Any]:
    return {"setting": asdict(point.setting), "score": asdict(point.score)}


def _from_json(values: Mapping[str, Any]) -> _Point:
    setting = dict(values["setting"])
    setting |= {name: Profile(**setting[name]) for name in ("attention", "mlp")}
    setting |= {"form": Form(setting["form"]), "below": tuple(setting["below"])}
    score = FirstTokenScore(tuple(values["score"]["refused"]), values["score"]["kl"])
    return _Point(Setting(**setting), score)


def keeps_constraints(point: FrontierPoint, original: Behaviour, floor: float, max_kl: float) -> bool:
    """Benign compliance at its floor, KL at its limit or below, and requests that only sound harmful answered
    and guarded ones refused no less often than 3 points under the original. (Of fewer than 34 requests, no
    less often than one of them under it.)"""
    behaviour = point.behaviour
    sounds, before = behaviour.sounds_harmful_compliance, original.sounds_harmful_compliance
    guarded, refused = behaviour.guarded_refusal, original.guarded_refusal
    return (
        behaviour.compliance.value >= floor - 1e-12
        and _within(guarded, refused, MOST_GUARDED_LOSS)
        and _within(sounds, before, _SOUNDS_HARMFUL_MARGIN)
        and (behaviour.kl is None or behaviour.kl.value <= max_kl)
    )


def _within(after: Estimate | None, before: Estimate | None, margin: float) -> bool:
    if after is None or before is None:
        return True
    return after.value >= before.value - max(margin, 1 / before.n) - 1e-12


def choose(
    frontier: Sequence[FrontierPoint], original: Behaviour, floor: float, options: ConditionalOptions
) -> FrontierPoint | None:
    """The most refusal that keeps the constraints; of equals the lower KL. None when nothing does."""
    kept = [point for point in frontier if keeps_constraints(point, original, floor, options.max_kl)]
    if not kept:
        return None
    return max(
        kept,
        key=lambda p: (p.behaviour.refusal.value, -(p.behaviour.kl.value if p.behaviour.kl else 0.0)),
    )
