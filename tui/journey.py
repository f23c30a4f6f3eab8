"""How far the wizard came: what is set, the session, and what each step found. It knows no widgets."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rosi_edge.sources.resolve import is_fetched

from .choices import FOR_CALIBRATION, FOR_SEARCH, FOR_SESSION, Choices
from .jobs import Activity, Clock, Jobs, Outcome
from .memory import Memory
from .peek import Peek
from .session import Library, Session
from .steps import Step

if TYPE_CHECKING:
    from rosi_edge.hardening.attribute import Attribute
    from rosi_edge.inspection import Inspection
    from rosi_edge.prompts.plan import PromptPlan
    from rosi_edge.records.hardening import HardeningReport
    from rosi_edge.search.result import AnsweredPoint


class Face(Protocol):
    """What the journey asks of whoever shows it."""

    def open_step(self, step: Step) -> None:
        """Show a step."""

    def press_step(self, step: Step) -> None:
        """Do what Enter does at a step."""

    def forget_step(self, step: Step) -> None:
        """What a step has shown no longer holds."""

    def refresh_bar(self) -> None:
        """Another step is done, or none works any more."""

    def call_later(self, callback: Callable[[Step], None], step: Step) -> bool:
        """Call when all that has happened by now has been dealt with."""

    def leave(self) -> None:
        """End the wizard."""


class Journey:
    """One run of the wizard, from the model to the report.

    Attributes:
        here: the step that is shown.
        path: the model's file, once it has been found.
        going_on_to: the step that is being made for by itself, after an earlier run.
    """

    def __init__(
        self, face: Face, model: str, library: Library, memory: Memory, start_folder: Path, clock: Clock
    ) -> None:
        self.face = face
        self.library = library
        self.memory = memory
        self.start_folder = start_folder
        self.jobs = Jobs(clock)
        self.peek = Peek(library.inspect)
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
        self.going_on_to: Step | None = None
        self._remembered_strength: float | None = None

    # --- steps -----------------------------------------------------------------------------------------

    def reachable(self, step: Step) -> bool:
        return all(earlier in self.done for earlier in Step if earlier < step)

    def go(self, step: Step) -> None:
        """Show a step, if all before it are done."""
        if self.reachable(step):
            self.here = step
            self.face.open_step(step)

    def back(self) -> None:
        if self.here > Step.MODEL:
            self.go(Step(self.here - 1))

    def complete(self, step: Step) -> None:
        """A step is done."""
        self.done.add(step)
        self.remember()
        self.face.refresh_bar()
        if self.going_on_to is not None:
            # Once this job's ending has been dealt with.
            self.face.call_later(self._further, step)

    def undo_from(self, step: Step) -> None:
        """What this step and the later ones found no longer holds."""
        self.done -= {done for done in self.done if done >= step}
        self.report = None
        self.report_folder = None
        for later in Step:
            if later > step:
                self.face.forget_step(later)
        self.remember()
        self.face.refresh_bar()

    def remember(self) -> None:
        """Keep what is set, and how far it came, for the next start."""
        if self.path is None:
            # Nothing has been begun that could be gone on with; what was begun before stays remembered.
            return
        reached = max(step for step in Step if self.reachable(step))
        if self.going_on_to is not None:
            # Whoever quits on the way there wants to go there the next time too.
            reached = max(reached, self.going_on_to)
        finished = Step.BAKE in self.done
        self.memory.keep(self.choices, None if finished else reached, self._strength())

    def go_on(self) -> None:
        """Set what was set in an earlier run, and make for the step that it reached."""
        remembered = self.memory.now
        with suppress(OSError):
            # Names of files mean what they meant then.
            os.chdir(remembered.folder or ".")
        self.choices = remembered.choices
        self.going_on_to = Step(remembered.step or 0)
        self._remembered_strength = remembered.strength

    def _further(self, step: Step) -> None:
        target = self.going_on_to
        if target is None:
            return
        following = Step(step + 1)
        if following >= target:
            self.going_on_to = None
            self.go(min(following, target))
            return
        self.go(following)
        if following is Step.TRY:
            self.complete(Step.TRY)
        else:
            self.face.press_step(following)

    def halt(self) -> None:
        """Something went wrong, or was stopped: nothing goes on by itself any more."""
        self.going_on_to = None

    # --- the model -------------------------------------------------------------------------------------

    def set_model(self, reference: str, path: Path) -> None:
        """Another model, or the same again: whatever was known of it is found again."""
        if self.path != path:
            kept = self.choices.output if self.going_on_to is not None else ""
            self.choices = replace(self.choices, output=kept)
        self.choices = replace(self.choices, model=reference)
        self.path = path
        self.memory.used(reference if is_fetched(reference) else str(path.absolute()))
        self._reopen()
        if self.going_on_to is None:
            self.complete(Step.MODEL)
        else:
            self.done.add(Step.MODEL)
        self.go(Step.CHECKUP)
        # At once: a key between opening the step and its work would find the step idle.
        self.face.press_step(Step.CHECKUP)
        if self.going_on_to is Step.CHECKUP:
            self.going_on_to = None

    def start_over(self) -> None:
        """Another model, with the same settings."""
        # First of all: without a file nothing is remembered, so that this one, which is done, stays done.
        self.path = None
        self._reopen()
        self.choices = replace(self.choices, model="", output="")
        self.done.clear()
        self.go(Step.MODEL)

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

    def choose(self, point: AnsweredPoint) -> None:
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

    @property
    def at_work(self) -> Step | None:
        """The step whose job is running."""
        job = self.jobs.current
        return job.owner if job is not None and isinstance(job.owner, Step) else None

    def start(
        self,
        owner: Step,
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

    # --- settings --------------------------------------------------------------------------------------

    def check_choices(self, choices: Choices) -> None:
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
        if changed & FOR_SESSION:
            self._reopen()
            self.go(Step.CHECKUP)
            self.face.press_step(Step.CHECKUP)
            return
        found = self.session.found
        for_search = FOR_SEARCH
        if found is not None and found.chosen is not None and choices.has("force"):
            # A point that keeps the constraints is not taken by force: only the new file depends on it.
            for_search -= {"force"}
        for names, step in ((FOR_CALIBRATION, Step.CALIBRATE), (for_search, Step.STRENGTH)):
            if changed & names:
                self._redo(step)
                return
        self._redo(Step.BAKE)

    def _redo(self, step: Step) -> None:
        self.undo_from(step)
        self.face.forget_step(step)
        if self.here > step:
            self.go(step)
        else:
            self.face.open_step(self.here)

    # --- the end ---------------------------------------------------------------------------------------

    @property
    def written(self) -> Path | None:
        """The new file, where there is one: of a model in parts the first."""
        if self.report is None or self.report.output is None:
            return None
        return Path(self.choices.output).expanduser().with_name(self.report.output.file_name)

    def close(self) -> None:
        """Stop whatever still works and let go of the model."""
        with ExitStack() as closing:
            # Each is closed whatever happens to the others; the last one named is the first.
            closing.callback(self.memory.close)
            closing.callback(self.peek.close)
            if self.session is not None:
                closing.callback(self.session.close)
            closing.callback(self.jobs.close)
