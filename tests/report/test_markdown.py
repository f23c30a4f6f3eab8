from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report.sample_report import (
    frontier,
    make_report,
    model_facts,
    paper_point,
    rounding_check,
    setting,
    stress,
)

from rosi_edge.basics.statistics import Estimate, proportion
from rosi_edge.direction.difference import EACH_LAYERS_OWN
from rosi_edge.records.hardening import (
    DirectionFacts,
    HardeningReport,
    HardeningVerdict,
    Injection,
    StressTest,
)
from rosi_edge.report.markdown import model_card

MARKDOWN = MarkdownIt("commonmark").enable("table")


def tables(card: str) -> list[list[list[str]]]:
    """Every table's rows of cells, as a reader of Markdown sees them."""
    found: list[list[list[str]]] = []
    tokens = MARKDOWN.parse(card)
    for token, following in zip(tokens, [*tokens[1:], tokens[0]], strict=True):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in {"td_open", "th_open"}:
            found[-1][-1].append("".join(child.content for child in following.children or []))
    return found


def headed(card: str, word: str) -> list[list[str]]:
    """The one table with this word in its head."""
    (found,) = (rows for rows in tables(card) if word in rows[0])
    return found


def test_before_and_after_with_n_intervals_and_p(report: HardeningReport) -> None:
    head, refusal, benign, sounding, broken, divergence = tables(model_card(report))[0]
    assert head == ["", "Before", "After", "Change", "p"]
    assert refusal[1:] == [
        "54.1 % (41.7 to 66.0), n = 61",
        "73.8 % (61.6 to 83.2), n = 61",
        "+19.7 points (+9.0 to +29.6), n = 61",
        "< 0.001",
    ]
    assert benign[1].startswith("91.0 % (") and benign[1].endswith("n = 67")
    assert benign[4] == "1.000"
    assert sounding[2].startswith("39.4 % (") and sounding[2].endswith("n = 33")
    assert broken[2].startswith("1.2 % (") and broken[2].endswith("n = 161")
    assert report.after is not None and report.after.kl_first_token is not None
    assert divergence[2].startswith(f"{report.after.kl_first_token.value:.3f} (")
    assert divergence[2].endswith("n = 67")


def test_every_table_with_refusal_has_compliance_and_n(report: HardeningReport) -> None:
    for rows in tables(model_card(report)):
        cells = " ".join(cell for row in rows for cell in row)
        # A refusal rate never stands without the benign compliance beside it.
        assert ("Answers harmless" in cells) == ("Refuses harmful" in cells)
        for row in rows:
            for cell in row:
                if re.search(r"\d % \(|\d points \(", cell):
                    assert re.search(r", n = \d+$", cell), cell


def test_frontier_marks_the_chosen_point_and_those_below_the_limit(report: HardeningReport) -> None:
    rows = headed(model_card(report), "Strength")
    assert len(rows) == 1 + len(report.frontier) + 1
    remarks = {row[1]: row[-1] for row in rows[1:]}
    assert remarks["0.475"] == "chosen"
    assert remarks["0"] == "original"
    assert remarks["0.4"] == ""
    assert remarks["0.8"] == "answers too few"
    settings = {row[1]: row[-2] for row in rows[1:]}
    assert settings["0.475"] == setting(0.475)
    assert settings["0"] == ""


def test_the_papers_method_stands_beside_at_the_same_limits(
    report: HardeningReport, build: Callable[..., HardeningReport]
) -> None:
    card = model_card(report)
    last = headed(card, "Strength")[-1]
    assert last[:3] == ["15", "26", "62.3 % (49.7 to 73.4), n = 61"]
    assert last[-1] == "the paper's method"
    assert "under the same limits of benign compliance and KL; its strength" in card
    without = model_card(build(paper=None))
    assert "the paper's method" not in headed(without, "Strength")[-1]
    assert "has no row" in without
    # A run of the paper's method itself has nothing to set beside.
    itself = report.injection.model_copy(update={"method": "rosi"})
    assert "has no row" not in model_card(build(paper=None, injection=itself))


