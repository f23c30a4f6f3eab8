"""Step 6: write the new file, measure it and the original."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input, Label

from rosi_edge.commands.default_output import default_output

from ..jobs import Activity
from ..screens.question import Question
from ..steps import Step
from ..widgets.plain import Plain
from ..widgets.tensor_table import TensorTable
from .base import StepPane

if TYPE_CHECKING:
    from rosi_edge.records.hardening import HardeningReport

    from ..session import Session


class BakePane(StepPane):
    STEP = Step.BAKE

    def body(self) -> Iterable[Widget]:
        with Horizontal(classes="field"):
            yield Label("New file")
            yield Input(id="output", compact=True)
        yield Plain(id="place")
        yield TensorTable(id="tensors")

    def on_mount(self) -> None:
        self._named_for: Path | None = None
        self._whole: Path | None = None
        """The new file that lies baked beside its place, without its name."""
        self._folder = Path()
        """Where its report goes. Settled with the file's name: the field may say something else by then."""

    def arrive(self) -> None:
        field = self.query_one("#output", Input)
        if not field.value or self._named_for != self.journey.path:
            # The name in the field belongs to another model: its hardened file would be overwritten.
            self._named_for = self.journey.path
            field.value = self.journey.choices.output or str(self._suggestion())
            field.cursor_position = len(field.value)
        super().arrive()

    def _suggestion(self) -> Path:
        path = self.journey.path
        assert path is not None
        return default_output(self.journey.choices.model, path)

    @property
    def _output(self) -> Path:
        # Unlike Path's own, this leaves what it cannot expand as it is, for the library to refuse.
        return Path(os.path.expanduser(self.query_one("#output", Input).value.strip()))  # noqa: PTH111

    @property
    def report_folder(self) -> Path:
        return self._output.parent / f"{self._output.stem or 'model'}-report"

    def draw(self) -> None:
        self.query_one("#place", Plain).update(
            f"The original stays as it is. The report goes to {self.report_folder.name}/ beside the new file."
        )
        table = self.query_one(TensorTable)
        session = self.journey.session
        if not self.works and session is not None and not session.baked:
            # What was rounded before a bake was stopped is gone with its draft.
            table.clear()
        table.display = bool(table.row_count)

    def event(self, event: Any) -> None:
        self.query_one(TensorTable).add(event)

    @property
    def _done(self) -> bool:
        return Step.BAKE in self.journey.done

    def primary(self) -> str:
        return "See the report ›" if self._done else "Bake ›"

    def again(self) -> str:
        # What is wrong with a whole file may be cured only by baking it anew.
        return "Bake again" if self._done or self._whole is not None else ""

    def press(self) -> None:
        if self._done:
            self.journey.go(Step.REPORT)
        elif self.journey.report is not None:
            # The file has its name; only the report could not be written.
            self.finish(self._folder, keep=False)
        else:
            self.check_place()

    def press_again(self) -> None:
        self.check_place(anew=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if not self.works:
            self.check_place()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.draw()

    def check_place(self, *, anew: bool = False) -> None:
        """Refuse a place that cannot be written before anything long is done; ask before replacing a file.

        Args:
            anew: bake again, though a file may lie there whole.
        """
        output, folder = self._output, self.report_folder
        session, library = self.session, self.journey.library
        if not self.query_one("#output", Input).value.strip():
            self.problem.tell("Give the new file a name.")
            return

        def work(activity: Activity) -> list[Path]:
            places = session.check_target(output)
            library.check_report_folder(folder)
            adapter = session.options.adapter
            # Shown as it was typed; the parts of a model have names of their own.
            return [
                *(output.with_name(place.name) for place in places if place.exists()),
                *([adapter] if adapter is not None and adapter.exists() else []),
            ]

        def replace_or_not(wanted: bool | None) -> None:
            if wanted:
                self.bake(output, folder, anew=anew)
            else:
                self.query_one("#output").focus()

        def then(there: list[Path]) -> None:
            if not there:
                self.bake(output, folder, anew=anew)
                return
            names = " and ".join(str(path) for path in there)
            verb = "is" if len(there) == 1 else "are"
            stays = "It stays" if len(there) == 1 else "They stay"
            self.app.push_screen(
                Question(
                    "Replace the file?" if len(there) == 1 else "Replace the files?",
                    f"{names} {verb} there already. {stays} until the new one is whole and measured.",
                    yes="Replace it" if len(there) == 1 else "Replace them",
                    no="Choose another name",
                ),
                replace_or_not,
            )

        self.start("Checking the place", work, then)

    def bake(self, output: Path, folder: Path, *, anew: bool) -> None:
        """Bake, unless that has been done already and is not asked for ``anew``, measure, and finish."""
        if self.refused():
            return
        journey, session = self.journey, self.session
        journey.undo_from(Step.BAKE)
        self._folder = folder
        if goes_on := self._whole == output and not anew:
            # Stopped while the file was measured: what has been rounded is whole.
            self.problem.clear()
        else:
            self.forget()
        journey.choices = replace(journey.choices, output=str(output))
        journey.remember()
        force = journey.choices.has("force")

        def work(activity: Activity) -> Any:
            session.measure_before()
            if not goes_on:
                session.bake(output)
            self._whole = output
            if not goes_on or session.after is None:
                self._measure(session)
            return session.verdict()

        def then(verdict: Any) -> None:
            decided = verdict.status == "hardened" or session.after is None or session.costs_refusals
            if decided or force:
                self.finish(folder, keep=force)
                return
            self.app.push_screen(
                Question(
                    f"The verdict is: {verdict.status.replace('_', '-')}",
                    f"{verdict.reason}. {verdict.advice}.",
                    yes="Keep the file anyway",
                    no="Do not keep it",
                    default=False,
                ),
                lambda keep: self.finish(folder, keep=bool(keep)),
            )

        self.start("Baking", work, then)

    def _measure(self, session: Session) -> None:
        """Measure the new file. What is stopped may go on with it; what fails may be the file's own fault."""
        try:
            session.measure_after()
        except KeyboardInterrupt:
            raise
        except BaseException:
            self._whole = None
            raise

    def finish(self, folder: Path, *, keep: bool) -> None:
        """Give the file its name, or take it away, and write the report."""
        journey = self.journey

        def work(activity: Activity) -> Any:
            report = journey.report or self._finished(keep, folder)
            journey.report = report
            with activity.stage("Writing the report and its pictures"):
                journey.library.write_report(report, folder)
            return report

        def then(report: Any) -> None:
            journey.report_folder = folder
            journey.complete(Step.BAKE)
            if self.visible_now:
                journey.go(Step.REPORT)

        self.start("Finishing", work, then)

    def _finished(self, keep: bool, folder: Path) -> HardeningReport:
        journey, session = self.journey, self.session
        repeating = journey.choices.repeating(by_hand=journey.by_hand, force=keep)
        report = session.finish(command=repeating.command(folder), force=keep)
        # Only now: what goes wrong before this costs neither the file nor what was measured of it.
        self._whole = None
        return report

    def forget(self) -> None:
        self._whole = None
        self.query_one(TensorTable).clear()
        self.problem.clear()
