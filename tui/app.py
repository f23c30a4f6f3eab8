"""The application: which step is shown, what is done, and the one place where jobs are looked after."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import ContentSwitcher

from .choices import FOR_CALIBRATION, FOR_SEARCH, PROMPTS, Choices
from .jobs import Activity, Clock, Jobs, Outcome
from .memory import Memory
from .panes.bake import BakePane
from .panes.base import StepPane
from .panes.calibrate import CalibratePane
from .panes.checkup import CheckupPane
from .panes.model import ModelPane
from .panes.report import ReportPane
from .panes.strength import StrengthPane
from .panes.try_it import TryPane
from .peek import Peek
from .screens.advanced import Advanced
from .screens.help import HelpScreen
from .screens.question import Question
from .session import Library, Session
from .steps import Step
from .widgets.key_line import KeyLine
from .widgets.step_bar import StepBar

if TYPE_CHECKING:
    from rosi_edge.hardening.attribute import Attribute
    from rosi_edge.inspection import Inspection
    from rosi_edge.prompts.plan import PromptPlan
    from rosi_edge.records.hardening import HardeningReport
    from rosi_edge.search.result import FrontierPoint

_PANES: tuple[type[StepPane], ...] = (
    *(ModelPane, CheckupPane, CalibratePane, StrengthPane, TryPane, BakePane, ReportPane),
)
_LOOKS = 10
"""How often a second the screen shows what a job tells."""
_THEMES = ("textual-dark", "textual-light")

_NEW_SESSION = frozenset({*PROMPTS, "seed", "template"}) - {"elicit"}
"""Options that a session is opened with for good."""


class Wizard(App[str | None]):
    """The wizard. Its result is the path of the file that was written, if one was."""

    TITLE = "rosi-edge"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "help", "Help"),
        Binding("f2", "theme", "Theme"),
        Binding("f3", "step_back", "Back"),
        Binding("f4", "step_forward", "Forward"),
        Binding("f5", "advanced", "Advanced"),
        Binding("escape", "stop", "Stop"),
        Binding("ctrl+q", "leave", "Quit", priority=True),
        Binding("ctrl+c", "interrupt", "Stop", show=False),
    ]

    def __init__(
        self,
        model: str = "",
        *,
        library: Library | None = None,
        memory: Memory | None = None,
        start_folder: Path | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (130, "-wide")]
        self.library = library or Library()
        self.memory = memory or Memory()
        self.start_folder = start_folder or Path.cwd()
        self.jobs = Jobs(clock)
        self.peek = Peek(self.library.inspect)
        self.choices = Choices(model)
        self.here = Step.MODEL
        self.done: set[Step] = set()
        self.path: Path | None = None
        self.inspection: Inspection | None = None
        self.prompts: PromptPlan | None = None
        self.attribute: Attribute | None = None
        self.session: Session | None = None
        self.report: HardeningReport | None = None
        self.report_folder: Path | None = None
        self._panes = {kind.STEP: kind(id=_identity(kind.STEP)) for kind in _PANES}
        self._bar = StepBar(id="steps")
        self._switcher = ContentSwitcher(initial=_identity(Step.MODEL))
        self._going_on_to: Step | None = None
        self._remembered_strength: float | None = None
        if self.memory.now.theme in _THEMES:
            self.theme = self.memory.now.theme or _THEMES[0]

    def compose(self) -> ComposeResult:
        yield self._bar
        with self._switcher:
            yield from self._panes.values()
        yield KeyLine()

    def on_mount(self) -> None:
        self.set_interval(1 / _LOOKS, self._look)
        with suppress(NotImplementedError, RuntimeError, ValueError, AttributeError):
            # A polite kill, or a lost connection, leaves the terminal and the disk as Ctrl+Q does.
            for kind in (signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(kind, self._terminate)
        threading.Thread(target=self._preload, name="preload", daemon=True).start()
        self.call_after_refresh(self._begin)

    def _preload(self) -> None:
        # Whatever is wrong with it will be wrong, and said, where it is needed.
        with suppress(Exception):
            self.library.preload()

    def _begin(self) -> None:
        remembered = self.memory.now
        named = self.choices.model
        same = named == remembered.model and remembered.folder == str(Path.cwd())
        if remembered.step is not None and (same or not named):
            step = Step(remembered.step)
            self.push_screen(
                Question(
                    "Go on where you stopped?",
                    f"Last time {remembered.model} came as far as step {step + 1}, {step.title}. "
                    "What was set is kept; the steps before are done again by themselves, and a search goes "
                    "on where it stopped.",
                    yes="Go on",
                    no="Start anew",
                ),
                self._go_on,
            )
        elif named:
            self.model_pane.use(named)
        else:
            self.pane(Step.MODEL).arrive()

    def _go_on(self, wanted: bool | None) -> None:
        remembered = self.memory.now
        if wanted:
            with suppress(OSError):
                # Names of files mean what they meant then.
                os.chdir(remembered.folder or ".")
            self.choices = remembered.choices
            self._going_on_to = Step(remembered.step or 0)
            self._remembered_strength = remembered.strength
            self.model_pane.use(self.choices.model)
        elif self.choices.model:
            self.model_pane.use(self.choices.model)
        else:
            self.pane(Step.MODEL).arrive()

    # --- steps -----------------------------------------------------------------------------------------

    def pane(self, step: Step) -> StepPane:
        return self._panes[step]

    @property
    def model_pane(self) -> ModelPane:
        pane = self.pane(Step.MODEL)
        assert isinstance(pane, ModelPane)
        return pane

    @property
    def bake_pane(self) -> BakePane:
        pane = self.pane(Step.BAKE)
        assert isinstance(pane, BakePane)
        return pane

    def reachable(self, step: Step) -> bool:
        return all(earlier in self.done for earlier in Step if earlier < step)

    def go(self, step: Step) -> None:
        """Show a step, if all before it are done."""
        if not self.reachable(step):
            return
        self.here = step
        self._switcher.current = _identity(step)
        self.pane(step).arrive()

    def complete(self, step: Step) -> None:
        """A step is done."""
        self.done.add(step)
        self.remember()
        self.refresh_bar()
        if self._going_on_to is not None:
            # Once this job's ending has been dealt with.
            self.call_later(self._further, step)

    def remember(self) -> None:
        """Keep what is set, and how far it came, for the next start."""
        if self.path is None:
            # Nothing has been begun that could be gone on with; what was begun before stays remembered.
            return
        reached = max(step for step in Step if self.reachable(step))
        if self._going_on_to is not None:
            # Whoever quits on the way there wants to go there the next time too.
            reached = max(reached, self._going_on_to)
        finished = Step.BAKE in self.done
        self.memory.keep(self.choices, None if finished else reached, self._strength())

    def _further(self, step: Step) -> None:
        target = self._going_on_to
        if target is None:
            return
        following = Step(step + 1)
        if following >= target:
            self._going_on_to = None
            self.go(min(following, target))
            return
        self.go(following)
        if following is Step.TRY:
            self.complete(Step.TRY)
        else:
            self.pane(following).press()

    def halt(self) -> None:
        """Something went wrong, or was stopped: nothing goes on by itself any more."""
        self._going_on_to = None

    def undo_from(self, step: Step) -> None:
        """What this step and the later ones found no longer holds."""
        self.done -= {done for done in self.done if done >= step}
        self.report = None
        self.report_folder = None
        for later in Step:
            if later > step:
                self.pane(later).forget()
        self.remember()
        self.refresh_bar()

    def set_model(self, reference: str, path: Path) -> None:
        """Another model, or the same again: whatever was known of it is found again."""
        if self.path != path:
            kept = self.choices.output if self._going_on_to is not None else ""
            self.choices = replace(self.choices, output=kept)
            # The name in the field belongs to the file before: its hardened file would be overwritten.
            self.bake_pane.suggest_anew()
        self.choices = replace(self.choices, model=reference)
        self.path = path
        fetched = reference == "demo" or reference.startswith(("demo:", "hf:"))
        self.memory.used(reference if fetched else str(path.absolute()))
        self._reopen()
        if self._going_on_to is None:
            self.complete(Step.MODEL)
        else:
            self.done.add(Step.MODEL)
        self.go(Step.CHECKUP)
        # At once: a key between opening the step and its work would find the step idle.
        self.pane(Step.CHECKUP).press()
        if self._going_on_to is Step.CHECKUP:
            self._going_on_to = None

    def _reopen(self) -> None:
        session, self.session = self.session, None
        self.inspection = None
        self.prompts = None
        self.attribute = None
        if session is not None:
            threading.Thread(target=session.close, daemon=True).start()
        self.undo_from(Step.CHECKUP)

    # --- the chosen point ------------------------------------------------------------------------------

    @property
    def by_hand(self) -> tuple[int, float] | None:
        """Layer and strength of the point in use, where it is not the one that the search took."""
        session = self.session
        if session is None or session.found is None or session.chosen is None:
            return None
        point = session.chosen
        return None if point is session.found.chosen else (point.layer, point.strength)

    def _strength(self) -> float | None:
        # While a search is done anew, nothing of what it finds has been chosen yet.
        by_hand = self.by_hand if Step.STRENGTH in self.done else None
        return by_hand[1] if by_hand else self._remembered_strength

    def choose(self, point: FrontierPoint) -> None:
        """Take another point of the frontier."""
        assert self.session is not None
        self.session.choose(point)
        self.undo_from(Step.TRY)
        self.complete(Step.STRENGTH)

    def choose_remembered(self) -> None:
        """After a search that was gone on with: the point that had been taken by hand, if it is there."""
        strength, self._remembered_strength = self._remembered_strength, None
        session = self.session
        if strength is None or session is None or session.found is None:
            return
        for point in session.found.frontier:
            if point.strength == strength:
                self.choose(point)
                return

    # --- jobs ------------------------------------------------------------------------------------------

    def start(
        self,
        owner: StepPane,
        title: str,
        work: Callable[[Activity], Any],
        then: Callable[[Outcome], None],
        *,
        discard: Callable[[Any], None] | None = None,
    ) -> bool:
        """Do slow work for a step in a thread, the session reporting to it."""
        session = self.session

        def attached(activity: Activity) -> Any:
            if session is not None:
                from rosi_edge.hardening.events import Events

                session.progress = activity
                session.events = Events(separation=activity.emit, tried=activity.emit, baked=activity.emit)
            return work(activity)

        cancel = None if session is None else session.cancel
        return self.jobs.start(owner, title, attached, then, cancel=cancel, discard=discard)

    def _look(self) -> None:
        if not self._bar.is_attached:
            return  # on the way out
        self.model_pane.catch_up()
        job = self.jobs.current
        if job is None:
            return
        # Looked at before the last of what it told is taken, so that nothing of it is lost.
        ended = job.activity.outcome is not None
        if isinstance(job.owner, StepPane):
            job.owner.follow(job.activity)
        if ended:
            self.jobs.look()

    def refresh_bar(self) -> None:
        bar = self._bar
        bar.here = self.here
        bar.done = frozenset(self.done)
        job = self.jobs.current
        bar.working = job.owner.STEP if job is not None and isinstance(job.owner, StepPane) else None

    # --- settings --------------------------------------------------------------------------------------

    def _check_choices(self, choices: Choices) -> None:
        """Raise what is wrong with settings, or have the session use them. In a thread: they may name files
        that take long to read."""
        choices.requests()
        options = choices.options(self.memory.journals)
        if self.session is not None:
            self.session.reconfigure(options)

    def take_choices(self, choices: Choices | None) -> None:
        """Use other settings, which have been checked; only what depends on them is done again."""
        if choices is None:
            return
        changed = self.choices.changed(choices)
        self.choices = choices
        self.remember()
        if not changed or self.session is None:
            if changed and self.path is not None and self.here > Step.MODEL:
                self._reopen()
                self.go(Step.CHECKUP)
            return
        if changed & _NEW_SESSION:
            self._reopen()
            self.go(Step.CHECKUP)
            self.pane(Step.CHECKUP).press()
            return
        found = self.session.found
        if found is not None and found.chosen is not None and choices.has("force"):
            # A point that keeps the constraints is not taken by force: only the new file depends on it.
            for_search = FOR_SEARCH - {"force"}
        else:
            for_search = FOR_SEARCH
        for names, step in ((FOR_CALIBRATION, Step.CALIBRATE), (for_search, Step.STRENGTH)):
            if changed & names:
                self._redo(step)
                return
        self._redo(Step.BAKE)

    def _redo(self, step: Step) -> None:
        self.undo_from(step)
        self.pane(step).forget()
        if self.here > step:
            self.go(step)
        else:
            self.pane(self.here).arrive()

    # --- keys ------------------------------------------------------------------------------------------

    def action_help(self) -> None:
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.here))

    def action_theme(self) -> None:
        self.theme = _THEMES[(_THEMES.index(self.theme) + 1) % 2] if self.theme in _THEMES else _THEMES[0]
        self.memory.now.theme = self.theme
        self.memory.save()
        self.pane(self.here).draw()

    def _over_steps(self) -> bool:
        return len(self.screen_stack) > 1

    def action_step_back(self) -> None:
        if not self._over_steps() and self.here > Step.MODEL:
            self.go(Step(self.here - 1))

    def action_step_forward(self) -> None:
        if not self._over_steps() and self.here < Step.REPORT:
            self.go(Step(self.here + 1))

    def action_advanced(self) -> None:
        if self._over_steps():
            return
        if self.jobs.current is not None:
            self.notify("Stop what is running first (Esc), then change the settings.")
            return
        self.push_screen(Advanced(self.choices, self._check_choices), self.take_choices)

    def action_stop(self) -> None:
        self.jobs.stop()

    def action_interrupt(self) -> None:
        if self.jobs.current is not None:
            self.jobs.stop()
        else:
            self.notify("Ctrl+Q quits.")

    def action_leave(self) -> None:
        if self.jobs.current is None or self._over_steps():
            self.exit(self._result())
            return
        self.push_screen(
            Question(
                "Quit?",
                "A step is still working. The next start offers to go on from here.",
                yes="Quit",
                no="Stay",
            ),
            lambda leave: self.exit(self._result()) if leave else None,
        )

    def _terminate(self) -> None:
        self.exit(self._result(), return_code=130)

    def _result(self) -> str | None:
        return None if self.written is None else str(self.written.absolute())

    @property
    def written(self) -> Path | None:
        """The new file, where there is one: of a model in parts the first."""
        if self.report is None or self.report.output is None:
            return None
        return Path(self.choices.output).expanduser().with_name(self.report.output.file_name)

    def finish(self) -> None:
        """All is done."""
        self.exit(self._result())

    def start_over(self) -> None:
        """Another model, with the same settings."""
        if self.pane(self.here).refused():
            # The session would be closed under the work, and what that ends with be taken for a new model's.
            return
        # First of all: without a file nothing is remembered, so that this one, which is done, stays done.
        self.path = None
        self._reopen()
        self.choices = replace(self.choices, model="", output="")
        self.done.clear()
        self.here = Step.MODEL
        self.go(Step.MODEL)

    def close(self) -> None:
        """Stop whatever still works and let go of the model; after the application has ended."""
        with ExitStack() as closing:
            # Each is closed whatever happens to the others; the last one named is the first.
            closing.callback(self.memory.close)
            closing.callback(self.peek.close)
            if self.session is not None:
                closing.callback(self.session.close)
            closing.callback(self.jobs.close)


def _identity(step: Step) -> str:
    return f"step-{step.name.lower()}"


def run(model: str) -> tuple[str | None, int]:
    """Run the wizard in this terminal: the path of the file that was written, and an exit code."""
    # Python's keeper of shared resources hands on standard error when it starts, and while the wizard has the
    # terminal there is none to hand on. Without the keeper no model can be started.
    if os.name == "posix":
        resource_tracker.ensure_running()
    wizard = Wizard(model)
    try:
        written = wizard.run()
    finally:
        wizard.close()
    code = wizard.return_code or 0
    # Textual's 1 is a fault here; the command's 1 is a finding.
    return written, 2 if code == 1 else code
