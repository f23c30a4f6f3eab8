"""Attributes: the file, the prompts it names, what is refused, and that harm stays what it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_engine import prompt_set
from report.sample_report import make_report

from rosi_edge.commands.harden import harden
from rosi_edge.errors import PromptSetError, RosiEdgeError
from rosi_edge.evaluation.behaviour import Behaviour, Judged, compare, refusal_openings
from rosi_edge.evaluation.verdicts import Verdict
from rosi_edge.hardening.attribute import (
    GUARDED,
    AttributeFileError,
    bundled_attributes,
    open_attribute,
    prompts_and_judge,
)
from rosi_edge.hardening.verdict import diagnose
from rosi_edge.prompts.plan import plan_prompts
from rosi_edge.prompts.sets import Kind, Part, bundled
from rosi_edge.runtime.engine import Generation

TOML = """
version = 1
name = "tax"
description = "Declines to give advice on taxes."

[decline]
name = "questions about taxes"
file = "taxes.txt"

[answer]
name = "other questions"
calibration = "other_calibration.jsonl"
choosing = "other_choosing.jsonl"
reporting = "other_reporting.jsonl"

[judge]
declining = ["ask … adviser", "no tax advice"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "attribute.toml").write_text(TOML)
    (tmp_path / "taxes.txt").write_text("\n".join(f"What is my tax on {n * n} euros?" for n in range(40)))
    for part in Part:
        lines = [
            json.dumps({"prompt": f"What is {n} times {n}, {part}?", "category": "sums"}) for n in range(9)
        ]
        (tmp_path / f"other_{part}.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_a_folder_of_ones_own(folder: Path) -> None:
    attribute = open_attribute(str(folder))
    plan = attribute.plan()
    parts = (plan.calibration, plan.choosing, plan.reporting)
    assert sum(len(sets.harmful) for sets in parts) == 40
    assert [len(sets.harmless) for sets in parts] == [9, 9, 9]
    assert [sets.sounds_harmful for sets in parts] == [None] * 3
    assert (plan.names.harmful, plan.names.harmless) == ("questions about taxes", "other questions")
    judge = attribute.judge()
    assert judge.name == "phrases:tax"
    answers = ["You should ask a qualified tax adviser.", "That makes 12 euros."]
    assert judge.judge(["q", "q"], answers) == [Verdict.REFUSED, Verdict.COMPLIED]


def test_refusals_alone_are_the_keyword_judges_business(folder: Path) -> None:
    text = TOML.replace('declining = ["ask … adviser", "no tax advice"]', "refusals_count = true")
    (folder / "attribute.toml").write_text(text)
    assert open_attribute(str(folder)).judge().name == "keyword"


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('file = "taxes.txt"', 'file = "../taxes.txt"', "not the name of a file"),
        ('file = "taxes.txt"', 'file = "/etc/passwd"', "not the name of a file"),
        ('file = "taxes.txt"', 'file = "a\\\\b"', "not the name of a file"),
        ('file = "taxes.txt"', "", "give either file"),
        ('choosing = "other_choosing.jsonl"', "", "give either file"),
        (
            'choosing = "other_choosing.jsonl"',
            'choosing = "other_choosing.jsonl"\nfile = "a.txt"',
            "either file",
        ),
        ('"no tax advice"', '"(x+)+ y"', "no regular expressions"),
        ('"no tax advice"', '"tax"', "single word"),
        ('declining = ["ask … adviser", "no tax advice"]', "", "give phrases"),
        ('name = "tax"', 'name = "Tax advice"', "name"),
        ('name = "other questions"', 'name = "\\u001b[31mred"', "shown to people"),
        ("version = 1", "version = 2", "version"),
        ("version = 1", "version = 1\nstrength = -1.0", "there is no key strength"),
        ("[judge]", "[judge", "is not TOML"),
    ],
)
def test_files_that_make_no_sense(folder: Path, old: str, new: str, word: str) -> None:
    assert old in TOML
    (folder / "attribute.toml").write_text(TOML.replace(old, new))
    with pytest.raises(AttributeFileError) as caught:
        open_attribute(str(folder))
    assert word in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["nowhere", "../unknowable", "nul\0byte", ""])
def test_there_is_no_such_attribute(name: str) -> None:
    with pytest.raises(AttributeFileError, match="there is no attribute") as caught:
        open_attribute(name)
    assert "unknowable" in caught.value.remedy


def test_hostile_bytes(folder: Path) -> None:
    for data in (b"\xff\xfe\x00", b"a = " + b"[" * 5000, b"x" * (2 << 20)):
        (folder / "attribute.toml").write_bytes(data)
        with pytest.raises(AttributeFileError):
            open_attribute(str(folder))


def test_a_missing_prompt_file(folder: Path) -> None:
    (folder / "taxes.txt").unlink()
    with pytest.raises(PromptSetError, match="does not exist"):
        open_attribute(str(folder)).plan()


def test_a_request_stands_in_one_set_and_part_only(folder: Path) -> None:
    path = folder / "other_reporting.jsonl"
    original = path.read_text()
    for text in ("What is my TAX on 9 euros", "What is 3 times 3, choosing?"):
        path.write_text(original + "\n" + json.dumps({"prompt": text}))
        with pytest.raises(PromptSetError, match="Remove it from one of them"):
            open_attribute(str(folder)).plan()


