"""How every picture looks, so that it is the same on every machine and readable by everybody.

The colours are Okabe and Ito's, which colour-blind readers can tell apart; each goes with a marker, a line
style or a hatch of its own, so that nothing rests on colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from rosi_edge.basics.statistics import Estimate
from rosi_edge.basics.text import printable
from rosi_edge.records.facts import ModelFacts

BLUE, SKY_BLUE, VERMILLION, GREEN = "#0072B2", "#56B4E9", "#D55E00", "#009E73"
INK, GREY, PALE_GREY = "#222222", "#8A8A8A", "#C9C9C9"

WIDTH_INCHES = 8.0
DOTS_PER_INCH = 160

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "hatch.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "savefig.facecolor": "white",
}

# Where a label may stand around its point, in points, the best place first.
_PLACES = [
    (x * reach, y * reach)
    for reach in (9, 20, 32, 46)
    for x, y in ((1, 0.8), (1, -0.8), (-1, 0.8), (-1, -0.8), (0, 1.2), (0, -1.2), (1.3, 0), (-1.3, 0))
]


@contextmanager
def house_style() -> Iterator[None]:
    """The pictures' settings in place of the user's own matplotlib configuration."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def new_figure(height_inches: float) -> Figure:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The picture's bytes; the same figure always gives the same ones."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return stream.getvalue()


def caption(figure: Figure, text: str) -> None:
    """Small print under the picture. The text may be untrusted: neither mathematics nor odd signs in it."""
    shown = printable(text, 110).encode("ascii", "replace").decode("ascii")
    figure.supxlabel(shown, fontsize=9, color="#666666", x=0.99, ha="right", parse_math=False)


def sign(figure: Figure, model: ModelFacts, remark: str = "") -> None:
    """Which model the picture is about, in small print."""
    mix = f", {model.file_type}" if model.file_type else ""
    caption(figure, f"{(model.name or model.file_name)[:60]}{mix}" + (f"; {remark}" if remark else ""))


def reach(estimates: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    """How far the intervals reach below and above the figures, as ``errorbar`` wants it."""
    return [e.value - e.low for e in estimates], [e.high - e.value for e in estimates]


def title_with_legend(axes: Axes, title: str, columns: int) -> None:
    """The legend in lines of its own between the title and the data, where it hides nothing."""
    entries = len(axes.get_legend_handles_labels()[0])
    axes.set_title(title, pad=13 + 18 * max(1, -(-entries // columns)))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.005),
        borderaxespad=0.0,
        borderpad=0.2,
        ncols=columns,
        handletextpad=0.5,
        columnspacing=1.5,
    )


def percent_axis(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.0f} %"))


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[Annotation],
    beside: Sequence[Text] = (),
) -> None:
    """Move each label beside its point, clear of the points, the other labels and the texts ``beside`` them.

    A label that finds no free place within reach stays where it hides least.
    """
    figure = axes.figure
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    figure.draw_without_rendering()  # type: ignore[union-attr]
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    radius = 6 * figure.dpi / 72
    spots = [axes.transData.transform(point) for point in points]
    occupied = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in spots]
    occupied += [text.get_window_extent(renderer) for text in beside]
    frame = axes.get_window_extent(renderer)
    for label in labels:
        best: tuple[float, tuple[float, float], Bbox] | None = None
        for place in _PLACES:
            _move(label, place)
            # The annotation's own extent would take the line to its point for part of the words.
            box = Text.get_window_extent(label, renderer)
            hidden = sum(_overlap(box, other) for other in occupied)
            hidden += box.width * box.height - _overlap(box, frame)
            if best is None or hidden < best[0]:
                best = (hidden, place, box)
            if hidden == 0:
                break
        if best is not None:
            _move(label, best[1])
            occupied.append(best[2])


def _move(label: Annotation, place: tuple[float, float]) -> None:
    label.set_position(place)
    x, y = place
    label.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
    label.set_verticalalignment("bottom" if y > 0 else "top" if y < 0 else "center")


def _overlap(first: Bbox, second: Bbox) -> float:
    common = Bbox.intersection(first, second)
    return 0.0 if common is None else float(common.width * common.height)
