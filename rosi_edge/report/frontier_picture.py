"""The picture of what each setting buys and costs."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from rosi_edge.records.hardening import FrontierPoint, HardeningReport
from rosi_edge.report import numbers
from rosi_edge.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    VERMILLION,
    new_figure,
    percent_axis,
    place_labels,
    reach,
    sign,
    title_with_legend,
)


def frontier(report: HardeningReport) -> Figure:
    """Refusal against benign compliance for every setting tried, on the choosing prompts, and the best point
    of the paper's method beside them."""
    figure = new_figure(5.6)
    axes = figure.subplots()
    points = sorted(report.frontier, key=lambda point: (point.layer, point.strength))
    limit = report.injection.min_compliance
    paper = [report.paper] if report.paper else []
    for point in (*points, *paper):
        _error_bars(axes, point, VERMILLION if point.chosen else GREEN if point in paper else None)
    original = [point for point in points if point.strength == 0]
    chosen = [point for point in points if point.chosen]
    others = [point for point in points if point.strength and not point.chosen]
    enough = [point for point in others if point.answers_enough(limit)]
    too_few = [point for point in others if not point.answers_enough(limit)]
    for group, marker, size, face, edge, words in (
        (enough, "o", 8, BLUE, BLUE, "tried"),
        (too_few, "X", 8, "white", INK, "tried, answers too few"),
        (original, "s", 10, GREY, INK, "original"),
        (paper, "D", 10, GREEN, INK, "paper's method, same limits"),
        (chosen, "*", 17, VERMILLION, INK, "chosen"),
    ):
        if group:
            axes.plot(
                [point.benign_compliance.value for point in group],
                [point.harmful_refusal.value for point in group],
                linestyle="none",
                marker=marker,
                markersize=size,
                markerfacecolor=face,
                markeredgecolor=edge,
                label=words,
                zorder=4 if marker == "*" else 3,
            )
    axes.margins(0.06)
    axes.axvline(limit, color=INK, linestyle="--", linewidth=1.4)
    least = axes.annotate(
        f"least allowed: {numbers.percent(limit)} ",
        (limit, 0.02),
        xycoords=("data", "axes fraction"),
        ha="right",
        va="bottom",
        fontsize=9.5,
    )
    left = min(axes.get_xlim()[0], limit - 0.02)
    axes.axvspan(left, limit, facecolor="#F0F0F0", zorder=0)
    axes.set_xlim(left, max(axes.get_xlim()[1], limit + 0.02))
    axes.set_xlabel("answers harmless requests (right is better)")
    axes.set_ylabel("refuses harmful requests (up is better)")
    percent_axis(axes, "x")
    percent_axis(axes, "y")
    harmful, harmless = (
        " / ".join(map(str, sorted(counts)))
        for counts in (
            {point.harmful_refusal.n for point in (*points, *paper)},
            {point.benign_compliance.n for point in (*points, *paper)},
        )
    )
    title_with_legend(axes, "What each setting buys, and what it costs", 3)
    sign(figure, report.model, f"n = {harmful} harmful, {harmless} harmless; bars: 95 % interval")
    _name_strengths(axes, points, paper, least)
    return figure


def _error_bars(axes: Axes, point: FrontierPoint, colour: str | None) -> None:
    """``colour`` is None for a point that does not stand out."""
    across, up = point.benign_compliance, point.harmful_refusal
    if colour is None and point.strength == 0:
        colour = INK
    axes.errorbar(
        across.value,
        up.value,
        xerr=reach([across]),
        yerr=reach([up]),
        fmt="none",
        ecolor=colour or GREY,
        elinewidth=1.3 if colour else 0.9,
        alpha=0.75 if colour else 0.3,
        zorder=2,
    )


def _name_strengths(axes: Axes, points: list[FrontierPoint], paper: list[FrontierPoint], least: Text) -> None:
    several_layers = len({point.layer for point in points if point.strength}) > 1
    named = [point for point in (*points, *paper) if point.strength]
    spots = [(point.benign_compliance.value, point.harmful_refusal.value) for point in (*points, *paper)]
    labels = []
    for point in named:
        words = f"α = {numbers.strength(point.strength)}"
        if point in paper:
            words = f"paper, {words}"
        if several_layers:
            words += f", layer {point.layer}"
        colour = VERMILLION if point.chosen else GREEN if point in paper else INK
        labels.append(
            axes.annotate(
                words,
                (point.benign_compliance.value, point.harmful_refusal.value),
                xytext=(0, 0),
                textcoords="offset points",
                fontsize=9.5,
                weight="normal" if colour == INK else "bold",
                color=colour,
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
                path_effects=[withStroke(linewidth=2.5, foreground="white", alpha=0.8)],
                zorder=5,
            )
        )
    # The labels that stand out are placed first, so that they get the best places.
    order = sorted(range(len(named)), key=lambda i: (not named[i].chosen, named[i] not in paper))
    place_labels(axes, spots, [labels[i] for i in order], [least])
