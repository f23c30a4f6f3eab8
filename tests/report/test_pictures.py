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
from report.sample_report import LAYERS, frontier, model_facts

from rosi_edge.records.evaluation import EvaluationReport
from rosi_edge.records.hardening import DirectionFacts, HardeningReport, Injection
from rosi_edge.report import evaluation_picture, pictures
from rosi_edge.report.drawing import BLUE, VERMILLION, house_style, png

NAMES = [
    "before_after.png",
    "separation_by_layer.png",
    "layer_sweep.png",
    "strength_calibration.png",
    "frontier.png",
    "jailbreak_stress.png",
    "delivered_by_tensor.png",
]


def drawn(draw: Callable[[HardeningReport], Figure], report: HardeningReport) -> Figure:
    with house_style():
        return draw(report)


def all_points(figure: Figure) -> list[tuple[float, float]]:
    """Every point that has a marker."""
    lines = [
        line for axes in figure.axes for line in axes.lines if line.get_marker() not in {"None", None, ""}
    ]
    return [(float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)]


def test_files_are_pictures_with_something_on_them(report: HardeningReport) -> None:
    made = pictures.render_all(report)
    assert list(made) == NAMES
    for content in made.values():
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


def test_separation_draws_every_layer(report: HardeningReport) -> None:
    figure = drawn(pictures.separation_by_layer, report)
    top, steadiness = figure.axes
    curve, star = (line for line in top.lines if line.get_marker() in {"o", "*"})
    assert list(curve.get_xdata()) == list(range(LAYERS))
    assert list(curve.get_ydata()) == [entry.d_prime for entry in report.direction.separation]
    assert list(star.get_xdata()) == [14]
    (cosines,) = (line for line in steadiness.lines if line.get_marker() == "s")
    assert list(cosines.get_ydata()) == [entry.resampled_cosine for entry in report.direction.separation]
    assert "taken: layer 14" in {text.get_text() for text in top.texts}


def test_separation_without_resamples_is_one_panel(
    report: HardeningReport, build: Callable[..., HardeningReport]
) -> None:
    bare = [{**dict(entry.__dict__), "resampled_cosine": None} for entry in report.direction.separation]
    direction = DirectionFacts.model_validate({**report.direction.model_dump(), "separation": bare})
    assert len(drawn(pictures.separation_by_layer, build(direction=direction)).axes) == 1


def test_no_layer_is_marked_when_none_was_taken(build: Callable[..., HardeningReport]) -> None:
    injection = Injection(strength=0.0, min_compliance=0.9, delivered=None, tensors=())
    figure = drawn(pictures.separation_by_layer, build(injection=injection))
    assert not [text for axes in figure.axes for text in axes.texts]
    assert not [line for axes in figure.axes for line in axes.lines if line.get_marker() == "*"]


def test_layer_sweep_draws_both_sides_and_the_cost(report: HardeningReport) -> None:
    top, bottom = drawn(pictures.layer_sweep, report).axes
    own = [point for point in report.direction.sweep if point.direction.startswith("layer")]
    (hole,) = (point for point in report.direction.sweep if point not in own)
    for marker, key, axes in (
        ("o", "harmful_refusal_score_change", top),
        ("s", "harmless_refusal_score_change", top),
        ("^", "kl_first_token", bottom),
    ):
        joined, apart = (line for line in axes.lines if line.get_marker() == marker)
        assert list(joined.get_xdata()) == [point.layer for point in own]
        assert list(joined.get_ydata()) == [getattr(point, key) for point in own]
        assert list(apart.get_ydata()) == [getattr(hole, key)]
        # A direction found in the weights belongs to no layer: no line leads there.
        assert apart.get_linestyle() == "None"
    assert "hole 1 +" in {text.get_text() for text in top.texts}


