"""The pictures of a hardening report, as matplotlib figures and as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rosi_edge.models.architectures import Kind
from rosi_edge.records.figures import FIGURES, Figures, FigureWords
from rosi_edge.records.hardening import EditedTensor, HardeningReport
from rosi_edge.report import numbers
from rosi_edge.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALE_GREY,
    SKY_BLUE,
    VERMILLION,
    house_style,
    new_figure,
    percent_axis,
    png,
    reach,
    sign,
    title_with_legend,
)
from rosi_edge.report.experiment_pictures import (
    jailbreak_stress,
    layer_sweep,
    separation_by_layer,
    strength_calibration,
)
from rosi_edge.report.frontier_picture import frontier

_KINDS: dict[Kind, tuple[str, str, str, float]] = {
    # marker, colour, words, and how far beside the block's number it is drawn
    "attention": ("o", BLUE, "attention output", -0.15),
    "mlp": ("^", VERMILLION, "MLP down-projection", 0.15),
    "mixer": ("s", GREEN, "state-space or other mixer", -0.15),
    "embedding": ("D", INK, "per-layer embedding", 0.0),
}

_RING: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 13,
    "markerfacecolor": "none",
    "markeredgecolor": INK,
}


def delivered_by_tensor(report: HardeningReport) -> Figure:
    """Share of the wanted change that each matrix received, by block and kind of sublayer."""
    injection = report.injection
    figure = new_figure(4.4)
    axes = figure.subplots()
    axes.axhline(1.0, color=INK, linestyle="--", linewidth=1.4)
    axes.axhline(0.0, color=GREY, linewidth=1)
    for kind, (marker, colour, words, aside) in _KINDS.items():
        group = [tensor for tensor in injection.tensors if tensor.kind == kind]
        if group:
            types = ", ".join(sorted({tensor.type for tensor in group}))
            axes.plot(
                [tensor.block + aside for tensor in group],
                [tensor.delivered for tensor in group],
                linestyle="none",
                marker=marker,
                color=colour,
                markersize=7,
                markeredgecolor="white",
                markeredgewidth=0.6,
                label=f"{words} ({types})",
            )
            _mark(axes, group, aside)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.05), max(high, 1.1))
    arrived = "" if injection.delivered is None else f": {numbers.percent(injection.delivered)} on average"
    axes.set_xlabel("block")
    axes.set_ylabel("share of the wanted change")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=14))
    blocks = [tensor.block for tensor in injection.tensors]
    axes.set_xlim(min(blocks) - 0.8, max(blocks) + 0.8)
    percent_axis(axes, "y")
    _name_marks(axes, injection.tensors)
    title_with_legend(axes, f"How much of the change arrived{arrived}", 2)
    sign(figure, report.model, "dashed line: the whole change")
    return figure


def _mark(axes: Axes, group: list[EditedTensor], aside: float) -> None:
    """Rings around matrices of a larger type."""
    promoted = [tensor for tensor in group if tensor.promoted_from]
    axes.plot(
        [tensor.block + aside for tensor in promoted],
        [tensor.delivered for tensor in promoted],
        **_RING,
    )


def _name_marks(axes: Axes, tensors: Sequence[EditedTensor]) -> None:
    if any(tensor.promoted_from for tensor in tensors):
        axes.plot([], [], label="stored in a larger type than before", **_RING)


def before_after(report: HardeningReport) -> Figure:
    """The figures of the original and the result side by side, with their intervals."""
    series: list[tuple[str, Figures, str]] = [("before", report.before, PALE_GREY)]
    if report.after is not None:
        series.append(("after", report.after, SKY_BLUE))
    shown = [
        bar
        for bar in FIGURES
        if bar.name not in ("guarded_refusal_rate", "kl_first_token")
        and any(getattr(figures, bar.name) for _, figures, _ in series)
    ]
    figure = new_figure(4.8)
    axes = figure.subplots()
    width = 0.8 / len(series)
    for index, (words, figures, colour) in enumerate(series):
        measured = [(place, getattr(figures, bar.name)) for place, bar in enumerate(shown)]
        measured = [(place, estimate) for place, estimate in measured if estimate is not None]
        places = [place + (index - (len(series) - 1) / 2) * width for place, _ in measured]
        values = [estimate.value for _, estimate in measured]
        axes.bar(places, values, width * 0.92, color=colour, edgecolor=INK, linewidth=0.8, label=words)
        bars = reach([estimate for _, estimate in measured])
        axes.errorbar(places, values, yerr=bars, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3.5)
        for place, (_, estimate) in zip(places, measured, strict=True):
            axes.annotate(
                f"{estimate.value * 100:.1f}",
                (place, estimate.high),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=9.5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )
    axes.set_xticks(range(len(shown)), [_tick(report, bar) for bar in shown], fontsize=9.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    percent_axis(axes, "y")
    title_with_legend(axes, "Before and after", len(series))
    sign(figure, report.model, "bars: 95 % interval")
    return figure


def _tick(report: HardeningReport, bar: FigureWords) -> str:
    sides = [getattr(figures, bar.name) for figures in (report.before, report.after) if figures]
    counts = sorted({estimate.n for estimate in sides if estimate})
    return f"{fill(bar.words, 24)}\n({bar.better} is better)\nn = {' / '.join(map(str, counts))}"


PICTURES: dict[str, tuple[Callable[[HardeningReport], Figure], Callable[[HardeningReport], bool]]] = {
    "before_after.png": (before_after, lambda report: True),
    "separation_by_layer.png": (separation_by_layer, lambda report: True),
    "layer_sweep.png": (layer_sweep, lambda report: bool(report.direction.sweep)),
    "strength_calibration.png": (strength_calibration, lambda report: bool(report.frontier)),
    "frontier.png": (frontier, lambda report: bool(report.frontier)),
    "jailbreak_stress.png": (jailbreak_stress, lambda report: report.stress is not None),
    "delivered_by_tensor.png": (delivered_by_tensor, lambda report: bool(report.injection.tensors)),
}
"""By file name: what draws it, and whether a report has what it shows."""


def render_all(report: HardeningReport) -> dict[str, bytes]:
    """The pictures that this report has the data for, as PNG bytes by file name."""
    with house_style():
        return {name: png(draw(report)) for name, (draw, has_data) in PICTURES.items() if has_data(report)}