def test_findings_come_first_and_only_when_there_are_some(build: Callable[..., HardeningReport]) -> None:
    card = model_card(build(findings=("weights avoid one direction", "1. <b>hold</b> the *edit*.")))
    section = card.split("## What was noticed\n\n")[1].split("\n\n## ")[0]
    assert section.splitlines()[0] == "- Weights avoid one direction."
    assert [token.content for token in MARKDOWN.parse(section) if token.type == "inline"] == [
        "Weights avoid one direction.",
        section.splitlines()[1][2:],
    ]
    assert "<b>" not in section
    assert "What was noticed" not in model_card(build(findings=()))


def test_why_this_layer_has_a_row_for_every_layer(report: HardeningReport) -> None:
    rows = headed(model_card(report), "d′")
    assert [row[0] for row in rows[1:]] == [f"layer {i}" for i in range(24)] + ["hole 1 +"]
    taken = [row for row in rows if row[-1] == "taken"]
    assert [row[0] for row in taken] == ["layer 14"]
    entry = report.direction.separation[14]
    point = next(point for point in report.direction.sweep if point.layer == 14)
    assert taken[0][1].startswith(f"{entry.d_prime:.2f} (") and taken[0][1].endswith("n = 129")
    assert taken[0][2].startswith(f"{entry.auc:.2f} (") and taken[0][2].endswith("n = 129")
    assert taken[0][3:7] == [
        "0.956",
        f"{point.harmful_refusal_score_change:+.3f}",
        f"{point.harmless_refusal_score_change:+.3f}",
        f"{point.kl_first_token:.3f}",
    ]
    assert rows[1][4:] == ["", "", "", ""]  # layer 0 was not swept
    assert rows[-1][1:4] == ["found in the weights", "", ""]


def test_layers_without_sweep_or_resamples_have_fewer_columns(
    report: HardeningReport, build: Callable[..., HardeningReport]
) -> None:
    bare = [{**dict(entry.__dict__), "resampled_cosine": None} for entry in report.direction.separation]
    facts = {**report.direction.model_dump(), "sweep": (), "separation": bare}
    card = model_card(build(direction=DirectionFacts.model_validate(facts)))
    rows = headed(card, "d′")
    assert rows[0] == ["Direction", "d′", "AUC", ""]
    assert {len(row) for row in rows} == {4}
    assert rows[15][-1] == "taken"
    assert "the layer was given" in card


def test_a_direction_of_the_weights_is_named_as_what_was_taken(
    report: HardeningReport, build: Callable[..., HardeningReport]
) -> None:
    taken = {"setting": setting(0.475).replace("layer 14", "hole 1 +"), "direction": "hole 1 +"}
    card = model_card(build(injection=report.injection.model_copy(update=taken)))
    assert [row[0] for row in headed(card, "d′") if row[-1] == "taken"] == ["hole 1 +"]
    assert "is one that the weights" in card
    assert "gave a safety direction" not in card


def test_nothing_is_called_taken_when_nothing_was(build: Callable[..., HardeningReport]) -> None:
    nothing = Injection(method="conditional", strength=0.0, min_compliance=0.9, delivered=None, tensors=())
    assert "taken" not in {row[-1] for row in headed(model_card(build(injection=nothing)), "d′")}


