"""A badge (SVG) that says the verdict and nothing else; no fonts or servers are asked for."""

from __future__ import annotations

from rosi_edge.policy.result import CheckReport, Decision

_COLOURS = {Decision.PASSED: "#2ea043", Decision.FAILED: "#cf222e", Decision.COULD_NOT_RUN: "#9a6700"}
_LABEL = "rosi-edge"
_CHARACTER = 7
_PADDING = 12


def render(report: CheckReport) -> str:
    text = str(report.verdict)
    left = _PADDING + _CHARACTER * len(_LABEL)
    right = _PADDING + _CHARACTER * len(text)
    width = left + right
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" '
        f'aria-label="{_LABEL}: {text}">\n'
        f"  <title>{_LABEL}: {text}</title>\n"
        f'  <rect width="{left}" height="20" fill="#444"/>\n'
        f'  <rect x="{left}" width="{right}" height="20" fill="{_COLOURS[report.verdict]}"/>\n'
        '  <g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">\n'
        f'    <text x="{left / 2:g}" y="14">{_LABEL}</text>\n'
        f'    <text x="{left + right / 2:g}" y="14">{text}</text>\n'
        "  </g>\n"
        "</svg>\n"
    )
