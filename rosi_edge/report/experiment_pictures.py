"""The pictures of the paper's three experiments, and the one of the layers they start from."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rosi_edge.basics.statistics import Estimate
from rosi_edge.basics.text import printable
from rosi_edge.records.hardening import FrontierPoint, HardeningReport, SweepPoint
from rosi_edge.report import numbers
from rosi_edge.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    VERMILLION,
    new_figure,
    percent_axis,
    reach,
    sign,
    title_with_legend,
)
from rosi_edge.report.layers import d_prime_estimate, direction_taken, is_layers_own, name_of


def separation_by_layer(report: HardeningReport) -> Figure:
    """d′ of every layer's direction with its interval and the one taken marked; below it how steady the
    directions are, where that was measured."""
    direction = report.direction
    entries = sorted(direction.separation, key=lambda entry: entry.layer)
    layers = [entry.layer for entry in entries]
    steady = [(e.layer, e.resampled_cosine) for e in entries if e.resampled_cosine is not None]
    figure = new_figure(6.0 if steady else 3.9)
    rows, heights = (2, [1.6, 1.0]) if steady else (1, [1.0])
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    top: Axes = panels[0]
    estimates = [
        d_prime_estimate(e.d_prime, direction.harmful_prompts, direction.harmless_prompts) for e in entries
    ]
    top.fill_between(
        layers, [e.low for e in estimates], [e.high for e in estimates], color=BLUE, alpha=0.15, linewidth=0
    )
    top.plot(layers, [entry.d_prime for entry in entries], "-o", color=BLUE, markersize=4.5)
    if direction_taken(report) == f"layer {direction.layer}":
        chosen = next(entry for entry in entries if entry.layer == direction.layer)
        top.plot(
            [chosen.layer], [chosen.d_prime], "*", color=VERMILLION, markersize=19, markeredgecolor="white"
        )
    top.set_ylim(bottom=min(0.0, *(e.low for e in estimates)))
    top.margins(y=0.12)
    top.set_title("How well each layer tells harmful from harmless")
    top.set_ylabel("separation d′")
    if steady:
        panels[1].plot(*zip(*steady, strict=True), "--s", color=GREEN, markersize=4.5)
        panels[1].set_ylabel("steadiness\n(cosine)")
        panels[1].margins(y=0.15)
    _layer_axis(panels[-1], layers)
    for panel in panels:
        _mark_taken(panel, report, words=panel is top)
    counts = f"n = {direction.harmful_prompts} harmful, {direction.harmless_prompts} harmless"
    sign(figure, report.model, f"{counts}; band: 95 % interval")
    return figure


def layer_sweep(report: HardeningReport) -> Figure:
    """What each direction did to refusal when injected, and what it cost. Directions found in the weights
    stand apart, at a layer in the middle of theirs."""
    points = sorted(report.direction.sweep, key=lambda point: point.layer)
    figure = new_figure(6.0)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.6, 1.0])
    own = [point for point in points if is_layers_own(point)]
    found = [point for point in points if not is_layers_own(point)]
    top.axhline(0, color=GREY, linewidth=1)
    for key, axes, line, colour, face, words in (
        ("harmful_refusal_score_change", top, "-o", BLUE, BLUE, "harmful requests (more is better)"),
        (
            "harmless_refusal_score_change",
            top,
            "--s",
            VERMILLION,
            "white",
            "harmless requests (less is better)",
        ),
        ("kl_first_token", bottom, "-^", INK, INK, "KL on harmless requests"),
    ):
        for group, style in ((own, line), (found, line[-1])):
            if group:
                axes.plot(
                    [point.layer for point in group],
                    [getattr(point, key) for point in group],
                    style,
                    color=colour,
                    markersize=6,
                    markerfacecolor=face,
                    label=words if style == line or not own else None,
                )
    _name_found(top, found)
    top.margins(y=0.15)
    bottom.set_ylim(bottom=0.0)
    bottom.margins(y=0.15)
    strengths = [point.strength for point in points]
    tried = " to ".join(dict.fromkeys(numbers.strength(f(strengths)) for f in (min, max)))
    title_with_legend(top, f"Layer sweep: what injecting it does to refusal (strength {tried})", 2)
    top.set_ylabel("change of\nrefusal score")
    bottom.set_ylabel("KL, nats\n(less is better)")
    _layer_axis(bottom, [entry.layer for entry in report.direction.separation])
    for panel in (top, bottom):
        _mark_taken(panel, report, words=panel is bottom)
    sign(figure, report.model, "averages over the choosing prompts, only to compare layers")
    return figure


def _name_found(axes: Axes, found: list[SweepPoint]) -> None:
    for point in found:
        axes.annotate(
            printable(name_of(point), 30),
            (point.layer, point.harmful_refusal_score_change),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            parse_math=False,
        )


def _layer_axis(axes: Axes, layers: list[int]) -> None:
    axes.set_xlabel("layer (block after which the direction was taken)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=14))
    axes.set_xlim(min(layers) - 0.8, max(layers) + 0.8)


def _mark_taken(axes: Axes, report: HardeningReport, *, words: bool) -> None:
    taken = direction_taken(report)
    if taken is None:
        return
    layer = report.direction.layer
    axes.axvline(layer, color=VERMILLION, linestyle=":", linewidth=1.4, zorder=1.5)
    if words:
        low, high = axes.get_xlim()
        right = layer > (low + high) / 2
        axes.annotate(
            f"taken: {printable(taken, 30)}",
            (layer, 0.06),
            xycoords=("data", "axes fraction"),
            xytext=(-6 if right else 6, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            color=VERMILLION,
            weight="bold",
            parse_math=False,
        )


def strength_calibration(report: HardeningReport) -> Figure:
    """Refusal of harmful and compliance with harmless requests against strength, on the choosing prompts."""
    figure = new_figure(4.8)
    axes = figure.subplots()
    points = sorted(report.frontier, key=lambda point: point.strength)
    limit = report.injection.min_compliance
    # A little aside, so that the bars of the two do not hide each other.
    aside = 0.004 * (points[-1].strength or 1.0)
    _rates(axes, points, [p.harmful_refusal for p in points], -aside, "-o", BLUE, "refuses harmful requests")
    _rates(
        axes,
        points,
        [p.benign_compliance for p in points],
        aside,
        "--s",
        VERMILLION,
        "answers harmless requests",
    )
    least = f"least compliance allowed: {numbers.percent(limit)}"
    axes.axhline(limit, color=INK, linestyle="--", linewidth=1.2, label=least)
    for point in points:
        if point.chosen:
            axes.axvline(point.strength, color=VERMILLION, linestyle=":", linewidth=1.4, zorder=1.5)
            axes.annotate(
                f" chosen: α = {numbers.strength(point.strength)} ",
                (point.strength, 0.02),
                xycoords=("data", "axes fraction"),
                ha="right" if point.strength > points[-1].strength / 2 else "left",
                color=VERMILLION,
                weight="bold",
            )
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlabel("strength α (0 is the original)")
    percent_axis(axes, "y")
    title_with_legend(axes, "Strength calibration", 2)
    counts = [
        " / ".join(map(str, sorted({getattr(point, key).n for point in points})))
        for key in ("harmful_refusal", "benign_compliance")
    ]
    sign(figure, report.model, f"n = {counts[0]} harmful, {counts[1]} harmless; bars: 95 % interval")
    return figure


def _rates(
    axes: Axes,
    points: list[FrontierPoint],
    rates: list[Estimate],
    aside: float,
    line: str,
    colour: str,
    words: str,
) -> None:
    # A line joins strengths of one layer only; the original belongs to every layer's.
    layers = sorted({point.layer for point in points if point.strength}) or [points[0].layer]
    for layer in layers if len(layers) > 1 else ():
        shown = [
            (point.strength + aside, rate.value)
            for point, rate in zip(points, rates, strict=True)
            if point.layer == layer or point.strength == 0
        ]
        axes.plot(*zip(*shown, strict=True), line[:-1], color=colour, linewidth=1.4)
    axes.errorbar(
        [point.strength + aside for point in points],
        [rate.value for rate in rates],
        yerr=reach(rates),
        fmt=line if len(layers) == 1 else line[-1],
        color=colour,
        markersize=6,
        elinewidth=1.2,
        capsize=3,
        label=words,
    )


def jailbreak_stress(report: HardeningReport) -> Figure:
    """Share of each attack that comes through before and after."""
    stress = report.stress
    assert stress is not None
    lines = [(attack.name, attack.before, attack.after) for attack in stress.attacks]
    lines.append(("mean over the attacks", stress.before, stress.after))
    figure = new_figure(1.9 + 0.45 * len(lines))
    axes = figure.subplots()
    places = list(range(len(lines)))[::-1]
    for index, words, colour, marker, above in (
        (1, "before", GREY, "s", 0.14),
        (2, "after", BLUE, "o", -0.14),
    ):
        shown = [
            (place + above, estimate)
            for place, line in zip(places, lines, strict=True)
            if isinstance(estimate := line[index], Estimate)
        ]
        if shown:
            estimates = [estimate for _, estimate in shown]
            axes.errorbar(
                [estimate.value for estimate in estimates],
                [place for place, _ in shown],
                xerr=reach(estimates),
                fmt=marker,
                color=colour,
                markersize=6.5,
                elinewidth=1.4,
                capsize=3,
                label=words,
            )
    axes.axhline(0.5, color=GREY, linewidth=1)
    # Names of attacks may be a user's: no mathematics in them.
    axes.set_yticks(places, [printable(name, 40) for name, _, _ in lines], parse_math=False, fontsize=9.5)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_xlim(-0.03, 1.03)
    percent_axis(axes, "x")
    axes.set_xlabel("comes through (left is better)")
    title_with_legend(axes, "Jailbreak stress test", 2)
    sign(figure, report.model, f"n = {stress.requests} harmful requests; bars: 95 % interval")
    return figure
