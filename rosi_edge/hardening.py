"""The whole path: a model file in, a hardened file and its report out.

prompts → activations → direction → edits → adapter while searching → baked file → evaluation → report
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from rosi_edge import __version__
from rosi_edge.bake import BakedTensor, bake
from rosi_edge.conditional_search import (
    ConditionalOptions,
    calibrate,
    candidate_matrices,
    search_conditional,
)
from rosi_edge.diagnosis import diagnose, nothing_to_choose
from rosi_edge.direction import Directions, extract_directions
from rosi_edge.errors import OutputError, UnsupportedModelError
from rosi_edge.evaluation.behaviour import Behaviour, Changes, compare, measure_behaviour
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.injection.adapter import write_adapter
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.injection.rosi import rosi_edits, row_means
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.atomic import checked_target
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.inspect import Inspection, inspect, require_hardenable
from rosi_edge.models.rewrite import NewValue, refuse_same_file
from rosi_edge.models.sources import sha256_of
from rosi_edge.progress import SILENT, Progress
from rosi_edge.prompt_plan import PromptPlan
from rosi_edge.quantization.grid_rounding import GridRounding, InputFactor, input_factor
from rosi_edge.quantization.rounding import Requantize, Rounding
from rosi_edge.report import schema
from rosi_edge.report.facts import EvaluationFacts, ModelFacts, OutputFile, ToolFacts
from rosi_edge.report.from_behaviour import figures, prompt_set_facts, report_changes
from rosi_edge.report.schema import Method
from rosi_edge.runtime.child_engine import ChildEngine
from rosi_edge.runtime.engine import Engine, EngineOptions, ask
from rosi_edge.runtime.taps import Positions, Tapped, TapRequest
from rosi_edge.search import FrontierPoint, SearchOptions, SearchResult, best_balance, search

Float32 = npt.NDArray[np.float32]

_PROBE_PROMPTS = 32
_FACTOR_PROMPTS = 24
_FACTOR_ANSWER = 6
_FACTOR_RANK = 128


@dataclass(frozen=True)
class HardenOptions:
    """Everything the user can set.

    Attributes:
        elicitation: a system prompt under which the direction is taken.
        max_tokens: answer length in the evaluation before and after.
        force: write the file whatever the verdict (if nothing keeps the constraints, the point of best
            balance), and harden hardened files again.
        adapter: where to write the exact edit as a LoRA adapter as well.
    """

    rounding: Literal["requantize", "grid"] = "requantize"
    method: Method = "rosi"
    elicitation: str | None = None
    search: SearchOptions = field(default_factory=SearchOptions)
    conditional: ConditionalOptions = field(default_factory=ConditionalOptions)
    max_tokens: int = 24
    engine: EngineOptions = field(default_factory=EngineOptions)
    force: bool = False
    adapter: Path | None = None
    reference: str = ""
    command: str = ""
    seed: int = 0


class _Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - start

    def timing(self) -> schema.Timing:
        return schema.Timing(
            stages={stage: round(seconds, 2) for stage, seconds in self.stages.items()},
            total=round(time.perf_counter() - self._start, 2),
        )


def harden(
    model: Path,
    output: Path,
    prompts: PromptPlan,
    judge: Judge,
    options: HardenOptions,
    progress: Progress = SILENT,
) -> schema.HardeningReport:
    """Harden ``model`` into ``output``.

    The output is there afterwards exactly if the report has an ``output``: a file whose verdict is not
    ``hardened`` is taken away again unless ``options.force``.

    Raises:
        RosiEdgeError: whatever is wrong with the model, the prompts or the place of the output.
    """
    watch = _Stopwatch()
    place = checked_target(output)
    refuse_same_file(model, place)
    if options.adapter is not None:
        adapter = checked_target(options.adapter)
        refuse_same_file(model, adapter)
        if adapter == place:
            raise OutputError(f"{output} cannot be both the model and the adapter", "Name two files")
    with GgufFile.open(model) as file:
        matrices = require_hardenable(file)
        with watch.measure("read"):
            inspection = inspect(file, with_sha256=True, progress=progress)
        if inspection.hardened and not options.force:
            raise UnsupportedModelError(
                f"{model.name} has been hardened before", "Harden the original file, or add --force"
            )
        blocks = inspection.block_count or 0
        if unknown := [layer for layer in options.search.layers or () if not 0 <= layer < blocks]:
            raise UnsupportedModelError(
                f"{model.name} has no layer {unknown[0]}", f"Choose --layer from 0 to {blocks - 1}, or auto"
            )
        with ChildEngine(model, options.engine) as engine:
            run = _Run(file, matrices, engine, prompts, judge, options, progress, watch)
            outcome = run.search_and_measure()
        if outcome.chosen is None:
            return run.report(inspection, outcome, [], None, None, nothing_to_choose(outcome.search.floor))
        # Written under a name of its own first: the verdict decides whether it becomes the output.
        draft = place.with_name(f".{place.name}.draft.gguf")
        try:
            with watch.measure("bake"):
                baked = bake(
                    file,
                    draft,
                    outcome.edits,
                    rounding=outcome.rounding,
                    probes=outcome.probes,
                    metadata=_metadata(inspection, options, outcome.chosen, outcome.edits),
                    progress=progress,
                )
            with ChildEngine(draft, options.engine) as engine, watch.measure("evaluate after"):
                after = measure_behaviour(
                    engine,
                    prompts.reporting,
                    judge,
                    max_tokens=options.max_tokens,
                    reference=outcome.before.first_logprobs,
                    progress=progress,
                    title="Hardened file on the reporting prompts",
                )
            changes = compare(outcome.before, after)
            verdict = diagnose(outcome.before, after, changes)
            written: OutputFile | None = None
            if verdict.status == "hardened" or options.force:
                written = OutputFile(file_name=place.name, sha256=sha256_of(draft), size=draft.stat().st_size)
                if options.adapter is not None:
                    write_adapter(
                        options.adapter,
                        # At the chosen strength, so that llama.cpp's `--lora FILE` is the very edit.
                        outcome.edits,
                        architecture=inspection.architecture or "",
                    )
                draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)
        return run.report(inspection, outcome, baked, after, changes, verdict, written)


@dataclass(frozen=True)
class _Outcome:
    """What the original model's engine was needed for."""

    directions: Directions
    before: Behaviour
    search: SearchResult
    chosen: FrontierPoint | None
    edits: list[RankOneEdit]
    probes: Mapping[str, Float32]
    rounding: Rounding