def test_strength_calibration_draws_refusal_and_compliance(report: HardeningReport) -> None:
    (axes,) = drawn(pictures.strength_calibration, report).axes
    refusal, compliance = axes.containers
    points = report.frontier
    assert list(refusal.lines[0].get_ydata()) == [point.harmful_refusal.value for point in points]
    assert list(compliance.lines[0].get_ydata()) == [point.benign_compliance.value for point in points]
    for container, key in ((refusal, "harmful_refusal"), (compliance, "benign_compliance")):
        assert container.lines[0].get_xdata() == pytest.approx([p.strength for p in points], abs=0.02)
        ends = [segment[:, 1].tolist() for segment in container.lines[2][0].get_segments()]
        assert np.allclose(ends, [[getattr(p, key).low, getattr(p, key).high] for p in points])
    assert [0.89, 0.89] in [list(line.get_ydata()) for line in axes.lines]
    assert " chosen: α = 0.475 " in {text.get_text() for text in axes.texts}


def test_strengths_of_different_layers_are_not_joined(build: Callable[..., HardeningReport]) -> None:
    other = frontier()[3].model_copy(update={"layer": 9})
    (axes,) = drawn(pictures.strength_calibration, build(frontier=(*frontier(), other))).axes
    # No marker, no error bar: the lines that join. The original begins every one of them.
    joined = [
        list(line.get_xdata())
        for line in axes.lines
        if line.get_marker() == "None"
        and line.get_color() in {BLUE, VERMILLION}
        and len(line.get_xdata()) > 1
    ]
    lengths = [len(places) for places in joined if max(places) != min(places)]
    assert sorted(lengths) == [2, 2, 9, 9]


def test_jailbreaks_are_drawn_before_and_after(
    report: HardeningReport, build: Callable[..., HardeningReport]
) -> None:
    stress = report.stress
    assert stress is not None and stress.after is not None
    (axes,) = drawn(pictures.jailbreak_stress, report).axes
    before, after = axes.containers
    assert list(before.lines[0].get_xdata()) == [
        *(a.before.value for a in stress.attacks),
        stress.before.value,
    ]
    shown = [*(attack.after for attack in stress.attacks), stress.after]
    assert list(after.lines[0].get_xdata()) == [estimate.value for estimate in shown if estimate]
    ends = [segment[:, 0].tolist() for segment in after.lines[2][0].get_segments()]
    assert np.allclose(ends, [[estimate.low, estimate.high] for estimate in shown if estimate])
    words = [label.get_text() for label in axes.get_yticklabels()]
    assert words == [*(attack.name for attack in stress.attacks), "mean over the attacks"]

    attacks = [attack.model_copy(update={"after": None}) for attack in stress.attacks]
    unmade = stress.model_copy(update={"attacks": tuple(attacks), "after": None})
    (alone,) = drawn(pictures.jailbreak_stress, build(stress=unmade)).axes
    assert [bar.get_label() for bar in alone.containers] == ["before"]


def test_frontier_draws_every_point_with_its_bars_and_strength(report: HardeningReport) -> None:
    figure = drawn(pictures.frontier, report)
    (axes,) = figure.axes
    assert report.paper is not None
    everything = [*report.frontier, report.paper]
    wanted = {(p.benign_compliance.value, p.harmful_refusal.value) for p in everything}
    assert set(all_points(figure)) == wanted
    assert len(all_points(figure)) == len(everything)
    bars = [item for item in axes.collections if isinstance(item, LineCollection)]
    assert len(bars) == 2 * len(everything)
    ends = {tuple(np.ravel(segment).round(9)) for bar in bars for segment in bar.get_segments()}
    for point in everything:
        across, up = point.benign_compliance, point.harmful_refusal
        assert tuple(np.round([across.low, up.value, across.high, up.value], 9)) in ends
        assert tuple(np.round([across.value, up.low, across.value, up.high], 9)) in ends
    names = {t.get_text() for t in axes.texts if t.get_text().startswith("α")}
    assert names == {f"α = {p.strength:g}" for p in report.frontier if p.strength}
    assert "paper, α = 26" in {text.get_text() for text in axes.texts}
    (diamond,) = (line for line in axes.lines if line.get_marker() == "D")
    assert list(diamond.get_ydata()) == [38 / 61]
    assert diamond.get_label() == "paper's method, same limits"
    assert [0.89, 0.89] in [list(line.get_xdata()) for line in axes.lines]
    (star,) = (line for line in axes.lines if line.get_marker() == "*")
    assert list(star.get_ydata()) == [43 / 61]