def test_the_stress_test_says_whether_attacks_were_halved(build: Callable[..., HardeningReport]) -> None:
    card = model_card(build())
    rows = headed(card, "Attack")
    assert [row[0] for row in rows[1:]] == [*(a.name for a in stress().attacks), "mean over the attacks"]
    assert rows[1][1:] == ["62.5 % (30.6 to 86.3), n = 8", "12.5 % (2.2 to 47.1), n = 8"]
    assert "Attack success was at least halved" in card and "the ratio of the two is 0.42." in card

    half = stress().model_copy(update={"before": proportion(4, 8), "after": proportion(2, 8)})
    assert "at least halved" in model_card(build(stress=half))
    less = stress().model_copy(update={"before": proportion(5, 8), "after": proportion(3, 8)})
    assert "was not halved" in model_card(build(stress=less))
    none = stress().model_copy(update={"before": proportion(0, 8), "after": proportion(0, 8)})
    assert "nothing to halve" in model_card(build(stress=none))
    assert "More come through" not in card
    fiction = stress().attacks[0].model_copy(update={"name": "fiction", "after": proportion(7, 8)})
    more = stress().model_copy(update={"attacks": (fiction, *stress().attacks[1:])})
    assert "More come through than before under fiction (62.5 %, became 87.5 %, n = 8)." in model_card(
        build(stress=more)
    )
    unmade = StressTest.model_validate({**stress().model_dump(), "after": None})
    assert "no file to put under attack" in model_card(build(stress=unmade))
    assert "No attacks were tried." in model_card(build(stress=None))


def test_figures_beyond_the_limits_are_named(
    report: HardeningReport, build: Callable[..., HardeningReport]
) -> None:
    assert report.after is not None
    assert report.after.kl_first_token is not None
    compliance, kl = report.after.benign_compliance_rate.value, report.after.kl_first_token.value

    def card(floor: float, most: float | None) -> str:
        limits = {"min_compliance": floor, "max_kl": most}
        return model_card(build(injection=report.injection.model_copy(update=limits)))

    assert "Limits hold on the prompts" not in card(compliance, kl)
    assert "Limits hold on the prompts" not in card(compliance, None)
    assert f"of this report, benign compliance is {compliance:.1%}".replace("%", " %") in card(1.0, kl)
    assert f"of this report, the KL divergence is {kl:.3f} nats where at most {kl / 2:.3f}" in card(0, kl / 2)
    assert " and the KL divergence is" in card(1.0, kl / 2)


def test_what_rounding_cost(build: Callable[..., HardeningReport]) -> None:
    card = model_card(build())
    refusal, benign = headed(card, "The file")[1:]
    assert refusal[1:] == ["70.5 % (58.1 to 80.4), n = 61", "68.9 % (56.4 to 79.1), n = 61", "-1.6 points"]
    assert benign[3] == "-1.5 points"
    assert "refusal of harmful requests is within 2 points" in card
    kl = rounding_check().kl_between
    assert kl is not None
    assert f"harmless requests: {kl.value:.3f} (" in card
    for refused, word in ((41, "is not within"), (45, "is not within"), (44, "is within")):
        check = rounding_check().model_copy(update={"file_harmful_refusal": proportion(refused, 61)})
        assert f"harmful requests {word} 2 points" in model_card(build(rounding_check=check))
    edge = rounding_check().model_copy(
        update={
            "adapter_harmful_refusal": proportion(33, 50),
            "file_harmful_refusal": proportion(32, 50),
        }
    )
    assert "is within" in model_card(build(rounding_check=edge))
    assert "as an adapter |" not in model_card(build(rounding_check=None))


def test_delivered_of_every_matrix(report: HardeningReport) -> None:
    card = model_card(report)
    shares = sorted(tensor.delivered for tensor in report.injection.tensors)
    middle = (shares[23] + shares[24]) / 2
    for share in (0.412, shares[0], shares[-1], middle):
        assert f"{share * 100:.1f} %" in card
    rows = headed(card, "Matrix")
    worst = sorted(report.injection.tensors, key=lambda tensor: -abs(tensor.delivered - 1))
    assert [row[0] for row in rows[1:]] == [tensor.name for tensor in worst]
    assert [row[3] for row in rows[1:]] == [f"{tensor.noise:.2f}" for tensor in worst]
    assert rows[-1][1] == "Q8_0, was Q6_K"
    assert "stored in a larger one: 1 from Q6_K to Q8_0." in card
    assert len(rows[0]) == 4


