from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from PIL import Image
from report.sample_report import LAYERS, figures, frontier, model_facts

from rosi_edge.errors import OutputError
from rosi_edge.report import pictures
from rosi_edge.report.drawing import house_style, png
from rosi_edge.report.evaluation import EvaluationReport
from rosi_edge.report.schema import DirectionFacts, HardeningReport, Injection

NAMES = ["before_after.png", "frontier.png", "separation_by_layer.png", "delivered_by_tensor.png"]


def drawn(draw: Callable[[HardeningReport], Figure], report: HardeningReport) -> Figure:
    with house_style():
        return draw(report)


def all_points(figure: Figure) -> list[tuple[float, float]]:
    """Every point that has a marker."""
    lines = [
        line for axes in figure.axes for line in axes.lines if line.get_marker() not in {"None", None, ""}
    ]
    return [(float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)]


def test_files_are_pictures_with_something_on_them(report: HardeningReport, tmp_path: Path) -> None:
    paths = pictures.draw_all(report, tmp_path)
    assert [path.name for path in paths] == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    for path in paths:
        content = path.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", content[16:24])
        assert width == 1280 and 500 <= height <= 1100
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
        assert pixels[0, 0] == 255
        assert 0.01 < (pixels < 200).mean() < 0.5
        # Nothing runs out of the picture: its rim is empty.
        assert (np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]) == 255).all()


def test_same_report_same_bytes_whatever_the_users_settings(report: HardeningReport) -> None:
    first = pictures.render_all(report)
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "figure.dpi": 30, "lines.marker": "x"}):
        before = dict(mpl.rcParams)
        second = pictures.render_all(report)
        assert dict(mpl.rcParams) == before
    assert first == second


def test_separation_draws_every_layer_and_the_sweep(report: HardeningReport) -> None:
    figure = drawn(pictures.separation_by_layer, report)
    top, sweep = figure.axes
    curve, star = (line for line in top.lines if line.get_marker() in {"o", "*"})
    assert list(curve.get_xdata()) == list(range(LAYERS))
    assert list(curve.get_ydata()) == [entry.d_prime for entry in report.direction.separation]
    assert list(star.get_xdata()) == [14]
    harmful, harmless = (line for line in sweep.lines if line.get_marker() in {"o", "s"})
    assert len(harmful.get_xdata()) == len(harmless.get_xdata()) == len(report.direction.sweep)
    assert harmful.get_linestyle() != harmless.get_linestyle()


def test_separation_without_a_sweep_is_one_panel(
    report: HardeningReport, build: Callable[..., HardeningReport]
) -> None:
    direction = DirectionFacts.model_validate({**report.direction.model_dump(), "sweep": ()})
    assert len(drawn(pictures.separation_by_layer, build(direction=direction)).axes) == 1


def test_frontier_draws_every_point_with_its_bars_and_strength(report: HardeningReport) -> None:
    figure = drawn(pictures.frontier, report)
    (axes,) = figure.axes
    wanted = {(p.benign_compliance.value, p.harmful_refusal.value) for p in report.frontier}
    assert set(all_points(figure)) == wanted
    assert len(all_points(figure)) == len(report.frontier)
    bars = [item for item in axes.collections if isinstance(item, LineCollection)]
    assert len(bars) == 2 * len(report.frontier)
    ends = {tuple(np.ravel(segment).round(9)) for bar in bars for segment in bar.get_segments()}
    for point in report.frontier:
        across, up = point.benign_compliance, point.harmful_refusal
        assert tuple(np.round([across.low, up.value, across.high, up.value], 9)) in ends
        assert tuple(np.round([across.value, up.low, across.value, up.high], 9)) in ends
    names = {t.get_text() for t in axes.texts if t.get_text().startswith("α")}
    assert names == {f"α = {p.strength:g}" for p in report.frontier if p.strength}
    assert [0.89, 0.89] in [list(line.get_xdata()) for line in axes.lines]
    (star,) = (line for line in axes.lines if line.get_marker() == "*")
    assert list(star.get_ydata()) == [43 / 61]


def test_frontier_labels_do_not_cover_each_other(report: HardeningReport) -> None:
    figure = drawn(pictures.frontier, report)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    labels = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    boxes = [Text.get_window_extent(label, renderer) for label in labels]
    assert len(boxes) == len(report.frontier)
    assert not [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes[:i]) if a.overlaps(b)]


