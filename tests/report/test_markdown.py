from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report.sample_report import figures, frontier, make_report, model_facts

from rosi_edge.evaluation.statistics import proportion
from rosi_edge.report.markdown import model_card
from rosi_edge.report.schema import DirectionFacts, HardeningReport, Injection, Verdict

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
        assert ("harmless" in cells) == ("Refuses harmful" in cells) or "Prompts for" in cells
        for row in rows:
            for cell in row:
                if re.search(r"\d % \(|\d points \(", cell):
                    assert re.search(r", n = \d+$", cell), cell


def test_exact_edit_gets_a_column(build: Callable[..., HardeningReport]) -> None:
    rows = tables(model_card(build(adapter_after=figures(50, 58, 12, 2, 0.14))))[0]
    assert rows[0][3] == "Exact edit, before rounding"
    assert rows[1][3].startswith("82.0 %")
    assert {len(row) for row in rows} == {6}


def test_frontier_marks_the_chosen_point_and_those_below_the_limit(report: HardeningReport) -> None:
    rows = tables(model_card(report))[1]
    assert len(rows) == 1 + len(report.frontier)
    remarks = {row[1]: row[-1] for row in rows[1:]}
    assert remarks["47.5"] == "chosen"
    assert remarks["0"] == "original"
    assert remarks["40"] == ""
    assert remarks["80"] == "answers too few"


def test_delivered_summary_and_the_worst(report: HardeningReport) -> None:
    card = model_card(report)
    shares = sorted(tensor.delivered for tensor in report.injection.tensors)
    middle = (shares[23] + shares[24]) / 2
    for share in (0.412, shares[0], shares[-1], middle):
        assert f"{share * 100:.1f} %" in card
    rows = tables(card)[2]
    worst = sorted(report.injection.tensors, key=lambda tensor: -abs(tensor.delivered - 1))[:10]
    assert [row[0] for row in rows[1:]] == [tensor.name for tensor in worst]
    assert [row[3] for row in rows[1:]] == [f"{tensor.noise:.2f}" for tensor in worst]


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
    report = build(verdict=Verdict(status=status, reason="Because of X.", advice="Try Y."))  # type: ignore[arg-type]
    top = "\n".join(model_card(report).splitlines()[:8])
    assert ("Not hardened" in top) == (status != "hardened")
    assert re.match(r"# .*: hardened$", top.splitlines()[0]) is not None or status != "hardened"
    assert ("hardened" in top.splitlines()[0]) == (status == "hardened")
    assert "Because of X." in top and "Try Y." in top


def test_a_report_without_a_result(build: Callable[..., HardeningReport]) -> None:
    card = model_card(
        build(
            verdict=Verdict(status="ineffective", reason="Nothing to amplify.", advice=""),
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
    verdict = Verdict(status="ineffective", reason="nothing moved; it may be chance", advice="Use --elicit")
    card = model_card(build(verdict=verdict, output=None))
    assert "> Nothing moved; it may be chance.\n" in card
    assert "> Use --elicit.\n" in card
    assert "> The edited file was not kept.\n" in card


def test_a_point_on_the_limit_answers_enough(build: Callable[..., HardeningReport]) -> None:
    point = frontier()[1]
    limit = point.benign_compliance.value + 2e-16
    injection = Injection(strength=20, min_compliance=limit, delivered=None, tensors=())
    rows = tables(model_card(build(frontier=(point,), injection=injection)))[1]
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
    rows = tables(model_card(build(frontier=points)))[1]
    assert len(rows[0]) == 7 and {len(row) for row in rows} == {7}


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
