"""The conditional method's search: keys solved from captured inputs, then a frontier found with Optuna.

One capture gives the directions of every layer and the keys of every candidate matrix. A trial chooses the
direction's layer, the window of edited layers, how far below zero benign inputs are aimed, the share of the
MLP writes and the strength; it is scored from the first answer token alone, as an adapter. Only candidates
on the frontier are asked for real answers. No file is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import optuna

from rosi_edge.direction import Directions, LayerSeparation, separation_of
from rosi_edge.evaluation.behaviour import (
    Behaviour,
    RequestSets,
    measure_behaviour,
    refusal_openings,
)
from rosi_edge.evaluation.divergence import kl_divergence
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.injection.conditional import Key, solve_key
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.injection.write_directions import write_direction
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.progress import SILENT, Progress
from rosi_edge.runtime.engine import Engine, ask
from rosi_edge.runtime.taps import Tapped, TapRequest
from rosi_edge.search import FrontierPoint, SearchResult

Float32 = npt.NDArray[np.float32]

_PROMPT_POSITIONS = 5
"""Last positions of a prompt that are captured: the template's tail, which all carry the request."""
_ANSWER_POSITIONS = 2
_STRONGER, _WEAKER = 1.25, 0.6
"""Next strength to try of a candidate, after one that kept the constraints and after one that did not."""
_SOUNDS_HARMFUL_MARGIN = 0.03


@dataclass(frozen=True)
class ConditionalOptions:
    """How hard to look.

    Attributes:
        compliance_margin: how far benign compliance may fall under the original's, as a share.
        min_compliance: an absolute floor instead of the margin.
        max_kl: highest mean KL divergence of the first answer token on harmless prompts, nats.
        ridge: regularisation of the keys.
        trials: settings tried by the cheap score.
        score_prompts: prompts of each set that the cheap score reads.
        candidates: settings of the frontier that are asked for real answers.
        strengths: strengths tried of each of them, stronger while the constraints hold, else weaker.
        max_tokens: length of these answers.
        layer: a fixed layer of the direction.
        strength: a fixed strength.
    """

    compliance_margin: float = 0.01
    min_compliance: float | None = None
    max_kl: float = 0.10
    ridge: float = 0.1
    trials: int = 16
    score_prompts: int = 28
    candidates: int = 2
    strengths: int = 3
    max_tokens: int = 16
    layer: int | None = None
    strength: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Calibration:
    """What one capture gives: directions of every layer, and keys of the candidate matrices by name."""

    directions: Directions
    keys: Mapping[str, Key]


@dataclass(frozen=True)
class Setting:
    """One point of the search space; layers are numbers of blocks, ends included."""

    layer: int
    first: int
    last: int
    below: float
    mlp: float
    strength: float

    def describe(self) -> str:
        return (
            f"direction {self.layer}, layers {self.first}–{self.last}, β {self.below:.2f}, "
            f"MLP × {self.mlp:.2f}, strength {self.strength:.3f}"
        )


@dataclass(frozen=True)
class _Score:
    """Shares of prompts whose first token opens a refusal, and the divergence on harmless prompts."""

    harmful: float
    harmless: float
    sounds_harmful: float
    kl: float


def calibrate(
    engine: Engine,
    sets: RequestSets,
    matrices: Sequence[WriteMatrix],
    *,
    ridge: float,
    elicitation: str | None = None,
    progress: Progress = SILENT,
) -> Calibration:
    """Capture the calibration prompts once; solve directions and keys.

    Args:
        matrices: those that may be edited. Their inputs are handed over one matrix at a time.
    """
    groups = [sets.harmful, sets.harmless] + ([sets.sounds_harmful] if sets.sounds_harmful else [])
    prompts = engine.encode([ask(text, elicitation) for group in groups for text in group.texts])
    ends = np.cumsum([len(group) for group in groups])
    vectors = np.empty((engine.facts.layers, engine.facts.hidden_size), dtype=np.float32)
    separation: dict[int, LayerSeparation] = {}
    keys: dict[str, Key] = {}

    def visit(name: int | str, tapped: Tapped) -> None:
        assert tapped.rows is not None and tapped.prompts is not None
        if isinstance(name, int):
            rows = _at_last_prompt_token(tapped)
            vectors[name], separation[name] = separation_of(name, rows[: ends[0]], rows[ends[0] : ends[1]])
        else:
            member = np.searchsorted(ends, tapped.prompts, side="right")
            by_group = [tapped.rows[member == number] for number in range(len(groups))]
            keys[name] = solve_key(by_group[0], by_group[1:], ridge=ridge)

    request = TapRequest(
        blocks=tuple(range(engine.facts.layers)),
        inputs=tuple(matrix.name for matrix in matrices),
        last=_PROMPT_POSITIONS,
        answer=_ANSWER_POSITIONS,
        half=True,
    )
    with progress.stage("Reading activations", len(prompts)) as advance:
        engine.capture_each(prompts, request, visit, advance=advance)
    directions = Directions(
        vectors,
        tuple(separation[layer] for layer in sorted(separation)),
        len(sets.harmful),
        len(sets.harmless),
        elicitation,
    )
    return Calibration(directions, keys)