class _Run:
    """One hardening run up to the bake, and the report at its end."""

    def __init__(
        self,
        file: GgufFile,
        matrices: Sequence[WriteMatrix],
        engine: Engine,
        prompts: PromptPlan,
        judge: Judge,
        options: HardenOptions,
        progress: Progress,
        watch: _Stopwatch,
    ) -> None:
        self._file = file
        self._matrices = matrices
        self._engine = engine
        self._prompts = prompts
        self._judge = judge
        self._options = options
        self._progress = progress
        self._watch = watch

    def search_and_measure(self) -> _Outcome:
        find = {"rosi": self._find_rosi, "conditional": self._find_conditional}[self._options.method]
        directions, found = find()
        if found.chosen is None and self._options.force:
            found = replace(found, chosen=best_balance(found))
        with self._watch.measure("evaluate before"):
            before = measure_behaviour(
                self._engine,
                self._prompts.reporting,
                self._judge,
                max_tokens=self._options.max_tokens,
                keep_logprobs=True,
                progress=self._progress,
                title="Original model on the reporting prompts",
            )
        edits: list[RankOneEdit] = []
        probes: Mapping[str, Float32] = {}
        rounding: Rounding = Requantize()
        if found.chosen is not None:
            edits = [edit.scaled(found.chosen.strength) for edit in found.chosen.edits]
            with self._watch.measure("probe"):
                names = tuple(edit.tensor for edit in edits)
                probes = self._probe_inputs(names)
                if self._options.rounding == "grid":
                    rounding = GridRounding(self._input_factors(edits))
        return _Outcome(directions, before, found, found.chosen, edits, probes, rounding)

    def _find_rosi(self) -> tuple[Directions, SearchResult]:
        with self._watch.measure("extract"):
            directions = extract_directions(
                self._engine,
                self._prompts.calibration.harmful.texts,
                self._prompts.calibration.harmless.texts,
                elicitation=self._options.elicitation,
                progress=self._progress,
            )
            means = row_means(self._file, self._matrices, self._progress)
        with self._watch.measure("search"):
            return directions, search(
                self._engine,
                directions,
                lambda direction: rosi_edits(self._file, self._matrices, means, direction),
                self._prompts.choosing,
                self._judge,
                self._options.search,
                self._progress,
            )

    def _find_conditional(self) -> tuple[Directions, SearchResult]:
        options = self._options.conditional
        with self._watch.measure("extract"):
            calibration = calibrate(
                self._engine,
                self._prompts.calibration,
                candidate_matrices(self._matrices, self._engine.facts.layers),
                ridge=options.ridge,
                elicitation=self._options.elicitation,
                progress=self._progress,
            )
        with self._watch.measure("search"):
            return calibration.directions, search_conditional(
                self._engine,
                self._file,
                self._matrices,
                calibration,
                self._prompts.choosing,
                self._judge,
                options,
                self._progress,
            )

    def _probe_inputs(self, names: tuple[str, ...]) -> dict[str, Float32]:
        """Real inputs of every edited matrix, from prompts that were not used for the edits."""
        choosing = self._prompts.choosing
        texts = choosing.harmful.take(_PROBE_PROMPTS).texts + choosing.harmless.take(_PROBE_PROMPTS).texts
        prompts = self._engine.encode([ask(text) for text in texts])
        with self._progress.stage("Reading inputs of write matrices", len(prompts)) as advance:
            capture = self._engine.capture(prompts, TapRequest(inputs=names), advance=advance)
        return {name: tapped.rows for name, tapped in capture.inputs.items() if tapped.rows is not None}

    def _input_factors(self, edits: Sequence[RankOneEdit]) -> dict[str, InputFactor]:
        """Second moments of every edited matrix's inputs at all positions, answers included."""
        sets = self._prompts.calibration
        groups = [sets.harmful, sets.harmless, *([sets.sounds_harmful] if sets.sounds_harmful else [])]
        texts = [text for group in groups for text in group.take(_FACTOR_PROMPTS).texts]
        prompts = self._engine.encode([ask(text) for text in texts])
        pushes = {edit.tensor: edit.input for edit in edits}
        request = TapRequest(inputs=tuple(pushes), positions=Positions.ALL, answer=_FACTOR_ANSWER, half=True)
        factors: dict[str, InputFactor] = {}

        def visit(name: int | str, tapped: Tapped) -> None:
            assert isinstance(name, str) and tapped.rows is not None
            factors[name] = input_factor(tapped.rows, _FACTOR_RANK, pushes[name])

        with self._progress.stage("Reading inputs at all positions", len(prompts)) as advance:
            self._engine.capture_each(prompts, request, visit, advance=advance)
        return factors

    def report(
        self,
        inspection: Inspection,
        outcome: _Outcome,
        baked: Sequence[BakedTensor],
        after: Behaviour | None,
        changes: Changes | None,
        verdict: schema.Verdict,
        written: OutputFile | None = None,
    ) -> schema.HardeningReport:
        found = outcome.search
        layer = found.chosen.layer if found.chosen else found.frontier[0].layer
        d_prime = {entry.layer: entry.d_prime for entry in outcome.directions.separation}
        sweep = tuple(
            schema.SweepPoint(
                layer=trial.layer,
                d_prime=d_prime[trial.layer],
                strength=trial.strength,
                harmful_refusal_score_change=trial.harmful_shift,
                harmless_refusal_score_change=trial.harmless_shift,
                kl_first_token=trial.kl,
            )
            for trial in found.sweep
        )
        reporting = self._prompts.reporting
        return schema.HardeningReport(
            verdict=verdict,
            model=ModelFacts.of(inspection, self._options.reference or str(inspection.path)),
            output=written,
            before=figures(outcome.before),
            after=figures(after) if after else None,
            changes=report_changes(changes) if changes else None,
            evaluation=EvaluationFacts(
                judge=self._judge.name,
                max_tokens=self._options.max_tokens,
                prompt_sets=prompt_set_facts(reporting),
            ),
            direction=schema.DirectionFacts.of(
                outcome.directions,
                layer,
                sweep=sweep,
                prompt_sets=(
                    *prompt_set_facts(self._prompts.calibration),
                    *prompt_set_facts(self._prompts.choosing),
                ),
            ),
            injection=self._injection(found, baked),
            frontier=_frontier(found, layer),
            timing=self._watch.timing(),
            tool=ToolFacts(
                version=__version__,
                llama_cpp_python=version("llama-cpp-python"),
                seed=self._options.seed,
                command=self._options.command,
            ),
            generated=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _injection(self, found: SearchResult, baked: Sequence[BakedTensor]) -> schema.Injection:
        matrices = {matrix.name: matrix for matrix in self._matrices}
        tensors = tuple(
            schema.EditedTensor(
                name=tensor.name,
                block=matrices[tensor.name].block,
                kind=matrices[tensor.name].kind,
                type=tensor.type,
                delivered=tensor.delivered,
                noise=tensor.noise,
            )
            for tensor in baked
        )
        return schema.Injection(
            method=self._options.method,
            strength=found.chosen.strength if found.chosen else 0.0,
            min_compliance=found.floor,
            delivered=float(np.mean([t.delivered for t in tensors])) if tensors else None,
            tensors=tensors,
        )


def _frontier(found: SearchResult, layer: int) -> tuple[schema.FrontierPoint, ...]:
    def point(strength: float, behaviour: Behaviour, chosen: bool) -> schema.FrontierPoint:
        return schema.FrontierPoint(
            layer=layer,
            strength=strength,
            harmful_refusal=behaviour.refusal,
            benign_compliance=behaviour.compliance,
            sounds_harmful_compliance=behaviour.sounds_harmful_compliance,
            degenerate=behaviour.degenerate,
            kl=behaviour.kl,
            chosen=chosen,
        )

    tried = [point(p.strength, p.behaviour, p is found.chosen) for p in found.frontier]
    return (point(0.0, found.original, False), *tried)


def _metadata(
    inspection: Inspection, options: HardenOptions, chosen: FrontierPoint, edits: Sequence[RankOneEdit]
) -> dict[str, NewValue]:
    return {
        "rosi.version": __version__,
        "rosi.method": options.method,
        "rosi.strength": float(chosen.strength),
        "rosi.layer": chosen.layer,
        "rosi.rounding": options.rounding,
        "rosi.elicited": options.elicitation is not None,
        "rosi.source.sha256": inspection.sha256 or "",
        "rosi.source.file": inspection.path.name,
        "rosi.edited_tensors": [edit.tensor for edit in edits],
    }
