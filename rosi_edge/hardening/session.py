"""The whole path: a model file in, a hardened file and its report out.

prompts → activations → direction → edits → adapter while searching → baked file → evaluation → report

``harden`` walks it in one go; ``HardeningSession`` offers its steps one at a time, for whoever wants to stop
and look in between (the wizard).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from rosi_edge import __version__
from rosi_edge.abliteration import find_holes
from rosi_edge.baking.bias_correction import Correction, bake_corrected, measure_exact
from rosi_edge.baking.destination import checked_place, places_of, refuse_to_touch
from rosi_edge.baking.draft import Draft, bake_draft
from rosi_edge.baking.inputs import (
    SharedFactors,
    input_factors,
    stand_ins,
    unseen_inputs,
)
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.cancellation import Cancellation, cancellable
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.statistics import mean
from rosi_edge.basics.stopwatch import Stopwatch
from rosi_edge.basics.text import encodable
from rosi_edge.direction.calibration import Calibration, calibrate, candidate_matrices
from rosi_edge.direction.difference import Directions, extract_directions
from rosi_edge.direction.elicitation import DEFAULT_ELICITATION, LITTLE_REFUSAL, LOOK_PROMPTS
from rosi_edge.edits.adapter import write_adapter
from rosi_edge.edits.paper import rosi_edits, row_means
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import adapter_gains
from rosi_edge.errors import OutputError, RosiEdgeError, UnsupportedModelError
from rosi_edge.evaluation.behaviour import Behaviour, compare, measure_behaviour
from rosi_edge.evaluation.divergence import kl_divergence
from rosi_edge.evaluation.stress import Stress, measure_stress
from rosi_edge.evaluation.verdicts import Judge, Verdict
from rosi_edge.hardening.as_report import RoundingCheck, Run, hardening_report
from rosi_edge.hardening.engines import HELD
from rosi_edge.hardening.events import Events
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.hardening.verdict import costs_refusals, diagnose, nothing_to_choose
from rosi_edge.inspection import Inspection, inspect, require_hardenable
from rosi_edge.models.architectures import expert_counts
from rosi_edge.models.atomic import checked_target
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.open_weights import open_weights
from rosi_edge.models.rewrite import NewValue
from rosi_edge.prompts.plan import PromptPlan, RequestSets
from rosi_edge.quantization.grid_rounding import GridRounding, InputFactor
from rosi_edge.quantization.imatrix import importance_for
from rosi_edge.quantization.rounding import Requantize, Rounding
from rosi_edge.records import hardening as schema
from rosi_edge.records.facts import OutputFile
from rosi_edge.runtime.engine import Engine, EngineOptions, StoppableEngine, ask
from rosi_edge.runtime.open_engine import open_engine
from rosi_edge.search.candidates import HOLES_TRIED, CandidateDirection, direction_candidates
from rosi_edge.search.conditional import search_conditional
from rosi_edge.search.options import SearchOptions
from rosi_edge.search.paper import search
from rosi_edge.search.result import FrontierPoint, SearchResult, best_balance


def harden(
    model: Path,
    output: Path,
    prompts: PromptPlan,
    judge: Judge,
    options: HardenOptions,
    progress: Progress = SILENT,
    shared: SharedFactors | None = None,
) -> schema.HardeningReport:
    """Harden ``model`` into ``output``.

    The output is there afterwards exactly if the report has an ``output``: a file whose verdict is not
    ``hardened`` is taken away again unless ``options.force``; one that refuses harmful requests less is in
    any case.

    Args:
        shared: keeps the inputs that the rounding was fitted to, for the model's other files.

    Raises:
        RosiEdgeError: whatever is wrong with the model, the prompts or the place of the output.
    """
    with HardeningSession(model, prompts, judge, options, progress, shared=shared) as session:
        session.check_target(output)
        session.calibrate()
        session.search()
        session.measure_before()
        session.bake(output)
        session.measure_after()
        return session.finish()


class HardeningSession:
    """One model on its way to a hardened file. Steps are taken in their order; each may be taken again, and
    what depended on it must be taken again then. A context manager.

    Attributes:
        inspection: what the file is.
        directions: after ``calibrate``.
        found: after ``search``; ``chosen`` is its choice until ``choose`` says otherwise.
        before, after: behaviour on the reporting prompts.
        baked: what arrived in each tensor.

    Raises:
        RosiEdgeError: the file cannot be hardened.
    """

    def __init__(
        self,
        model: Path,
        prompts: PromptPlan,
        judge: Judge,
        options: HardenOptions,
        progress: Progress = SILENT,
        events: Events = Events(),  # noqa: B008
        shared: SharedFactors | None = None,
    ) -> None:
        self.events = events
        self.model = model
        self.options = options
        self.progress = progress
        self._prompts = prompts
        self._judge = judge
        self._shared = SharedFactors() if shared is None else shared
        self._watch = Stopwatch()
        self.cancellation = Cancellation()
        self._engine: StoppableEngine | None = None
        self._hardened_engine: StoppableEngine | None = None
        self._calibration: Calibration | None = None
        self._handle: int | None = None
        self._importance: Mapping[str, Float32] = {}
        self._rounding: Rounding = Requantize()
        self._probes: Mapping[str, Float32] = {}
        self._aims: Mapping[str, Float32] = {}
        self._draft: Draft | None = None
        self.findings: list[str] = []
        self.directions: Directions | None = None
        self.found: SearchResult | None = None
        self.paper: FrontierPoint | None = None
        self.chosen: FrontierPoint | None = None
        self.before: Behaviour | None = None
        self.after: Behaviour | None = None
        self.stress_before: Stress | None = None
        self.stress_after: Stress | None = None
        # What each of them was measured with: figures are compared, and reported, only if that is the same.
        self._before_with: int | None = None
        self._stress_before_with: tuple[int, int] | None = None
        self._stress_after_with: tuple[int, int] | None = None
        self.rounding_check: RoundingCheck | None = None
        self.correction: Correction | None = None
        self.baked: list[BakedTensor] = []
        self._file: GgufFile | Checkpoint = open_weights(model)
        try:
            self.matrices = require_hardenable(self._file, options.engine.template)
            with self._watch.measure("read"):
                self.inspection: Inspection = inspect(self._file, with_sha256=True, progress=progress)
            self._check()
        except BaseException:
            self._file.close()
            raise

    def _check(self) -> None:
        if self.inspection.hardened and not self.options.force:
            raise UnsupportedModelError(
                f"{self.model.name} has been hardened before", "Harden the original file, or add --force"
            )
        blocks = self.inspection.block_count or 0
        wanted = (*(self.options.search.layers or ()), self.options.conditional.layer)
        if unknown := [layer for layer in wanted if layer is not None and not 0 <= layer < blocks]:
            raise UnsupportedModelError(
                f"{self.model.name} has no layer {unknown[0]}",
                f"Choose --layer from 0 to {blocks - 1}, or auto",
            )
        importance: Mapping[str, Float32] = {}
        if self.options.imatrix is not None:
            importance = importance_for(self.options.imatrix, self.matrices)
        self._importance = importance

    def __enter__(self) -> HardeningSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything, an unfinished file included."""
        self._drop_draft()
        self._stop_engine()
        if self._calibration is not None:
            self._calibration.inputs.close()
        self._file.close()

    def cancel(self) -> None:
        """Stop the running step at once, from another thread: it ends in KeyboardInterrupt. The session goes
        on from the step before."""
        self.cancellation.request()
        for engine in (self._engine, self._hardened_engine):
            if engine is not None:
                engine.cancel()

    @property
    def engine(self) -> Engine:
        """The original model, running; started when first asked for and again after a cancellation."""
        self.cancellation.check()
        if self._engine is not None and not self._engine.alive:
            self._stop_engine()
        if self._engine is None:
            self._engine = self._opened(self.model, replace(self.options.engine, held=HELD))
        return self._engine

    def _opened(self, model: Path, options: EngineOptions) -> StoppableEngine:
        with self.progress.stage("Loading the model") as advance:

            def look() -> None:
                # There is no engine to cancel yet.
                self.cancellation.check()
                advance(0)

            return open_engine(model, options, look=look)

    def _stop_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            self._handle = None

    def reconfigure(self, options: HardenOptions) -> None:
        """Other options for the steps to come; a calibration that has been made is kept.

        Raises:
            RosiEdgeError: as the constructor does; the options are those from before then.
        """
        before, self.options = self.options, options
        try:
            self._check()
        except RosiEdgeError:
            self.options = before
            raise
        if options.engine != before.engine:
            self._stop_engine()

    def check_target(self, output: Path) -> list[Path]:
        """The files, or the folder, that the output will be, made absolute: several for a model in parts.

        Raises:
            OutputError: nothing can be written there, or it is the model itself or the adapter.
        """
        places = places_of(self._file, checked_place(self._file, output))
        if self.options.adapter is not None:
            adapter = checked_target(self.options.adapter)
            refuse_to_touch(self._file, adapter)
            if adapter in places:
                raise OutputError(f"{output} cannot be both the model and the adapter", "Name two files")
        return places

    # --- calibrate -------------------------------------------------------------------------------------

    @cancellable
    def calibrate(self) -> Directions:
        """Read activations; directions of every layer, and for the conditional method the inputs that keys
        are solved from."""
        self.findings = []
        elicitation = self.options.elicitation
        if elicitation is None and self.options.look:
            with self._watch.measure("look"):
                elicitation = self._elicitation_needed()
        with self._watch.measure("extract"):
            if self.options.method == "rosi":
                self.directions = extract_directions(
                    self.engine,
                    self._prompts.calibration.harmful.texts,
                    self._prompts.calibration.harmless.texts,
                    elicitation=elicitation,
                    progress=self.progress,
                )
            else:
                if self._calibration is not None:
                    self._calibration.inputs.close()
                self._calibration = calibrate(
                    self.engine,
                    self._prompts.calibration,
                    candidate_matrices(self.matrices, self.engine.facts.layers),
                    elicitation=elicitation,
                    progress=self.progress,
                    separated=self.events.separation,
                )
                self.directions = self._calibration.directions
        return self.directions

    def _elicitation_needed(self) -> str | None:
        """The default safety prompt where the model refuses little without it and more with it."""
        requests = self._prompts.calibration.harmful.take(LOOK_PROMPTS)

        def refusal(system: str | None) -> float:
            prompts = self.engine.encode([ask(text, system) for text in requests.texts])
            answers = self.engine.generate(
                prompts, max_tokens=self.options.conditional.max_tokens, advance=advance
            )
            verdicts = self._judge.judge(requests.texts, [answer.text for answer in answers])
            return float(np.mean([verdict is Verdict.REFUSED for verdict in verdicts]))

        with self.progress.stage("Looking at the original model", 2 * len(requests)) as advance:
            plain = refusal(None)
            if plain >= LITTLE_REFUSAL:
                return None
            asked = refusal(DEFAULT_ELICITATION)
        self.findings.append(
            f"Without a system prompt the model refused {plain:.0%} of {len(requests)} harmful requests, "
            f"under a safety system prompt {asked:.0%}"
            + ("; the directions were taken under it." if asked > plain else ".")
        )
        self.progress.note(self.findings[-1])
        return DEFAULT_ELICITATION if asked > plain else None

    # --- search ----------------------------------------------------------------------------------------

    @cancellable
    def search(self) -> SearchResult:
        """Which direction, where, how strong; leaves the choice in ``chosen``."""
        if self.directions is None:
            raise ValueError("calibrate first")
        self.paper = None
        with self._watch.measure("search"):
            if self.options.method == "rosi":
                found = self._search_paper(self.options.search)
            else:
                found = self._search_conditional()
        if found.chosen is None and self.options.force:
            found = replace(found, chosen=best_balance(found))
        self.found = found
        self.choose(found.chosen)
        if (
            self.options.method == "conditional"
            and self.options.paper
            and self.options.conditional.strength is None
        ):
            with self._watch.measure("paper's method"):
                self.paper = self._paper_beside(found)
        return found

    def _search_paper(self, options: SearchOptions) -> SearchResult:
        assert self.directions is not None
        means = row_means(self._file, self.matrices, self.progress)
        return search(
            self.engine,
            self.directions,
            lambda direction: rosi_edits(self._file, self.matrices, means, direction),
            self._prompts.choosing,
            self._judge,
            options,
            self.progress,
        )

    def _paper_beside(self, found: SearchResult) -> FrontierPoint | None:
        """The best of two strengths of the paper's method, at the layer that separates best."""
        assert self.directions is not None
        layers = [
            entry for entry in self.directions.separation if entry.layer < 0.85 * len(self.directions.vectors)
        ]
        layer = max(layers, key=lambda entry: entry.d_prime).layer
        options = replace(
            self.options.search,
            layers=(layer,),
            min_compliance=found.floor,
            max_kl=self.options.conditional.max_kl,
            evaluations=2,
            original=found.original,
        )
        result = self._search_paper(options)
        return result.chosen

    def _search_conditional(self) -> SearchResult:
        assert self._calibration is not None
        options = self.options.conditional
        return search_conditional(
            self.engine,
            self._file,
            self.matrices,
            self._calibration,
            [*direction_candidates(self._calibration, options.layer), *self._hole_candidates()],
            self._prompts.choosing,
            self._judge,
            options,
            self.progress,
            self.events,
        )

    def _hole_candidates(self) -> list[CandidateDirection]:
        """Directions that the weights avoid: what an ablated model cannot write cannot be measured in its
        activations. An eigenvector's sign is open, so both are tried."""
        if self.options.conditional.layer is not None:
            return []
        holes = [
            hole
            for hole in find_holes(self._file, self.matrices, progress=self.progress).holes
            if hole.space == "stream"
        ][:HOLES_TRIED]
        candidates = []
        for number, hole in enumerate(holes, start=1):
            first, last = hole.layers[0], hole.layers[-1]
            finding = (
                f"The weights of layers {first} to {last} avoid one direction (energy ratio "
                f"{hole.energy_ratio:.2f}, confidence {hole.confidence:.3f}): signs of abliteration."
            )
            self.findings.append(finding)
            self.progress.note(finding)
            middle = hole.layers[len(hole.layers) // 2]
            for sign, vector in (("+", hole.direction), ("−", -hole.direction)):
                candidates.append(
                    CandidateDirection(f"hole {number} {sign}", vector.astype(np.float32), middle)
                )
        return candidates

    def choose(self, point: FrontierPoint | None) -> None:
        """Take another point of the frontier, or of one's own making, than the search did."""
        self.chosen = point

    # --- try -------------------------------------------------------------------------------------------

    @cancellable
    def apply(self, strength: float | None) -> None:
        """Make the chosen edits active in the running engine at some strength; None restores the original."""
        if self._handle is not None:
            self.engine.apply({})
        if strength is None or self.chosen is None:
            return
        engine = self.engine
        if self._handle is not None:
            engine.unload(self._handle)
        self._handle = engine.load_edits(self.chosen.edits)
        engine.apply({self._handle: strength})

    @cancellable
    def answer(self, request: str, on_text: Callable[[str], None], *, max_tokens: int = 200) -> None:
        """Stream the running model's answer to a request, piece by piece."""
        self.engine.stream(self.engine.encode([ask(request)])[0], max_tokens=max_tokens, on_text=on_text)

    # --- before, bake, after ---------------------------------------------------------------------------

    @cancellable
    def measure_before(self) -> Behaviour:
        """The original model on the reporting prompts, and under attack. What has been measured with the same
        options is not measured again."""
        if self.before is None or self._before_with != self.options.max_tokens:
            self._measure_original()
        wanted = self._stress_options
        if wanted[0] and self.chosen is not None and self._stress_before_with != wanted:
            self.apply(None)
            with self._watch.measure("stress before"):
                self.stress_before = self._stress(self.engine, "Jailbreaks on the original model")
            self._stress_before_with = wanted
        assert self.before is not None
        return self.before

    def _measure_original(self) -> None:
        self.apply(None)
        with self._watch.measure("evaluate before"):
            self.before = measure_behaviour(
                self.engine,
                self._prompts.reporting,
                self._judge,
                max_tokens=self.options.max_tokens,
                keep_logprobs=True,
                progress=self.progress,
                title="Original model on the reporting prompts",
            )
        self._before_with = self.options.max_tokens

    @property
    def _stress_options(self) -> tuple[int, int]:
        """How many requests are put under attack, and which."""
        return self.options.stress, self.options.seed

    @cancellable
    def bake(self, output: Path) -> list[BakedTensor]:
        """Write the chosen edits into a draft beside ``output``; ``finish`` gives it its name."""
        self.check_target(output)
        self._drop_draft()
        self.after = None
        self.stress_after = None
        self.rounding_check = None
        self.baked = []
        self.correction = None
        if self.chosen is None:
            return []
        edits = self._scaled_edits()
        with self._watch.measure("probe"):
            self.apply(None)
            self._probes, self._aims = unseen_inputs(
                self.engine, self._prompts.choosing, edits, self.progress
            )
            factors: Mapping[str, InputFactor] = {}
            if self.options.rounding == "grid":
                known = None if self._calibration is None else self._calibration.inputs
                factors = input_factors(self.engine, self._prompts.calibration, edits, self.progress, known)
                self._rounding = GridRounding(factors)
                self._shared.keep(factors)
            else:
                self._rounding = Requantize(self._importance)
            self._probes = {**self._probes, **stand_ins(edits, self._probes, factors)}
            exact = None
            if self.options.rounding == "grid" and isinstance(self._file, GgufFile):
                exact = measure_exact(self.engine, self._prompts.calibration, edits, self.progress)
        # Two models at once would need twice the memory.
        self._stop_engine()

        draft = self._draft = Draft.beside(self._file, checked_place(self._file, output))

        def bake_as(asked: Sequence[RankOneEdit]) -> list[BakedTensor]:
            return bake_draft(
                self._file,
                draft,
                asked,
                BakeSettings(
                    self._rounding,
                    self._probes,
                    self._metadata(edits),
                    self._aims,
                    min_delivered=self.options.min_delivered if self.options.rounding == "grid" else None,
                    promotion=self.options.promotion,
                    compare=Requantize(self._importance) if self.options.compare_rounding else None,
                    declared=edits,
                ),
                progress=self.progress,
                rounded=self.events.baked,
            )

        try:
            with self._watch.measure("bake"):
                if exact is None:
                    self.baked = bake_as(edits)
                else:
                    self.baked, self.correction = bake_corrected(
                        bake_as, partial(self._running, draft), exact, edits, self._aims, self.progress
                    )
        except BaseException:
            self._drop_draft()
            raise
        return self.baked

    @contextmanager
    def _running(self, draft: Draft) -> Iterator[Engine]:
        """A draft as a running model, which ``cancel`` can stop."""
        with self._opened(draft.model, self.options.engine) as engine:
            self._hardened_engine = engine
            try:
                yield engine
            finally:
                self._hardened_engine = None

    def _scaled_edits(self) -> list[RankOneEdit]:
        assert self.chosen is not None
        return [edit.scaled(self.chosen.strength) for edit in self.chosen.edits]

    @cancellable
    def measure_after(self) -> Behaviour | None:
        """The written file on the reporting prompts, and against the exact edit on the choosing ones."""
        if self._draft is None or self.before is None or self.chosen is None:
            return None
        with self._running(self._draft) as engine:
            with self._watch.measure("evaluate after"):
                after = measure_behaviour(
                    engine,
                    self._prompts.reporting,
                    self._judge,
                    max_tokens=self.options.max_tokens,
                    reference=self.before.first_logprobs,
                    progress=self.progress,
                    title="Hardened file on the reporting prompts",
                )
            with self._watch.measure("compare with the exact edit"):
                self.rounding_check = self._check_rounding(engine, self.chosen)
            if self.options.stress:
                with self._watch.measure("stress after"):
                    self.stress_after = self._stress(engine, "Jailbreaks on the hardened file")
                self._stress_after_with = self._stress_options
        self.after = after
        return self.after

    def _stress(self, engine: Engine, title: str) -> Stress:
        requests = self._prompts.reporting.harmful.take(self.options.stress, self.options.seed)
        return measure_stress(engine, requests, self._judge, progress=self.progress, title=title)

    def _check_rounding(self, engine: Engine, chosen: FrontierPoint) -> RoundingCheck:
        """What rounding cost: the file against the adapter that the search measured, on the same prompts."""
        sets = self._prompts.choosing
        exact = chosen.behaviour
        file = measure_behaviour(
            engine,
            RequestSets(sets.harmful, sets.harmless),
            self._judge,
            max_tokens=self.options.conditional.max_tokens
            if self.options.method == "conditional"
            else self.options.search.max_tokens,
            keep_logprobs=True,
            progress=self.progress,
            title="Hardened file on the choosing prompts",
        )
        kl = None
        if exact.first_logprobs is not None and file.first_logprobs is not None:
            kl = mean([float(v) for v in kl_divergence(exact.first_logprobs, file.first_logprobs)])
        return RoundingCheck(exact.refusal, file.refusal, exact.compliance, file.compliance, kl)

    @property
    def _max_kl(self) -> float | None:
        return self.options.conditional.max_kl if self.options.method == "conditional" else None

    def verdict(self) -> schema.Verdict:
        """What came of it, from measured figures."""
        if self.found is None or self.before is None:
            raise ValueError("search and measure first")
        if self.after is None:
            return nothing_to_choose(self.found.floor, self._max_kl)
        changes = compare(self.before, self.after)
        return diagnose(self.before, self.after, changes, self._prompts.names)

    def finish(self) -> schema.HardeningReport:
        """Give the draft its name if the verdict allows, and report."""
        assert self.before is not None and self.found is not None and self.directions is not None
        verdict = self.verdict()
        corrections = [] if self.correction is None else [self.correction.describe()]
        # With no attacks asked for, nothing was measured with that, and none are reported.
        attacked = self._stress_options
        written: OutputFile | None = None
        if self._draft is not None:
            if verdict.status == "hardened" or (self.options.force and not self.costs_refusals):
                # Somebody may have put a folder there: an adapter must not be left without its model.
                checked_place(self._file, self._draft.moves[0][1])
                written = self._draft.output_file(self.progress)
                if self.options.adapter is not None:
                    # At the chosen strength, so that llama.cpp's `--lora FILE` is the very edit.
                    write_adapter(
                        self.options.adapter,
                        self._scaled_edits(),
                        architecture=self.inspection.architecture or "",
                        gains=adapter_gains(self._file, self.matrices),
                        experts=expert_counts(self.matrices),
                    )
                self._draft.keep()
                self._draft = None
            else:
                self._drop_draft()
        return hardening_report(
            Run(
                inspection=self.inspection,
                reference=self.options.reference,
                matrices=self.matrices,
                prompts=self._prompts,
                judge=self._judge.name,
                max_tokens=self.options.max_tokens,
                method=self.options.method,
                max_kl=self._max_kl,
                rounding=self._rounding.name,
                directions=self.directions,
                search=self.found,
                chosen=self.chosen,
                before=self.before,
                after=self.after,
                changes=compare(self.before, self.after) if self.after else None,
                rounding_check=self.rounding_check,
                stress_before=self.stress_before if self._stress_before_with == attacked else None,
                stress_after=self.stress_after if self._stress_after_with == attacked else None,
                baked=self.baked,
                paper=self.paper,
                findings=[*self.findings, *self._unedited_experts(), *corrections],
                verdict=verdict,
                written=written,
                stages=self._watch.stages,
                seconds=self._watch.total,
                seed=self.options.seed,
                command=self.options.command,
            )
        )

    @property
    def costs_refusals(self) -> bool:
        """Whether the file refuses harmful requests less, as measured: it is not kept then, forced or not."""
        if self.before is None or self.after is None:
            return False
        changes = compare(self.before, self.after)
        return costs_refusals(changes.refusal, changes.guarded_refusal)

    def _drop_draft(self) -> None:
        if self._draft is not None:
            self._draft.drop()
            self._draft = None

    def _unedited_experts(self) -> list[str]:
        """How many experts of the edited stacks got an edit, if not all did."""
        if self.chosen is None:
            return []
        edited = {edit.matrix: edit.tensor for edit in self.chosen.edits if edit.expert is not None}
        counts = expert_counts(self.matrices)
        total = sum(counts[tensor] for tensor in set(edited.values()))
        if len(edited) == total:
            return []
        finding = (
            f"{len(edited)} of {total} experts were edited; the others were sent too few of the calibration "
            "prompts to tell what they answer to."
        )
        return [finding]

    def _metadata(self, edits: Sequence[RankOneEdit]) -> dict[str, NewValue]:
        assert self.chosen is not None and self.directions is not None
        return {
            "rosi.version": __version__,
            "rosi.method": self.options.method,
            "rosi.strength": float(self.chosen.strength),
            "rosi.layer": self.chosen.layer,
            "rosi.rounding": self.options.rounding,
            "rosi.elicited": self.directions.elicitation is not None,
            "rosi.source.sha256": self.inspection.sha256 or "",
            "rosi.source.file": encodable(self.inspection.path.name),
            "rosi.edited_tensors": list(dict.fromkeys(edit.tensor for edit in edits)),
        }