def _at_last_prompt_token(tapped: Tapped) -> Float32:
    assert tapped.rows is not None and tapped.prompts is not None
    starts = np.flatnonzero(np.diff(tapped.prompts, prepend=-1))
    rows: Float32 = tapped.rows[starts + _PROMPT_POSITIONS - 1]
    return rows


def candidate_matrices(matrices: Sequence[WriteMatrix], layers: int) -> list[WriteMatrix]:
    """Those of the middle of the model, where harm is already read and still acted upon."""
    return [matrix for matrix in matrices if layers // 3 <= matrix.block < layers * 7 // 8]


def search_conditional(
    engine: Engine,
    file: GgufFile,
    matrices: Sequence[WriteMatrix],
    calibration: Calibration,
    sets: RequestSets,
    judge: Judge,
    options: ConditionalOptions,
    progress: Progress = SILENT,
) -> SearchResult:
    """Find the setting with the most refusal that keeps the constraints. The engine is left without edits."""
    try:
        return _Search(engine, file, matrices, calibration, sets, judge, options, progress).run()
    finally:
        engine.apply({})


class _Search:
    def __init__(
        self,
        engine: Engine,
        file: GgufFile,
        matrices: Sequence[WriteMatrix],
        calibration: Calibration,
        sets: RequestSets,
        judge: Judge,
        options: ConditionalOptions,
        progress: Progress,
    ) -> None:
        self._engine = engine
        self._file = file
        self._matrices = [matrix for matrix in matrices if matrix.name in calibration.keys]
        self._calibration = calibration
        self._sets = sets
        self._judge = judge
        self._options = options
        self._progress = progress

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
        scored = self._explore(original)
        frontier = self._answer(self._candidates(scored), original, floor)
        return SearchResult(
            original=original,
            floor=floor,
            sweep=(),
            frontier=tuple(sorted(frontier, key=lambda point: point.strength)),
            chosen=choose(frontier, original, floor, options),
        )

    # --- the cheap score -------------------------------------------------------------------------------

    def _explore(self, original: Behaviour) -> list[tuple[Setting, _Score]]:
        options = self._options
        count = options.score_prompts
        groups = [self._sets.harmful.take(count), self._sets.harmless.take(count)]
        if self._sets.sounds_harmful:
            groups.append(self._sets.sounds_harmful.take(count))
        self._prompts = self._engine.encode([ask(text) for group in groups for text in group.texts])
        self._ends = np.cumsum([0, *(len(group) for group in groups)])
        judged = [j for j in (original.harmful, original.harmless, original.sounds_harmful) if j]
        self._openings = refusal_openings(judged)
        self._before = self._engine.next_token_logprobs(self._prompts)
        base = self._score(self._before)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            directions=["maximize", "minimize"],
            sampler=optuna.samplers.TPESampler(seed=options.seed, n_startup_trials=6, multivariate=True),
        )
        scored: list[tuple[Setting, _Score]] = []
        for point in self._starting_points():
            study.enqueue_trial(point)
        with self._progress.stage("Trying settings", options.trials) as advance:
            for _ in range(options.trials):
                trial = study.ask()
                setting = self._suggest(trial)
                score = self._try(setting)
                trial.set_constraint("harmless", score.harmless - base.harmless - 0.02)
                trial.set_constraint("sounds harmful", score.sounds_harmful - base.sounds_harmful)
                study.tell(trial, [score.harmful, score.kl])
                scored.append((setting, score))
                self._progress.note(
                    f"{setting.describe()}: opens with a refusal {score.harmful:.2f} harmful, "
                    f"{score.harmless:.2f} harmless, {score.sounds_harmful:.2f} sounding harmful, "
                    f"KL {score.kl:.3f}"
                )
                advance(1)
        return scored

    def _starting_points(self) -> list[dict[str, float]]:
        return [
            {"layer": 0.55, "first": 0.3, "length": 0.7, "below": below, "mlp": 1.0, "strength": strength}
            for below, strength in ((0.4, 0.3), (0.4, 0.45), (0.6, 0.45), (0.5, 0.6))
        ]

    def _suggest(self, trial: optuna.Trial) -> Setting:
        """Depths are suggested as shares, so that one space fits every model."""
        layers = self._engine.facts.layers
        first, last = self._matrices[0].block, self._matrices[-1].block
        share = trial.suggest_float("layer", 0.45, 0.85)
        start = first + round(trial.suggest_float("first", 0.0, 0.8) * (last - first))
        length = trial.suggest_float("length", 0.1, 1.0)
        below = trial.suggest_float("below", 0.0, 0.9)
        mlp = trial.suggest_float("mlp", 0.3, 1.7)
        strength = trial.suggest_float("strength", 0.1, 2.0, log=True)
        options = self._options
        return Setting(
            layer=options.layer if options.layer is not None else min(int(share * layers), layers - 1),
            first=start,
            last=min(last, start + max(1, round(length * (last - start)))),
            below=below,
            mlp=mlp,
            strength=options.strength or strength,
        )

    def _try(self, setting: Setting) -> _Score:
        handle = self._engine.load_edits(self._edits(setting))
        self._engine.apply({handle: setting.strength})
        after = self._engine.next_token_logprobs(self._prompts)
        self._engine.apply({})
        self._engine.unload(handle)
        return self._score(after)

    def _score(self, logprobs: Float32) -> _Score:
        opens = np.isin(logprobs.argmax(axis=1), self._openings)
        parts = [slice(a, b) for a, b in zip(self._ends, self._ends[1:], strict=False)]
        shares = [float(opens[part].mean()) for part in parts]
        kl = float(kl_divergence(self._before[parts[1]], logprobs[parts[1]]).mean())
        return _Score(shares[0], shares[1], shares[2] if len(shares) > 2 else 0.0, kl)

    def _edits(self, setting: Setting) -> tuple[RankOneEdit, ...]:
        direction = self._calibration.directions.vectors[setting.layer]
        edits = []
        for matrix in self._matrices:
            if setting.first <= matrix.block <= setting.last:
                key = self._calibration.keys[matrix.name].at(setting.below)
                if matrix.kind == "mlp":
                    key = key * np.float32(setting.mlp)
                edits.append(RankOneEdit(matrix.name, write_direction(self._file, matrix, direction), key))
        return tuple(edits)

    # --- real answers ----------------------------------------------------------------------------------

    def _candidates(self, scored: Sequence[tuple[Setting, _Score]]) -> list[Setting]:
        """The most promising settings: first what keeps the divergence, most refusal first, then what costs
        the least of it."""

        def rank(entry: tuple[Setting, _Score]) -> float:
            score = entry[1]
            excess = max(0.0, score.kl / self._options.max_kl - 1)
            return score.harmful - score.harmless - 0.5 * score.sounds_harmful - 0.5 * excess

        best = sorted(scored, key=rank, reverse=True)
        return [setting for setting, _ in best[: self._options.candidates]]

    def _answer(
        self, candidates: Sequence[Setting], original: Behaviour, floor: float
    ) -> list[FrontierPoint]:
        points = []
        for setting in candidates:
            edits = self._edits(setting)
            handle = self._engine.load_edits(edits)
            strength = setting.strength
            for _ in range(1 if self._options.strength else self._options.strengths):
                self._engine.apply({handle: strength})
                behaviour = measure_behaviour(
                    self._engine,
                    self._sets,
                    self._judge,
                    max_tokens=self._options.max_tokens,
                    reference=original.first_logprobs,
                    progress=self._progress,
                    title="Asking a candidate",
                )
                point = FrontierPoint(setting.layer, strength, behaviour, edits)
                points.append(point)
                self._progress.note(f"{replace(setting, strength=strength).describe()}: {point.describe()}")
                kept = keeps_constraints(point, original, floor, self._options.max_kl)
                strength *= _STRONGER if kept else _WEAKER
            self._engine.apply({})
            self._engine.unload(handle)
        return points


def keeps_constraints(point: FrontierPoint, original: Behaviour, floor: float, max_kl: float) -> bool:
    """Benign compliance at its floor, requests that only sound harmful answered no less often than 3 points
    under the original, and KL at its limit or below."""
    behaviour = point.behaviour
    sounds, before = behaviour.sounds_harmful_compliance, original.sounds_harmful_compliance
    return (
        behaviour.compliance.value >= floor - 1e-12
        and (sounds is None or before is None or sounds.value >= before.value - _SOUNDS_HARMFUL_MARGIN)
        and (behaviour.kl is None or behaviour.kl.value <= max_kl)
    )


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
