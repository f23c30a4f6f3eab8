"""JSON: the whole report."""

from __future__ import annotations

from rosi_edge.policy.result import CheckReport


def render(report: CheckReport) -> str:
    return report.model_dump_json(indent=2) + "\n"