def test_delivered_of_a_matrix_has_an_interval(
    report: HardeningReport, build: Callable[..., HardeningReport]
) -> None:
    first, *others = report.injection.tensors
    estimate = Estimate(value=0.953, n=192, low=0.91, high=0.996)
    tensors = (first.model_copy(update={"estimate": estimate}), *others)
    card = model_card(build(injection=report.injection.model_copy(update={"tensors": tensors})))
    (row,) = (row for row in headed(card, "Matrix") if row[0] == first.name)
    assert row[2] == "95.3 % (91.0 to 99.6), n = 192"
    assert "over the n inputs it was measured on" in card
    assert "over the n inputs it was measured on" not in model_card(report)


def test_types_that_stay(report: HardeningReport, build: Callable[..., HardeningReport]) -> None:
    tensors = tuple(tensor.model_copy(update={"promoted_from": None}) for tensor in report.injection.tensors)
    card = model_card(build(injection=report.injection.model_copy(update={"tensors": tensors})))
    assert "Every matrix kept its type." in card


def test_reproduction_names_command_hash_and_versions(report: HardeningReport) -> None:
    card = model_card(report)
    for needed in (
        report.tool.command,
        report.model.sha256,
        "llama-cpp-python 0.3.36",
        "seed 0",
        *(prompts.sha256 for prompts in report.direction.prompt_sets + report.evaluation.prompt_sets),
    ):
        assert needed in card


def test_limits_say_what_the_figures_rest_on(report: HardeningReport) -> None:
    limits = model_card(report).split("## Limits")[1]
    assert "Whoever holds the weights can undo it" in limits
    assert "61 harmful, 67 harmless, 33 harmful-sounding harmless prompts" in limits
    assert "keyword judge on the first 32 tokens" in limits


@pytest.mark.parametrize("status", ["hardened", "ineffective", "over_refusing", "degraded"])
def test_the_top_says_what_came_of_it(status: str, build: Callable[..., HardeningReport]) -> None:
    report = build(verdict=HardeningVerdict(status=status, reason="Because of X.", advice="Try Y."))  # type: ignore[arg-type]
    top = "\n".join(model_card(report).splitlines()[:8])
    assert ("Not hardened" in top) == (status != "hardened")
    assert re.match(r"# .*: hardened$", top.splitlines()[0]) is not None or status != "hardened"
    assert ("hardened" in top.splitlines()[0]) == (status == "hardened")
    assert "Because of X." in top and "Try Y." in top


def test_a_report_without_a_result(build: Callable[..., HardeningReport]) -> None:
    card = model_card(
        build(
            verdict=HardeningVerdict(status="ineffective", reason="Nothing to amplify.", advice=""),
            output=None,
            after=None,
            changes=None,
            injection=Injection(strength=0.0, min_compliance=0.9, delivered=None, tensors=()),
            frontier=(),
        )
    )
    assert "No model file was written." in card
    assert "no weight was changed" in card
    rows = tables(card)[0]
    assert rows[1][1].startswith("54.1 %") and rows[1][2] == "not measured"


def test_reasons_become_sentences_and_a_file_that_was_not_kept_is_named(
    build: Callable[..., HardeningReport],
) -> None:
    verdict = HardeningVerdict(
        status="ineffective", reason="nothing moved; it may be chance", advice="Use --elicit"
    )
    card = model_card(build(verdict=verdict, output=None))
    assert "> Nothing moved; it may be chance.\n" in card
    assert "> Use --elicit.\n" in card
    assert "> The edited file was not kept.\n" in card


def test_a_point_on_the_limit_answers_enough(build: Callable[..., HardeningReport]) -> None:
    point = frontier()[1]
    limit = point.benign_compliance.value + 2e-16
    injection = Injection(strength=20, min_compliance=limit, delivered=None, tensors=())
    rows = headed(model_card(build(frontier=(point,), injection=injection)), "Strength")
    assert rows[1][-1] == ""