def test_frontier_labels_do_not_cover_each_other(report: HardeningReport) -> None:
    figure = drawn(pictures.frontier, report)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    labels = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    boxes = [Text.get_window_extent(label, renderer) for label in labels]
    assert len(boxes) == len(report.frontier) + 1
    assert not [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes[:i]) if a.overlaps(b)]


def test_frontier_names_the_layer_when_there_are_several(build: Callable[..., HardeningReport]) -> None:
    other = frontier()[3].model_copy(update={"layer": 9})
    figure = drawn(pictures.frontier, build(frontier=(*frontier(), other)))
    assert "α = 0.45, layer 9" in {text.get_text() for text in figure.axes[0].texts}


def test_delivered_draws_every_matrix(report: HardeningReport) -> None:
    figure = drawn(pictures.delivered_by_tensor, report)
    (axes,) = figure.axes
    groups = {line.get_label().split(" (")[0]: line for line in axes.lines}
    for words, kind in (("attention output", "attention"), ("MLP down-projection", "mlp")):
        group = [tensor for tensor in report.injection.tensors if tensor.kind == kind]
        assert list(groups[words].get_ydata()) == [tensor.delivered for tensor in group]
        assert [round(x) for x in groups[words].get_xdata()] == [tensor.block for tensor in group]
    assert [1.0, 1.0] in [list(line.get_ydata()) for line in axes.lines]
    rings = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert [list(ring.get_ydata()) for ring in rings if len(ring.get_ydata())] == [[0.98]]


@pytest.mark.parametrize("sides", [1, 2])
def test_bars_have_the_values_and_intervals(sides: int, build: Callable[..., HardeningReport]) -> None:
    report = build(**({"after": None} if sides == 1 else {}))
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
    shown = [f for f in (report.before, report.after) if f]
    keys.append("degenerate_rate")
    assert lows == pytest.approx(sorted(getattr(f, key).low for f in shown for key in keys))


def test_pictures_without_data_are_left_out(
    report: HardeningReport, build: Callable[..., HardeningReport], tmp_path: Path
) -> None:
    injection = Injection(strength=0.0, min_compliance=0.9, delivered=None, tensors=())
    direction = DirectionFacts.model_validate({**report.direction.model_dump(), "sweep": ()})
    bare = build(
        frontier=(),
        paper=None,
        injection=injection,
        after=None,
        changes=None,
        stress=None,
        direction=direction,
    )
    assert list(pictures.render_all(bare)) == ["before_after.png", "separation_by_layer.png"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["$\\frac{", "模型", "a\nb\x1b[31m", "x" * 500, "\U0001f512"])
def test_any_model_name_can_be_drawn(name: str, build: Callable[..., HardeningReport]) -> None:
    with house_style():
        assert png(pictures.delivered_by_tensor(build(model=model_facts(name))))


def test_an_evaluation_is_drawn_with_its_error_bars(evaluation: EvaluationReport, tmp_path: Path) -> None:
    with house_style():
        rates, nats = evaluation_picture.evaluation(evaluation).axes
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
    evaluation_picture.draw_evaluation(evaluation, target)
    evaluation_picture.draw_evaluation(evaluation, tmp_path / "again.png")
    assert target.read_bytes().startswith(b"\x89PNG")
    assert target.read_bytes() == (tmp_path / "again.png").read_bytes()
