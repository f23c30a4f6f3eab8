"""The picture of an evaluation: every figure with its interval."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rosi_edge.basics.text import printable
from rosi_edge.models.atomic import atomic_write
from rosi_edge.records.evaluation import EvaluationReport, SuiteFigure
from rosi_edge.report.drawing import (
    BLUE,
    GREY,
    INK,
    caption,
    house_style,
    new_figure,
    percent_axis,
    png,
    reach,
    title_with_legend,
)

_SIDES = (
    # words, colour, marker, and how far from the figure's line it is drawn
    ("base", GREY, "s", 0.16),
    ("model", BLUE, "o", -0.16),
)
_PANELS = (
    ("rate", "share"),
    ("nats", "nats (0 is no change)"),
    ("ratio", "ratio (1 is no change)"),
    ("rate per 10,000 tokens", "change in 10,000 tokens (0 is no change)"),
)


def evaluation(report: EvaluationReport) -> Figure:
    """Every figure of an evaluation with its 95 % interval, the base above the model; a panel a unit."""
    figures = [figure for suite in report.suites.values() for figure in suite.figures.values()]
    panels = [(unit, words, [f for f in figures if f.unit == unit]) for unit, words in _PANELS]
    panels = [panel for panel in panels if panel[2]]
    heights = [len(shown) for _, _, shown in panels]
    figure = new_figure(1.6 + 0.42 * sum(heights) + 0.75 * len(panels))
    rows = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[n + 0.8 for n in heights])[:, 0]
    for axes, (unit, words, shown) in zip(rows, panels, strict=True):
        _forest(axes, shown)
        axes.set_xlabel(words)
        if "rate" in unit:
            percent_axis(axes, "x")
        if unit == "rate":
            axes.set_xlim(-0.02, 1.02)
        else:
            axes.axvline(1.0 if unit == "ratio" else 0.0, color=INK, linestyle="--", linewidth=1.2)
    title_with_legend(rows[0], "What was measured, with 95 % intervals", 2)
    name = report.model.name or report.model.file_name
    judge = f"; judge: {report.judge.name}" if report.judge else ""
    caption(figure, f"{name[:50]}{judge}; seed {report.seed}")
    return figure


def _forest(axes: Axes, shown: list[SuiteFigure]) -> None:
    lines = range(len(shown))[::-1]
    for words, colour, marker, above in _SIDES:
        sides = [(line, f if words == "model" else f.base) for line, f in zip(lines, shown, strict=True)]
        points = [(line, estimate) for line, estimate in sides if estimate is not None]
        if not points:
            continue
        axes.errorbar(
            [estimate.value for _, estimate in points],
            [line + above for line, _ in points],
            xerr=reach([estimate for _, estimate in points]),
            fmt=marker,
            color=colour,
            markersize=6,
            elinewidth=1.4,
            capsize=3,
            label=words,
        )
    senses = {"higher": " ↑", "lower": " ↓", None: ""}
    # Labels may hold the name of a question file: no mathematics in them.
    axes.set_yticks(
        list(lines),
        [printable(f"{f.label}{senses[f.better]}  n={f.n}", 70) for f in shown],
        parse_math=False,
        fontsize=9.5,
    )
    axes.set_ylim(-0.6, len(shown) - 0.4)


def draw_evaluation(report: EvaluationReport, target: Path) -> None:
    """Write the picture of an evaluation.

    Raises:
        OutputError: it cannot be written there.
    """
    with house_style():
        content = png(evaluation(report))
    with atomic_write(target, size=len(content)) as stream:
        stream.write(content)
