"""Markdown for a job's summary page."""

from __future__ import annotations

from rosi_edge.policy.result import CheckReport, Decision, RuleResult, Status
from rosi_edge.report.escape import code, plain, table

_LONGEST = 400
_MARKS = {Decision.PASSED: "✅", Decision.FAILED: "❌", Decision.COULD_NOT_RUN: "⚠️"}
_FIRST = (Status.FAILED, Status.COULD_NOT_RUN, Status.PASSED, Status.NOT_APPLICABLE)


def render(report: CheckReport) -> str:
    lines = [
        f"## {_MARKS[report.verdict]} {code(report.file.file_name)}: {report.verdict}",
        "",
        plain(f"{report.summary}. Policy: {report.policy}.", _LONGEST),
        "",
        table(
            ("rule", "", "found"),
            (
                (
                    code(result.id, in_table=True),
                    _status(result),
                    plain(f"{result.message}. {result.remedy}".strip(". ") + ".", _LONGEST),
                )
                for result in sorted(report.results, key=lambda result: _FIRST.index(result.status))
            ),
        ),
        "",
    ]
    if report.file.sha256 is not None:
        lines.append(f"SHA-256 {code(report.file.sha256)}")
    lines += [f"- {plain(note, _LONGEST)}" for note in report.notes]
    lines.append(f"\nrosi-edge {report.tool_version}, {report.seconds:.1f} s")
    return "\n".join(lines) + "\n"


def _status(result: RuleResult) -> str:
    if result.status is Status.FAILED and not result.counts:
        return "warned"
    return f"**{result.status}**" if result.status is Status.FAILED else str(result.status)