def test_a_harmful_request_is_never_one_to_answer(folder: Path) -> None:
    # The sets the wrong way round would take refusals away.
    path = folder / "other_calibration.jsonl"
    harmful = bundled(Kind.HARMFUL, Part.REPORTING).texts[5]
    path.write_text(path.read_text() + "\n" + json.dumps({"prompt": harmful.upper()}))
    with pytest.raises(PromptSetError, match="may only add refusals"):
        open_attribute(str(folder)).plan()


def test_without_an_attribute_all_is_as_before() -> None:
    plan, judge, about = prompts_and_judge(None, {}, seed=3)
    assert (plan, judge.name, about) == (plan_prompts({}, seed=3), "keyword", None)


def test_an_attribute_brings_its_own_prompts(tmp_path: Path) -> None:
    with pytest.raises(AttributeFileError, match="brings its own prompts"):
        prompts_and_judge("unknowable", {Kind.HARMFUL: tmp_path / "x.txt"})


def test_elicitation(folder: Path) -> None:
    assert "cannot" in open_attribute("unknowable").elicitation("")
    assert open_attribute("unknowable").elicitation("Mine.") == "Mine."
    with pytest.raises(AttributeFileError, match="no system prompt"):
        open_attribute(str(folder)).elicitation("")


def test_the_command_hands_it_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Any] = []

    def instead(*arguments: Any) -> Any:
        given.extend(arguments)
        return make_report()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROSI_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rosi_edge.sources.resolve.resolve", lambda model, progress: Path(model))
    monkeypatch.setattr("rosi_edge.hardening.session.harden", instead)
    result = CliRunner().invoke(
        harden, ["model.gguf", "-o", "out.gguf", "--attribute", "unknowable", "--elicit"]
    )
    assert result.exit_code == 0, result.output
    _, _, prompts, judge, options, *_ = given
    assert prompts.names.harmful == "unknowable questions"
    assert '"harmful" reads unknowable questions' in prompts.about
    assert prompts.choosing.harmful.name == "unknowable_choosing"
    assert judge.name == "phrases:unknowable"
    assert (options.look, options.elicitation) == (False, open_attribute("unknowable").elicitation(""))
    shown = " ".join(result.output.split())
    assert "declines unknowable questions" in shown
    assert "answers answerable questions that look unknowable" in shown


def test_the_command_refuses_what_cannot_be(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        harden, ["model.gguf", "-o", str(tmp_path / "o.gguf"), "--attribute", "nowhere"]
    )
    assert isinstance(result.exception, RosiEdgeError)
    assert "unknowable" in result.exception.remedy


def behaviour(verdicts: list[Verdict]) -> Behaviour:
    answers = tuple(Generation("text", [1], False) for _ in verdicts)
    judged = Judged(prompt_set("p", [str(n) for n in range(len(verdicts))]), answers, tuple(verdicts))
    complied = Judged(judged.prompts, answers, (Verdict.COMPLIED,) * len(verdicts))
    return Behaviour(judged, complied, None, None, None)


def test_the_verdict_speaks_of_the_attribute() -> None:
    before, after = behaviour([Verdict.COMPLIED] * 20), behaviour([Verdict.REFUSED] * 20)
    names = open_attribute("unknowable").names
    verdict = diagnose(before, after, compare(before, after), names)
    assert verdict.status == "hardened"
    assert verdict.reason.startswith("refusal of unknowable questions rose by 100.0 points")
    assert "compliance with answerable questions" in verdict.reason
    assert "harmful requests rose" in diagnose(before, after, compare(before, after)).reason


def openings(*answers: tuple[int, Verdict]) -> list[int]:
    generations = tuple(Generation("", [token], False) for token, _ in answers)
    prompts = prompt_set("p", [str(n) for n in range(len(answers))])
    return refusal_openings([Judged(prompts, generations, tuple(verdict for _, verdict in answers))])


def test_harmful_requests_are_guarded_beside_an_attribute(folder: Path) -> None:
    plan = open_attribute(str(folder)).plan()
    for part, sets in zip(Part, (plan.calibration, plan.choosing, plan.reporting), strict=True):
        assert sets.guarded is not None and len(sets.guarded) == GUARDED[part]
        assert set(sets.guarded.texts) <= set(bundled(Kind.HARMFUL, part).texts)
        assert sets.guarded not in sets.groups
    assert plan_prompts({}).reporting.guarded is None


def test_openings_that_compliant_answers_share() -> None:
    refused, complied = Verdict.REFUSED, Verdict.COMPLIED
    # 7 begins refusals alone, and most of them: 8 stays out although it begins more refusals than answers.
    assert openings((7, refused), (7, refused), (8, refused), (8, refused), (8, complied), (7, refused)) == [
        7
    ]
    # Where most refusals begin like an answer, the majority decides.
    shared = (
        [(8, refused)] * 5 + [(8, complied)] * 2 + [(7, refused)] + [(9, refused)] * 2 + [(9, complied)] * 2
    )
    assert openings(*shared) == [7, 8]
    assert openings((8, complied)) == []


def test_what_ships() -> None:
    assert bundled_attributes() == ["unknowable"]
