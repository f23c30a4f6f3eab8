"""The application: it shows the step that the journey has come to, and takes the keys."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import ContentSwitcher

from .jobs import Clock
from .journey import Journey
from .memory import Memory
from .panes.bake import BakePane
from .panes.base import StepPane
from .panes.calibrate import CalibratePane
from .panes.checkup import CheckupPane
from .panes.model import ModelPane
from .panes.report import ReportPane
from .panes.strength import StrengthPane
from .panes.try_it import TryPane
from .screens.advanced import Advanced
from .screens.help import HelpScreen
from .screens.question import Question
from .session import Library
from .steps import Step
from .widgets.key_line import KeyLine
from .widgets.step_bar import StepBar

_LOOKS = 10
"""How often a second the screen shows what a job tells."""
_THEMES = ("textual-dark", "textual-light")


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
        journey = Journey(
            self, model, library or Library(), memory or Memory(), start_folder or Path.cwd(), clock
        )
        self.journey = journey
        self._model_pane = ModelPane(journey)
        panes: tuple[StepPane, ...] = (
            self._model_pane,
            *(CheckupPane(journey), CalibratePane(journey), StrengthPane(journey), TryPane(journey)),
            *(BakePane(journey), ReportPane(journey)),
        )
        self._panes = {pane.STEP: pane for pane in panes}
        self._bar = StepBar(id="steps")
        self._switcher = ContentSwitcher(initial=self._model_pane.id)
        remembered = journey.memory.now.theme
        if remembered in _THEMES:
            self.theme = remembered

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
            self.journey.library.preload()

    def _begin(self) -> None:
        remembered = self.journey.memory.now
        named = self.journey.choices.model
        same = named == remembered.model and remembered.folder == str(Path.cwd())
        if remembered.step is None or (named and not same):
            self._use_named()
            return
        step = Step(remembered.step)
        self.push_screen(
            Question(
                "Go on where you stopped?",
                f"Last time {remembered.model} came as far as step {step + 1}, {step.title}. "
                "Your settings are kept. The steps before it are done again by themselves; "
                "a search goes on where it stopped.",
                yes="Go on",
                no="Start anew",
            ),
            self._go_on,
        )

    def _go_on(self, wanted: bool | None) -> None:
        if wanted:
            self.journey.go_on()
        self._use_named()

    def _use_named(self) -> None:
        if model := self.journey.choices.model:
            self._model_pane.use(model)
        else:
            self._model_pane.arrive()

    # --- what the journey asks for ---------------------------------------------------------------------

    def pane(self, step: Step) -> StepPane:
        return self._panes[step]

    def open_step(self, step: Step) -> None:
        pane = self.pane(step)
        self._switcher.current = pane.id
        pane.arrive()

    def press_step(self, step: Step) -> None:
        self.pane(step).press()

    def forget_step(self, step: Step) -> None:
        self.pane(step).forget()

    def refresh_bar(self) -> None:
        bar, journey = self._bar, self.journey
        bar.here, bar.done, bar.working = journey.here, frozenset(journey.done), journey.at_work

    def _look(self) -> None:
        if not self._bar.is_attached:
            return  # on the way out
        self._model_pane.catch_up()
        job = self.journey.jobs.current
        if job is None:
            return
        # Looked at before the last of what it told is taken, so that nothing of it is lost.
        ended = job.activity.outcome is not None
        if (step := self.journey.at_work) is not None:
            self.pane(step).follow(job.activity)
        if ended:
            self.journey.jobs.look()

    # --- keys ------------------------------------------------------------------------------------------

    def action_help(self) -> None:
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.journey.here))

    def action_theme(self) -> None:
        self.theme = _THEMES[(_THEMES.index(self.theme) + 1) % 2] if self.theme in _THEMES else _THEMES[0]
        self.journey.memory.now.theme = self.theme
        self.journey.memory.save()
        self.pane(self.journey.here).draw()

    def _over_steps(self) -> bool:
        return len(self.screen_stack) > 1

    def action_step_back(self) -> None:
        if not self._over_steps():
            self.journey.back()

    def action_step_forward(self) -> None:
        if not self._over_steps() and self.journey.here < Step.REPORT:
            self.journey.go(Step(self.journey.here + 1))

    def action_advanced(self) -> None:
        if self._over_steps():
            return
        if self.journey.jobs.current is not None:
            self.notify("Stop what is running first (Esc), then change the settings.")
            return
        self.push_screen(
            Advanced(self.journey.choices, self.journey.check_choices), self.journey.take_choices
        )

    def action_stop(self) -> None:
        self.journey.jobs.stop()

    def action_interrupt(self) -> None:
        if self.journey.jobs.current is not None:
            self.journey.jobs.stop()
        else:
            self.notify("Ctrl+Q quits.")

    def action_leave(self) -> None:
        if self.journey.jobs.current is None or self._over_steps():
            self.leave()
            return
        self.push_screen(
            Question(
                "Quit?",
                "A step is still working. The next start offers to go on from here.",
                yes="Quit",
                no="Stay",
            ),
            lambda leave: self.leave() if leave else None,
        )

    def _terminate(self) -> None:
        self.leave(130)

    def leave(self, code: int = 0) -> None:
        """End the wizard, with the new file as its result."""
        written = self.journey.written
        self.exit(None if written is None else str(written.absolute()), return_code=code)


def run(model: str) -> tuple[str | None, int]:
    """Run the wizard in this terminal: the path of the file that was written, and an exit code."""
    wizard = Wizard(model)
    try:
        written = wizard.run()
    finally:
        wizard.journey.close()
    code = wizard.return_code or 0
    # Textual's 1 is a fault here; the command's 1 is a finding.
    return written, 2 if code == 1 else code