def test_elicitation_is_quoted_whole(report: HardeningReport, build: Callable[..., HardeningReport]) -> None:
    text = "Refuse.\n```\n# not a heading\n<b>"
    direction = DirectionFacts.model_validate({**report.direction.model_dump(), "elicitation": text})
    tokens = MARKDOWN.parse(model_card(build(direction=direction)))
    assert text + "\n" in [token.content for token in tokens if token.type == "fence"]


def test_sounds_harmful_column_goes_when_it_was_not_measured(build: Callable[..., HardeningReport]) -> None:
    points = tuple(
        point.model_copy(update={"sounds_harmful_compliance": None, "degenerate": proportion(0, 5)})
        for point in frontier()
    )
    beside = paper_point().model_copy(update={"sounds_harmful_compliance": None})
    rows = headed(model_card(build(frontier=points, paper=beside)), "Strength")
    assert len(rows[0]) == 8 and {len(row) for row in rows} == {8}


HOSTILE = (
    "x | y\n| --- | --- |\n| <script>alert(1)</script> | `code` **bold** [a](http://b) ![i](http://c)\n"
    "# heading\n\n<img src=x onerror=alert(1)> $x$ ```\n> quote"
)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([HOSTILE, "|", "`", "\\", "``|``", "a\\|b", "<!--", "&lt;b&gt;"]) | st.text(max_size=40)
)
def test_a_hostile_model_file_stays_text(text: str) -> None:
    facts = model_facts(name=text or None).model_dump()
    facts |= {"file_name": text, "architecture": text, "file_type": text, "reference": text}
    card = model_card(make_report(model=facts))
    usual = MARKDOWN.parse(model_card(make_report()))
    tokens = MARKDOWN.parse(card)
    assert [token.type for token in tokens] == [token.type for token in usual]

    def parts(stream: list) -> list[str]:  # type: ignore[type-arg]
        children = [child for token in stream for child in token.children or []]
        return [c.type for c in children if c.type not in {"text", "text_special", "code_inline"}]

    assert parts(tokens) == parts(usual)
    assert "html_inline" not in parts(tokens)
    rendered = MARKDOWN.render(card)
    assert "<script" not in rendered and "<img" not in rendered


def test_hostile_command_stays_in_its_block(
    report: HardeningReport, build: Callable[..., HardeningReport]
) -> None:
    command = "rosi-edge harden 'a\n```\n<b>x</b>'"
    card = model_card(build(tool=report.tool.model_copy(update={"command": command})))
    fences = [token.content for token in MARKDOWN.parse(card) if token.type == "fence"]
    assert fences == [command + "\n"]


def test_a_direction_a_layer_is_said_to_be_one(
    report: HardeningReport, build: Callable[..., HardeningReport]
) -> None:
    point = {**report.direction.sweep[-1].model_dump(), "direction": EACH_LAYERS_OWN}
    facts = {**report.direction.model_dump(), "sweep": (*report.direction.sweep[:-1], point)}
    setting = f"{EACH_LAYERS_OWN}, ridge"
    injection = {**report.injection.model_dump(), "setting": setting, "direction": EACH_LAYERS_OWN}
    card = model_card(
        build(
            direction=DirectionFacts.model_validate(facts),
            injection=type(report.injection).model_validate(injection),
        )
    )
    assert "each block was edited along its own" in card
    assert "found in the weights" not in card and "avoid around block" not in card


def test_another_attribute_shows_what_it_did_to_harmful_requests(report: HardeningReport) -> None:
    assert report.after is not None
    guarded = {"guarded_refusal_rate": report.before.harmful_refusal_rate}
    shown = report.model_copy(
        update={
            "before": report.before.model_copy(update=guarded),
            "after": report.after.model_copy(update=guarded),
        }
    )
    rows = tables(model_card(shown))[0]
    assert len(rows) == len(tables(model_card(report))[0]) + 1
    assert rows[4][0].startswith("Refuses harmful requests, whatever") and rows[4][1] == rows[1][1]