def test_frontier_names_the_layer_when_there_are_several(build: Callable[..., HardeningReport]) -> None:
    other = frontier()[3].model_copy(update={"layer": 9})
    figure = drawn(pictures.frontier, build(frontier=(*frontier(), other)))
    assert "α = 45, layer 9" in {text.get_text() for text in figure.axes[0].texts}


def test_delivered_draws_every_matrix(report: HardeningReport) -> None:
    figure = drawn(pictures.delivered_by_tensor, report)
    (axes,) = figure.axes
    groups = {line.get_marker(): line for line in axes.lines if line.get_marker() in {"o", "^"}}
    for marker, kind in (("o", "attention"), ("^", "mlp")):
        group = [tensor for tensor in report.injection.tensors if tensor.kind == kind]
        assert list(groups[marker].get_ydata()) == [tensor.delivered for tensor in group]
        assert [round(x) for x in groups[marker].get_xdata()] == [tensor.block for tensor in group]
    assert [1.0, 1.0] in [list(line.get_ydata()) for line in axes.lines]


@pytest.mark.parametrize("sides", [1, 2, 3])
def test_bars_have_the_values_and_intervals(sides: int, build: Callable[..., HardeningReport]) -> None:
    exact = figures(50, 58, 12, 2, 0.14) if sides == 3 else None
    report = build(adapter_after=exact, **({"after": None} if sides == 1 else {}))
    (axes,) = drawn(pictures.before_after, report).axes
    heights = [bar.get_height() for bar in axes.patches]
    assert len(heights) == 4 * sides
    keys = ["harmful_refusal_rate", "benign_compliance_rate", "sounds_harmful_compliance_rate"]
    assert heights[:3] == [getattr(report.before, key).value for key in keys]
    segments = [
        s for item in axes.collections if isinstance(item, LineCollection) for s in item.get_segments()
    ]
    assert len(segments) == 4 * sides
    lows = sorted(float(segment[:, 1].min()) for segment in segments)
    shown = [f for f in (report.before, report.after, report.adapter_after) if f]
    keys.append("degenerate_rate")
    assert lows == pytest.approx(sorted(getattr(f, key).low for f in shown for key in keys))


def test_pictures_without_data_are_left_out(build: Callable[..., HardeningReport], tmp_path: Path) -> None:
    injection = Injection(strength=0.0, min_compliance=0.9, delivered=None, tensors=())
    report = build(frontier=(), injection=injection, after=None, changes=None)
    paths = pictures.draw_all(report, tmp_path)
    assert [path.name for path in paths] == ["before_after.png", "separation_by_layer.png"]
    with pytest.raises(ValueError, match="frontier"):
        pictures.frontier(report)
    with pytest.raises(ValueError, match="matrix"):
        pictures.delivered_by_tensor(report)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["$\\frac{", "模型", "a\nb\x1b[31m", "x" * 500, "\U0001f512"])
def test_any_model_name_can_be_drawn(name: str, build: Callable[..., HardeningReport]) -> None:
    with house_style():
        assert png(pictures.delivered_by_tensor(build(model=model_facts(name))))


def test_a_folder_that_is_not_there(
    report: HardeningReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "render_all", lambda _: {"frontier.png": b"x"})
    with pytest.raises(OutputError):
        pictures.draw_all(report, tmp_path / "missing")


def test_an_evaluation_is_drawn_with_its_error_bars(evaluation: EvaluationReport, tmp_path: Path) -> None:
    with house_style():
        rates, nats = pictures.evaluation(evaluation).axes
    base, model = rates.containers
    assert [bar.get_label() for bar in (base, model)] == ["base", "model"]
    figures = evaluation.suites["refusal"].figures
    assert list(model.lines[0].get_xdata()) == [figure.value for figure in figures.values()]
    ends = [segment[:, 0].tolist() for segment in model.lines[2][0].get_segments()]
    assert np.allclose(ends, [[figure.low, figure.high] for figure in figures.values()])
    # The base has no divergence from itself, and a label is no mathematics.
    assert len(nats.containers) == 1
    assert "$the$" in nats.get_yticklabels()[0].get_text()
    target = tmp_path / "figures.png"
    pictures.draw_evaluation(evaluation, target)
    pictures.draw_evaluation(evaluation, tmp_path / "again.png")
    assert target.read_bytes().startswith(b"\x89PNG")
    assert target.read_bytes() == (tmp_path / "again.png").read_bytes()


def test_an_evaluation_without_figures_is_not_drawn(evaluation: EvaluationReport) -> None:
    with pytest.raises(ValueError, match="no figures"):
        pictures.evaluation(evaluation.model_copy(update={"suites": {}}))
