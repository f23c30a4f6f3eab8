"""Step 7: what came of it, where it lies, and the commands that do it again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from rich.table import Table
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from ..steps import Step
from ..widgets.facts import Facts
from ..widgets.frontier_plot import Dot, FrontierPlot
from ..widgets.frontier_plot import legend as frontier_legend
from ..widgets.interval_strip import IntervalStrip
from ..widgets.plain import Plain
from ..widgets.separation_plot import SeparationPlot
from ..widgets.separation_plot import legend as separation_legend
from .base import StepPane

if TYPE_CHECKING:
    from rosi_edge.records.hardening import FrontierPoint, HardeningReport

_SIGNS = {"hardened": "✓", "ineffective": "✗", "over_refusing": "✗", "degraded": "✗"}


class ReportPane(StepPane):
    STEP = Step.REPORT
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f6", "copy", "Copy the commands", show=False),
        Binding("down", "scroll(1)", "Scroll", show=False),
        Binding("up", "scroll(-1)", "Scroll", show=False),
        Binding("pagedown", "scroll(10)", "Scroll", show=False),
        Binding("pageup", "scroll(-10)", "Scroll", show=False),
    ]

    def body(self) -> Iterable[Widget]:
        with Horizontal():
            with VerticalScroll(id="report", can_focus=False):
                yield Plain(id="verdict")
                yield Facts(id="file")
                yield IntervalStrip(id="strip")
                yield Static(id="figures")
                yield Facts(id="where")
                yield Plain("Without the wizard (F6 copies):", classes="caption")
                yield Plain(id="commands")
            with Vertical(id="pictures"):
                yield Plain(frontier_legend(), id="frontier-legend", classes="legend")
                yield FrontierPlot()
                yield Plain(separation_legend(), id="separation-legend", classes="legend")
                yield SeparationPlot()

    def draw(self) -> None:
        report = self.journey.report
        if report is None:
            return
        from rosi_edge.records.figures import labels, shown_figures
        from rosi_edge.report.numbers import nats, points, rate

        status = report.verdict.status
        verdict = Text.assemble(
            (f"{_SIGNS[status]} {status.replace('_', '-')}", "bold reverse"), f"  {report.verdict.reason}."
        )
        if report.verdict.advice:
            verdict.append(f"\n{report.verdict.advice}.")
        self.query_one("#verdict", Plain).update(verdict)

        after = report.after
        about = self.journey.attribute
        figures = shown_figures(report.before)
        called = labels(figures, about.labels if about else (), short=True)
        rates = [(label, figure.name) for label, figure in zip(called[:-1], figures[:-1], strict=True)]
        self.query_one(IntervalStrip).show(
            [
                (label, getattr(report.before, name), getattr(after, name) if after else None)
                for label, name in rates
            ]
        )
        table = Table(
            box=None, pad_edge=False, header_style="dim", caption="95 % intervals", caption_justify="left"
        )
        for heading in ("", "before", "after", "change"):
            table.add_column(heading, overflow="fold")
        for label, name in rates:
            table.add_row(
                label,
                rate(getattr(report.before, name)),
                rate(getattr(after, name)) if after else "–",
                points(getattr(report.changes, name)) if getattr(report.changes, name, None) else "–",
            )
        table.add_row(called[-1], "–", nats(after.kl_first_token) if after else "–", "–")
        self.query_one("#figures", Static).update(table)
        self._draw_pictures(report)
        self.query_one("#file", Facts).show(self._file(report))
        self.query_one("#where", Facts).show(self._where(report))
        self.query_one("#commands", Plain).update("\n".join(self._commands(report)))

    def _draw_pictures(self, report: HardeningReport) -> None:
        def dot(point: FrontierPoint) -> Dot:
            return Dot(point.harmful_refusal.value, point.benign_compliance.value)

        about = self.journey.attribute
        self.query_one("#frontier-legend", Plain).update(frontier_legend(about))
        self.query_one("#separation-legend", Plain).update(separation_legend(about))
        original = [dot(point) for point in report.frontier if not point.strength]
        chosen = [dot(point) for point in report.frontier if point.chosen]
        self.query_one(FrontierPlot).show(
            original=original[0] if original else None,
            answered=[dot(point) for point in report.frontier if point.strength and not point.chosen],
            chosen=chosen[0] if chosen else None,
            floor=report.injection.min_compliance,
        )
        self.query_one(SeparationPlot).show(report.direction.separation)

    def _file(self, report: HardeningReport) -> list[tuple[str, str]]:
        from rosi_edge.basics.text import megabytes

        rows = []
        if report.output is not None:
            rows.append(("new file", str(self.journey.written)))
            rows.append(("", f"{megabytes(report.output.size)}, sha256 {report.output.sha256}"))
        else:
            rows.append(("new file", "not kept"))
        if report.output is not None and (adapter := self.journey.choices.text("adapter")):
            rows.append(("adapter", adapter))
        if self.journey.report_folder is not None:
            rows.append(("report, pictures", f"{self.journey.report_folder} (report.md, report.json, *.png)"))
        return rows

    def _where(self, report: HardeningReport) -> list[tuple[str, str]]:
        from rosi_edge.report.numbers import rate, seconds

        injection = report.injection
        rows = []
        rows.append(("setting", injection.setting or f"layer {report.direction.layer}"))
        delivered = (
            "" if injection.delivered is None else f", {injection.delivered:.2f} of the edit delivered"
        )
        rows.append(("strength", f"{injection.strength:.4g}{delivered}"))
        if report.stress is not None and report.stress.after is not None:
            rows.append(
                (
                    "jailbreaks succeed",
                    f"{rate(report.stress.before)} before, {rate(report.stress.after)} after",
                )
            )
        rows += [("noticed", finding) for finding in report.findings]
        rows.append(("time", seconds(report.timing.total)))
        return rows

    def _commands(self, report: HardeningReport) -> list[str]:
        return self.journey.choices.commands(
            self.journey.report_folder,
            written=self.journey.written,
            by_hand=self.journey.by_hand,
            force=report.output is not None and report.verdict.status != "hardened",
        )

    def action_scroll(self, lines: int) -> None:
        self.query_one("#report").scroll_relative(y=lines, animate=False)

    def action_copy(self) -> None:
        if self.journey.report is not None:
            self.app.copy_to_clipboard("\n".join(self._commands(self.journey.report)))
            self.app.notify("Copied, if this terminal allows it.")

    def primary(self) -> str:
        return "Finish"

    def again(self) -> str:
        return "Another model"

    def press(self) -> None:
        self.journey.face.leave()

    def press_again(self) -> None:
        # The session must not be closed under work.
        if not self.refused():
            self.journey.start_over()
