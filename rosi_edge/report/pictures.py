"""The pictures of a hardening report, as matplotlib figures and as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from rosi_edge.basics.text import printable
from rosi_edge.models.architectures import Kind
from rosi_edge.models.atomic import atomic_write
from rosi_edge.records.evaluation import EvaluationReport, SuiteFigure
from rosi_edge.records.figures import Figures
from rosi_edge.records.hardening import EditedTensor, FrontierPoint, HardeningReport
from rosi_edge.report import numbers
from rosi_edge.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALE_GREY,
    SKY_BLUE,
    VERMILLION,
    caption,
    house_style,
    new_figure,
    percent_axis,
    place_labels,
    png,
    sign,
    title_with_legend,
)
from rosi_edge.report.experiment_pictures import (
    jailbreak_stress,
    layer_sweep,
    separation_by_layer,
    strength_calibration,
)

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

_BARS = (
    ("harmful_refusal_rate", "refuses harmful", "higher is better"),
    ("benign_compliance_rate", "answers harmless", "higher is better"),
    ("sounds_harmful_compliance_rate", "answers harmless\nthat sounds harmful", "higher is better"),
    ("degenerate_rate", "writes broken text", "lower is better"),
)


def frontier(report: HardeningReport) -> Figure:
    """Refusal against benign compliance for every setting tried, on the choosing prompts, and the best point
    of the paper's method beside them.

    Raises:
        ValueError: no setting was tried.
    """
    if not report.frontier:
        raise ValueError("there is no frontier to draw")
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
        xerr=[[across.value - across.low], [across.high - across.value]],
        yerr=[[up.value - up.low], [up.high - up.value]],
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


def delivered_by_tensor(report: HardeningReport) -> Figure:
    """Share of the wanted change that each matrix received, by block and kind of sublayer.

    Raises:
        ValueError: no matrix was rewritten.
    """
    injection = report.injection
    if not injection.tensors:
        raise ValueError("no matrix was rewritten, so there is nothing to draw")
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
    shown = [bar for bar in _BARS if any(getattr(figures, bar[0]) for _, figures, _ in series)]
    figure = new_figure(4.8)
    axes = figure.subplots()
    width = 0.8 / len(series)
    for index, (words, figures, colour) in enumerate(series):
        measured = [(place, getattr(figures, bar[0])) for place, bar in enumerate(shown)]
        measured = [(place, estimate) for place, estimate in measured if estimate is not None]
        places = [place + (index - (len(series) - 1) / 2) * width for place, _ in measured]
        values = [estimate.value for _, estimate in measured]
        axes.bar(places, values, width * 0.92, color=colour, edgecolor=INK, linewidth=0.8, label=words)
        below = [estimate.value - estimate.low for _, estimate in measured]
        above = [estimate.high - estimate.value for _, estimate in measured]
        axes.errorbar(
            places, values, yerr=[below, above], fmt="none", ecolor=INK, elinewidth=1.2, capsize=3.5
        )
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
    axes.set_xticks(range(len(shown)), [_tick(report, *bar) for bar in shown], fontsize=9.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    percent_axis(axes, "y")
    title_with_legend(axes, "Before and after", len(series))
    sign(figure, report.model, "bars: 95 % interval")
    return figure


def _tick(report: HardeningReport, key: str, words: str, sense: str) -> str:
    sides = [figures for figures in (report.before, report.after) if figures]
    counts = sorted({getattr(figures, key).n for figures in sides if getattr(figures, key)})
    return f"{words}\n({sense})\nn = {' / '.join(map(str, counts))}"


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
    """Every figure of an evaluation with its 95 % interval, the base above the model; a panel a unit.

    Raises:
        ValueError: there is no figure.
    """
    figures = [figure for suite in report.suites.values() for figure in suite.figures.values()]
    panels = [(unit, words, [f for f in figures if f.unit == unit]) for unit, words in _PANELS]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        raise ValueError("there are no figures to draw")
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
        values = [estimate.value for _, estimate in points]
        axes.errorbar(
            values,
            [line + above for line, _ in points],
            xerr=[
                [estimate.value - estimate.low for _, estimate in points],
                [estimate.high - estimate.value for _, estimate in points],
            ],
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


def draw_all(report: HardeningReport, folder: Path) -> list[Path]:
    """Write the pictures that this report has the data for into an existing folder.

    Raises:
        OutputError: the folder cannot be written to.
    """
    written = []
    for name, content in render_all(report).items():
        target = folder / name
        with atomic_write(target, size=len(content)) as stream:
            stream.write(content)
        written.append(target)
    return written
