"""The table that a person reads."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rosi_edge.basics.text import printable
from rosi_edge.policy.result import CheckReport, Decision, RuleResult, Status

_LONGEST = 400
_STYLES = {Status.PASSED: "green", Status.FAILED: "bold red", Status.COULD_NOT_RUN: "bold yellow"}
_VERDICTS = {
    Decision.PASSED: "bold green",
    Decision.FAILED: "bold red",
    Decision.COULD_NOT_RUN: "bold yellow",
}


def render(report: CheckReport) -> RenderableType:
    table = Table(
        "rule", "", "found", title=Text(printable(report.file.file_name, 120)), title_justify="left"
    )
    for result in report.results:
        words = result.message
        if result.status in (Status.FAILED, Status.COULD_NOT_RUN) and result.remedy:
            words = f"{words}. {result.remedy}."
        # As text: what a file says must not become markup.
        table.add_row(
            Text(result.id), Text(_status(result), style=_style(result)), Text(printable(words, _LONGEST))
        )
    lines = [Text(printable(note, _LONGEST)) for note in report.notes]
    return Group(table, *lines, Text(report.summary, style=_VERDICTS[report.verdict]))


def _status(result: RuleResult) -> str:
    return "warning" if result.status is Status.FAILED and not result.counts else str(result.status)


def _style(result: RuleResult) -> str:
    if result.status is Status.FAILED and not result.counts:
        return "yellow"
    return _STYLES.get(result.status, "dim")
