"""JSON: the whole report."""

from __future__ import annotations

from rosi_edge.policy.result import CheckReport
from rosi_edge.report.write import to_json


def render(report: CheckReport) -> str:
    return to_json(report)
