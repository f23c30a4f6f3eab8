"""The whole path: a model file in, a hardened file and its report out.

prompts → activations → direction → edits → adapter while searching → baked file → evaluation → report

``harden`` walks it in one go; ``HardeningSession`` offers its steps one at a time, for whoever wants to stop
and look in between (the wizard).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rosi_edge.baking.destination import Destination
from rosi_edge.baking.inputs import SharedFactors
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.basics.cancellation import Cancellation, cancellable
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.calibration import Calibration
from rosi_edge.direction.difference import Directions
from rosi_edge.evaluation.behaviour import Behaviour
from rosi_edge.evaluation.stress import Stress, measure_stress
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.hardening.as_report import Run, hardening_report
from rosi_edge.hardening.choosing import Choosing
from rosi_edge.hardening.delivery import Delivery, measure_original
from rosi_edge.hardening.directions import read_directions
from rosi_edge.hardening.engines import HELD
from rosi_edge.hardening.events import Events
from rosi_edge.hardening.opened import OpenModel
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.hardening.rounding_check import check_rounding
from rosi_edge.hardening.verdict import Measured, nothing_to_choose
from rosi_edge.models.rewrite import NewValue
from rosi_edge.prompts.plan import PromptPlan
from rosi_edge.records import hardening as schema
from rosi_edge.records.facts import OutputFile
from rosi_edge.runtime.engine import Engine, ask
from rosi_edge.search.result import AnsweredPoint, SearchResult, best_balance


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
        model: what is hardened.
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
        self.options = options
        self.progress = progress
        self._prompts = prompts
        self._judge = judge
        self._shared = SharedFactors() if shared is None else shared
        self._calibration: Calibration | None = None
        self.directions: Directions | None = None
        self._looked: Sequence[str] = ()
        self._holes: Sequence[str] = ()
        self.found: SearchResult | None = None
        self.paper: AnsweredPoint | None = None
        self.chosen: AnsweredPoint | None = None
        # By what they were measured with: figures are compared, and reported, only if that is the same.
        self._before: dict[int, Behaviour] = {}
        self._stress_before: dict[tuple[int, int], Stress] = {}
        self._forget_file()
        self.model = OpenModel(model, options, progress, held=HELD)

    def _forget_file(self) -> None:
        """Nothing is known of a file that is yet to be written."""
        self._delivery: Delivery | None = None
        self._measured: Measured | None = None
        self._stress_after: dict[tuple[int, int], Stress] = {}
        self.rounding_check: schema.RoundingCheck | None = None

    def __enter__(self) -> HardeningSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything, an unfinished file included."""
        if self._delivery is not None:
            self._delivery.drop()
        self._forget_calibration()
        self.model.close()

    @property
    def cancellation(self) -> Cancellation:
        return self.model.engines.cancellation

    def cancel(self) -> None:
        """Stop the running step at once, from another thread: it ends in KeyboardInterrupt. The session goes
        on from the step before."""
        self.model.engines.cancel()

    @property
    def engine(self) -> Engine:
        """The original model, running; started when first asked for and again after a cancellation."""
        return self.model.engines.original(self.progress)

    @property
    def findings(self) -> list[str]:
        """Sentences about what was noticed on the way."""
        return [*self._looked, *self._holes]

    @property
    def baked(self) -> list[BakedTensor]:
        return [] if self._delivery is None else self._delivery.baked

    @property
    def before(self) -> Behaviour | None:
        return self._before.get(self.options.max_tokens)

    @property
    def after(self) -> Behaviour | None:
        return None if self._measured is None else self._measured.after

    @property
    def stress_before(self) -> Stress | None:
        return self._stress_before.get(self._stress_options)

    @property
    def stress_after(self) -> Stress | None:
        return self._stress_after.get(self._stress_options)

    @property
    def _stress_options(self) -> tuple[int, int]:
        """How many requests are put under attack, and which."""
        return self.options.stress, self.options.seed

    def reconfigure(self, options: HardenOptions) -> None:
        """Other options for the steps to come; a calibration that has been made is kept.

        Raises:
            RosiEdgeError: as the constructor does; the options are those from before then.
        """
        self.model.reconfigure(options)
        self.options = options

    def check_target(self, output: Path) -> list[Path]:
        """The files, or the folder, that the output will be, made absolute: several for a model in parts.

        Raises:
            OutputError: nothing can be written there, or it is the model itself or the adapter.
        """
        return list(self._destination(output).places)

    def _destination(self, output: Path) -> Destination:
        return Destination.of(self.model.weights, output, self.options.adapter)

    # --- calibrate -------------------------------------------------------------------------------------

    @cancellable
    def calibrate(self) -> Directions:
        """Read activations; directions of every layer, and for the conditional method the inputs that keys
        are solved from."""
        self._forget_calibration()
        sets, listener = self._prompts.calibration, self.events.separation
        self.directions, self._calibration, self._looked = read_directions(
            self.model, sets, self._judge, self.options, self.progress, listener
        )
        return self.directions

    def _forget_calibration(self) -> None:
        if self._calibration is not None:
            self._calibration.inputs.close()
        self._calibration = self.directions = None
        self._looked = self._holes = ()

    # --- search ----------------------------------------------------------------------------------------

    @cancellable
    def search(self) -> SearchResult:
        """Which direction, where, how strong; leaves the choice in ``chosen``."""
        options, watch, calibration = self.options, self.model.watch, self._calibration
        conditional = options.method == "conditional"
        if self.directions is None or (conditional and calibration is None):
            raise ValueError("calibrate first")
        choosing = Choosing(self.model, self._prompts.choosing, self._judge, options, self.progress)
        self.paper, self._holes = None, ()
        with watch.measure("search"):
            if conditional and calibration is not None:
                found, self._holes = choosing.conditional(calibration, self.events)
            else:
                found = choosing.paper(self.directions)
        if found.chosen is None and options.force:
            found = replace(found, chosen=best_balance(found))
        self.found = found
        self.choose(found.chosen)
        if conditional and options.paper and options.conditional.strength is None:
            with watch.measure("paper's method"):
                self.paper = choosing.paper_beside(self.directions, found)
        return found

    def choose(self, point: AnsweredPoint | None) -> None:
        """Take another point of the frontier, or of one's own making, than the search did."""
        self.chosen = point

    # --- try -------------------------------------------------------------------------------------------

    @cancellable
    def apply(self, strength: float | None) -> None:
        """Make the chosen edits active in the running engine at some strength; None restores the original."""
        edits = () if self.chosen is None else self.chosen.edits
        self.model.engines.apply(edits, strength if edits else None, self.progress)

    @cancellable
    def answer(self, request: str, on_text: Callable[[str], None], *, max_tokens: int = 200) -> None:
        """Stream the running model's answer to a request, piece by piece."""
        self.engine.stream(self.engine.encode([ask(request)])[0], max_tokens=max_tokens, on_text=on_text)

    # --- before, bake, after ---------------------------------------------------------------------------

    @cancellable
    def measure_before(self) -> Behaviour:
        """The original model on the reporting prompts, and under attack. What has been measured with the same
        options is not measured again."""
        before = self.before
        if before is None:
            before = measure_original(self.model, self._prompts, self._judge, self.options, self.progress)
            self._before = {self.options.max_tokens: before}
            self._measured = None
        if self.options.stress and self.chosen is not None and self.stress_before is None:
            self.apply(None)
            with self.model.watch.measure("stress before"):
                stress = self._stress(self.engine, "Jailbreaks on the original model")
            self._stress_before = {self._stress_options: stress}
        return before

    def _stress(self, engine: Engine, title: str) -> Stress:
        requests = self._prompts.reporting.harmful.take(*self._stress_options)
        return measure_stress(engine, requests, self._judge, progress=self.progress, title=title)

    @cancellable
    def bake(self, output: Path) -> list[BakedTensor]:
        """Write the chosen edits into a draft beside ``output``; ``finish`` gives it its name."""
        destination = self._destination(output)
        if self._delivery is not None:
            self._delivery.drop()
        self._forget_file()
        if self.chosen is None:
            return []
        assert self.directions is not None
        strength = self.chosen.strength
        origin: dict[str, NewValue] = {
            "rosi.method": self.options.method,
            "rosi.strength": float(strength),
            "rosi.layer": self.chosen.layer,
            "rosi.elicited": self.directions.elicitation is not None,
        }
        edits = [edit.scaled(strength) for edit in self.chosen.edits]
        self._delivery = Delivery(self.model, destination, edits, self._prompts, self.options, origin)
        # Other edits than before need other directions of the inputs.
        self._shared.forget()
        known = None if self._calibration is None else self._calibration.inputs
        self._delivery.bake(self._shared, self.progress, known=known, rounded=self.events.baked)
        return self.baked

    @cancellable
    def measure_after(self) -> Behaviour | None:
        """The written file on the reporting prompts, and against the exact edit on the choosing ones."""
        delivery, before = self._delivery, self.before
        if delivery is None or delivery.draft is None or before is None or self.chosen is None:
            return None
        watch = self.model.watch
        with self.model.engines.running(delivery.draft.model, self.progress) as engine:
            after = delivery.measure(engine, before, self._judge, self.progress)
            with watch.measure("compare with the exact edit"):
                self.rounding_check = check_rounding(
                    engine,
                    self.chosen.behaviour,
                    self._prompts.choosing,
                    self._judge,
                    max_tokens=self.options.choosing_tokens,
                    progress=self.progress,
                )
            if self.options.stress:
                with watch.measure("stress after"):
                    stress = self._stress(engine, "Jailbreaks on the hardened file")
                self._stress_after = {self._stress_options: stress}
        self._measured = Measured(before, after, self._prompts.names)
        return after

    def verdict(self) -> schema.HardeningVerdict:
        """What came of it, from measured figures."""
        if self.found is None or self.before is None:
            raise ValueError("search and measure first")
        if self._measured is None:
            return nothing_to_choose(self.found.floor, self.options.max_kl)
        return self._measured.verdict

    @property
    def costs_refusals(self) -> bool:
        """Whether the file refuses harmful requests less, as measured: it is not kept then, forced or not."""
        return self._measured is not None and self._measured.costs_refusals

    def finish(self, *, command: str | None = None, force: bool | None = None) -> schema.HardeningReport:
        """Give the draft its name if the verdict allows, and report.

        Args:
            command: what would do the same again, for the report; None for that of the options.
            force: keep the file whatever the verdict, as in the options.

        Raises:
            OutputError: the file cannot take its place.
        """
        assert self.before is not None and self.found is not None and self.directions is not None
        verdict = self.verdict()
        force = self.options.force if force is None else force
        command = self.options.command if command is None else command
        written: OutputFile | None = None
        if self._delivery is not None and self._delivery.draft is not None:
            if verdict.status == "hardened" or (force and not self.costs_refusals):
                written = self._delivery.keep(self.progress)
            else:
                self._delivery.drop()
        return hardening_report(
            Run(
                model=self.model,
                options=replace(self.options, command=command, force=force),
                prompts=self._prompts,
                judge=self._judge.name,
                directions=self.directions,
                search=self.found,
                chosen=self.chosen,
                before=self.before,
                measured=self._measured,
                rounding_check=self.rounding_check,
                stress_before=self.stress_before,
                stress_after=self.stress_after,
                delivery=self._delivery,
                paper=self.paper,
                findings=self.findings,
                verdict=verdict,
                written=written,
            )
        )
