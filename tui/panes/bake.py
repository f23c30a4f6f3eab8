"""Step 6: write the new file, measure it and the original."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input, Label

from ..jobs import Activity
from ..screens.question import Question
from ..steps import Step
from ..widgets.plain import Plain
from ..widgets.tensor_table import TensorTable
from .base import StepPane


class BakePane(StepPane):
    STEP = Step.BAKE

    def body(self) -> Iterable[Widget]:
        with Horizontal(classes="field"):
            yield Label("New file")
            yield Input(id="output", compact=True)
        yield Plain(id="place")
        yield TensorTable(id="tensors")

    def arrive(self) -> None:
        field = self.query_one("#output", Input)
        if not field.value:
            field.value = self.wizard.choices.output or str(self._suggestion())
            field.cursor_position = len(field.value)
        super().arrive()

    def _suggestion(self) -> Path:
        path = self.wizard.path
        return self.wizard.start_folder / f"{path.stem if path else 'model'}-hardened.gguf"

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
        table.display = bool(table.row_count)

    def event(self, event: Any) -> None:
        self.query_one(TensorTable).show(event)

    @property
    def _done(self) -> bool:
        return Step.BAKE in self.wizard.done

    def primary(self) -> str:
        return "See the report ›" if self._done else "Bake ›"

    def again(self) -> str:
        return "Bake again" if self._done else ""

    def press(self) -> None:
        if self._done:
            self.wizard.go(Step.REPORT)
        elif self.wizard.report is not None:
            # The file has its name; only the report could not be written.
            self.finish(keep=self.session.options.force)
        else:
            self.check_place()

    def press_again(self) -> None:
        self.check_place()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if not self.works:
            self.check_place()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.draw()

    def check_place(self) -> None:
        """Refuse a place that cannot be written before anything long is done; ask before replacing a file."""
        output, folder = self._output, self.report_folder
        session, library = self.session, self.wizard.library
        if not self.query_one("#output", Input).value.strip():
            self.problem.tell("Give the new file a name.")
            return

        def work(activity: Activity) -> bool:
            place = session.check_target(output)
            library.check_report_folder(folder)
            return place.exists()

        def replace_or_not(wanted: bool | None) -> None:
            if wanted:
                self.bake()
            else:
                self.query_one("#output").focus()

        def then(exists: bool) -> None:
            if not exists:
                self.bake()
                return
            self.app.push_screen(
                Question(
                    "Replace the file?",
                    f"{output} is there already. It stays until the new one is whole and measured.",
                    yes="Replace it",
                    no="Choose another name",
                ),
                replace_or_not,
            )

        self.start("Checking the place", work, then)

    def bake(self) -> None:
        wizard, session, output = self.wizard, self.session, self._output
        wizard.undo_from(Step.BAKE)
        self.forget()
        wizard.choices = replace(wizard.choices, output=str(output))
        session.options = replace(
            session.options, command=wizard.choices.command(self.report_folder), force=False
        )

        def work(activity: Activity) -> Any:
            if session.before is None:
                session.measure_before()
            activity.emit(session.bake(output))
            session.measure_after()
            return session.verdict()

        def then(verdict: Any) -> None:
            if verdict.status == "hardened" or session.after is None:
                self.finish(keep=False)
                return
            self.app.push_screen(
                Question(
                    f"The verdict is: {verdict.status.replace('_', '-')}",
                    f"{verdict.reason}. {verdict.advice}.",
                    yes="Keep the file all the same",
                    no="Do not keep it",
                    default=False,
                ),
                lambda keep: self.finish(keep=bool(keep)),
            )

        self.start("Baking", work, then)

    def finish(self, *, keep: bool) -> None:
        """Give the file its name, or take it away, and write the report."""
        wizard, session, folder = self.wizard, self.session, self.report_folder
        session.options = replace(session.options, force=keep)

        def work(activity: Activity) -> Any:
            report = wizard.report or session.finish()
            wizard.report = report
            with activity.stage("Writing the report and its pictures"):
                wizard.library.write_report(report, folder)
            return report

        def then(report: Any) -> None:
            wizard.report_folder = folder
            wizard.complete(Step.BAKE)
            if self.visible_now:
                wizard.go(Step.REPORT)

        self.start("Finishing", work, then)

    def forget(self) -> None:
        self.query_one(TensorTable).show([])
        self.problem.clear()
