"""Benchmark files are read as they are, refused with file and line, and scored as the harness does."""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosi_edge.errors import FetchError, PromptSetError
from rosi_edge.evaluation.multiple_choice import (
    Benchmark,
    Outcome,
    Question,
    QuestionSet,
    bundled,
    hub,
    load_questions,
    outcome,
)
from rosi_edge.evaluation.multiple_choice.formats import clean_hellaswag

MMLU_ROW = "What is 2 + 2?,3,4,5,6,B"
HELLASWAG: dict[str, Any] = {
    "ind": 24,
    "activity_label": "Roof shingle removal",
    "ctx_a": "A man is sitting on a roof.",
    "ctx_b": "he",
    "ctx": "A man is sitting on a roof. he",
    "endings": ["sings.", "uses wrap.", "rips up tiles.", "holds a cube."],
    "label": 2,
}
ARC: dict[str, Any] = {
    "id": "q1",
    "question": {
        "stem": "Which is a mammal?",
        "choices": [
            {"text": "a cow", "label": "A"},
            {"text": "a hen", "label": "B"},
            {"text": "a cod", "label": "C"},
        ],
    },
    "answerKey": "A",
}
ARC_FLAT: dict[str, Any] = {
    "id": "q1",
    "question": "Which is a mammal?",
    "choices": {"text": ["a cow", "a hen", "a cod"], "label": ["1", "2", "3"]},
    "answerKey": "3",
}
MMLU_OBJECT: dict[str, Any] = {
    "question": "What is 2 + 2?",
    "subject": "abstract_algebra",
    "choices": ["3", "4", "5", "6"],
    "answer": 1,
}


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def lines(*rows: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def only(path: Path) -> Question:
    (question,) = load_questions(path).questions
    return question


# --- formats -------------------------------------------------------------------------------------------


def test_mmlu_prompt(tmp_path: Path) -> None:
    question = only(write(tmp_path, "high_school_physics_test.csv", MMLU_ROW + "\n"))
    assert question.benchmark is Benchmark.MMLU
    assert question.context == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "What is 2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:"
    )
    assert question.prefix == question.context
    assert question.continuations == (" A", " B", " C", " D")
    assert question.answer == 1
    assert question.subject == "high_school_physics"


def test_mmlu_cells_may_hold_commas_quotes_and_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "x_val.csv", '\r\n"  a,\nb ""c"" ","1,2",2,3,4, d \r\nnext,1,2,3,4,A\r\n')
    first, second = load_questions(path)
    assert '\n\na,\nb "c"\nA. 1,2\nB. 2\n' in first.context
    assert first.answer == 3
    assert first.subject == "x"
    assert first.place.endswith("x_val.csv, line 2")
    assert second.place.endswith("x_val.csv, line 4")


def test_mmlu_heading_is_no_question(tmp_path: Path) -> None:
    assert len(load_questions(write(tmp_path, "a.csv", f"prompt,A,B,C,D,answer\n{MMLU_ROW}\n"))) == 1
    assert len(load_questions(write(tmp_path, "b.csv", f"\ufeffquestion,A,B,C,D,answer\n{MMLU_ROW}\n"))) == 1


def test_mmlu_as_on_the_hub(tmp_path: Path) -> None:
    question = only(write(tmp_path, "test.jsonl", lines(MMLU_OBJECT)))
    same = only(write(tmp_path, "abstract_algebra_test.csv", MMLU_ROW))
    assert (question.context, question.choices, question.answer) == (same.context, same.choices, same.answer)
    assert only(write(tmp_path, "test.jsonl", lines({**MMLU_OBJECT, "answer": "B"}))).answer == 1


def test_hellaswag_prompt(tmp_path: Path) -> None:
    question = only(write(tmp_path, "hellaswag_val.jsonl", lines(HELLASWAG)))
    assert question.benchmark is Benchmark.HELLASWAG
    assert question.context == "Roof shingle removal: A man is sitting on a roof. He"
    assert question.continuations == (" sings.", " uses wrap.", " rips up tiles.", " holds a cube.")
    assert question.answer == 2


def test_hellaswag_without_parts_or_with_text_labels(tmp_path: Path) -> None:
    row = {"ctx": "He runs", "endings": ["off.", "home."], "label": "1"}
    question = only(write(tmp_path, "h.jsonl", lines(row)))
    assert question.context == "He runs"
    assert question.answer == 1


def independent_preprocess(text: str) -> str:
    """What hellaswag/utils.py does, written without regular expressions."""
    text = ". ".join(text.strip().split(" [title]"))
    kept = ""
    while "[" in text:
        before, _, rest = text.partition("[")
        inside, closed, after = rest.partition("]")
        if not closed or "\n" in inside:
            # An opening bracket whose partner is missing, or on another line, stays.
            kept, text = kept + before + "[", rest
        else:
            kept, text = kept + before, after
    return " ".join((kept + text).split("  "))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  How to cook [title] Take a pot. [step] Fill it. ", "How to cook. Take a pot. Fill it."),
        ("[header] How to sew", " How to sew"),
        ("a [b] c [d]", "a c "),
    ],
)
def test_hellaswag_marks_are_removed(text: str, clean: str) -> None:
    assert clean_hellaswag(text) == clean == independent_preprocess(text)


@given(st.lists(st.sampled_from(["[", "]", " ", "a", "\n", "[title]", " [title]", "[step]"])).map("".join))
def test_hellaswag_cleaning_agrees_with_another_one(text: str) -> None:
    assert clean_hellaswag(text) == independent_preprocess(text)


def test_space_at_the_end_of_a_prompt_moves_to_the_choices(tmp_path: Path) -> None:
    row = {**HELLASWAG, "ctx_a": "Fill it. [substeps]", "ctx_b": "", "activity_label": "Cooking"}
    question = only(write(tmp_path, "h.jsonl", lines(row)))
    assert question.context == "Cooking: Fill it. "
    assert question.prefix == "Cooking: Fill it."
    assert question.continuations[0] == "  sings."


def test_arc_prompt_in_both_layouts(tmp_path: Path) -> None:
    nested = only(write(tmp_path, "ARC-Easy-Test.jsonl", lines(ARC)))
    flat = only(write(tmp_path, "flat.jsonl", lines(ARC_FLAT)))
    assert nested.benchmark is flat.benchmark is Benchmark.ARC
    assert nested.context == flat.context == "Question: Which is a mammal?\nAnswer:"
    assert nested.continuations == flat.continuations == (" a cow", " a hen", " a cod")
    assert (nested.answer, flat.answer) == (0, 2)
    as_list = {**ARC_FLAT, "choices": ARC["question"]["choices"], "answerKey": "B", "question": {"stem": "Q"}}
    as_list["question"]["choices"] = as_list.pop("choices")
    assert only(write(tmp_path, "l.jsonl", lines(as_list))).answer == 1


@pytest.mark.parametrize(
    ("labels", "key", "answer"),
    [
        ("1234", "4", 3),
        ("ABCD", "4", 3),
        ("1234", "D", 3),
        ("ABCDE", "E", 4),
        ("ABC", "c", 2),
        ("1234", 2, 1),
    ],
)
def test_arc_labels(tmp_path: Path, labels: str, key: object, answer: int) -> None:
    choices = {"text": [f"text {label}" for label in labels], "label": list(labels)}
    row = {**ARC_FLAT, "choices": choices, "answerKey": key}
    assert only(write(tmp_path, "a.jsonl", lines(row))).answer == answer


def test_blank_lines_line_ends_and_unusual_separators(tmp_path: Path) -> None:
    second = {**ARC, "question": {**ARC["question"], "stem": "Which\u2028one?"}}
    text = "\ufeff\r\n" + lines(ARC).strip() + "\r\n\r\n   \r" + lines(second) + "\n"
    questions = load_questions(write(tmp_path, "a.jsonl", text)).questions
    assert [question.place.rpartition(", ")[2] for question in questions] == ["line 2", "line 5"]
    assert "Which\u2028one?" in questions[1].context


def test_format_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    assert only(write(tmp_path, "data.txt", lines(HELLASWAG))).benchmark is Benchmark.HELLASWAG
    assert only(write(tmp_path, "data.csv", lines(ARC))).benchmark is Benchmark.ARC
    assert only(write(tmp_path, "data", MMLU_ROW)).benchmark is Benchmark.MMLU


def test_doubled_questions_count_as_in_the_published_figures(tmp_path: Path) -> None:
    assert len(load_questions(write(tmp_path, "a.jsonl", lines(ARC, ARC)))) == 2


# --- bad files -----------------------------------------------------------------------------------------


def changed(row: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {key: value for key, value in {**row, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("m.csv", "What?,1,2,3,4,", "has no answer"),
        ("m.csv", "What?,1,2,3,4", "has 5 cells instead of 6"),
        ("m.csv", "What?", "has 1 cell instead of 6"),
        ("m.csv", "What?,1,2,3,4,A,B", "has 7 cells instead of 6"),
        ("m.csv", "What?,1,2,3,4,E", "has the answer 'E'"),
        ("m.csv", "What?,1,2,3,4,AB", "has the answer 'AB'"),
        ("m.csv", ",1,2,3,4,A", "has no text for question"),
        ("m.csv", "What?,1,,3,4,A", "has no text for choice B"),
        ("m.csv", '"What?,1,2,3,4,A', "is not CSV"),
        ("m.csv", '"What"?,1,2,3,4,A', "is not CSV"),
        ("m.csv", "What?\x00" + "x" * 200_000 + ",1,2,3,4,A", "is not CSV"),
        ("h.jsonl", lines(changed(HELLASWAG, label="")), "has no answer"),
        ("h.jsonl", lines(changed(HELLASWAG, label=...)), "has no answer"),
        ("h.jsonl", lines(changed(HELLASWAG, label=None)), "has no answer"),
        ("h.jsonl", lines(changed(HELLASWAG, label=4)), "has the label 4"),
        ("h.jsonl", lines(changed(HELLASWAG, label=-1)), "has the label -1"),
        ("h.jsonl", lines(changed(HELLASWAG, label=True)), "has the label True"),
        ("h.jsonl", lines(changed(HELLASWAG, label="²")), "has the label"),
        ("h.jsonl", lines(changed(HELLASWAG, label=1.0)), "has the label 1.0"),
        ("h.jsonl", lines(changed(HELLASWAG, label=[1])), "has the label"),
        ("h.jsonl", lines(changed(HELLASWAG, endings="abcd")), "no list of two to five endings"),
        ("h.jsonl", lines(changed(HELLASWAG, endings=["a."])), "no list of two to five endings"),
        ("h.jsonl", lines(changed(HELLASWAG, endings=["a.", "", "c.", "d."])), "has no text for ending 1"),
        ("h.jsonl", lines(changed(HELLASWAG, endings=["a.", "[b]", "c.", "d."])), "has no text for ending 1"),
        ("h.jsonl", lines(changed(HELLASWAG, endings=["a.", 1, "c.", "d."])), "has no text for ending 1"),
        ("h.jsonl", lines(changed(HELLASWAG, ctx_a=7)), "has no text for ctx_a"),
        ("h.jsonl", lines(changed(HELLASWAG, ctx_b=7)), "ctx_b that is not text"),
        ("h.jsonl", lines(changed(HELLASWAG, ctx_a=..., ctx=...)), "has no text for ctx"),
        ("a.jsonl", lines(changed(ARC, answerKey=...)), "has no answer"),
        ("a.jsonl", lines(changed(ARC, answerKey=" ")), "has no answer"),
        ("a.jsonl", lines(changed(ARC, answerKey="D")), "has the answerKey 'D'"),
        ("a.jsonl", lines(changed(ARC, answerKey="4")), "has the answerKey '4'"),
        ("a.jsonl", lines(changed(ARC, answerKey="0")), "has the answerKey '0'"),
        ("a.jsonl", lines(changed(ARC, question={"stem": "Q"})), "has no choices"),
        (
            "a.jsonl",
            lines(changed(ARC, question={"stem": "Q", "choices": ["a", "b", "c"]})),
            "has no choices",
        ),
        ("a.jsonl", lines(changed(ARC_FLAT, choices={"text": ["a"] * 3, "label": ["1"]})), "has no choices"),
        ("a.jsonl", lines(changed(ARC_FLAT, choices={"text": "abc", "label": "123"})), "has no choices"),
        (
            "a.jsonl",
            lines(changed(ARC_FLAT, choices={"text": ["a"] * 2, "label": ["1", "2"]})),
            "has 2 choices; ARC's questions have 3 to 5",
        ),
        (
            "a.jsonl",
            lines(changed(ARC_FLAT, choices={"text": ["a"] * 3, "label": ["1", "1", "2"]})),
            "two choices with the same label",
        ),
        ("a.jsonl", lines(changed(ARC_FLAT, question="")), "has no text for question"),
        ("a.jsonl", lines(changed(ARC_FLAT, question="x" * 40_000)), "40,000 characters in question"),
        ("o.jsonl", lines(changed(MMLU_OBJECT, answer=4)), "has the answer 4"),
        ("o.jsonl", lines(changed(MMLU_OBJECT, answer="E")), "has the answer 'E'"),
        ("o.jsonl", lines(changed(MMLU_OBJECT, answer=None)), "has no answer"),
        ("o.jsonl", lines(changed(MMLU_OBJECT, choices=["1", "2", "3"])), "list of four choices"),
        ("o.jsonl", lines(changed(MMLU_OBJECT, choices=["1", "2", "3", 4])), "has no text for choice D"),
        ("o.jsonl", lines({"prompt": "Hello"}), "is not a question of MMLU, HellaSwag or ARC"),
        ("o.jsonl", "[1, 2]", "is not a JSON object"),
        ("o.jsonl", "{'a': 1}", "is not a JSON object"),
        ("o.jsonl", '{"a":' * 100_000, "is not a JSON object"),
        ("o.json", "[", "is not a JSON object"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(tmp_path: Path, name: str, bad: str, message: str) -> None:
    path = write(tmp_path, name, f"\n\n{bad}")
    with pytest.raises(PromptSetError) as caught:
        load_questions(path)
    assert caught.value.message.startswith(f"{path}, line 3 ")
    assert message in caught.value.message
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


GOOD = {
    "m.csv": MMLU_ROW + "\n",
    "h.jsonl": lines(HELLASWAG),
    "a.jsonl": lines(ARC),
    "o.jsonl": lines(MMLU_OBJECT),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_later_row_is_held_to_the_format_of_the_first(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, GOOD[name] * 2 + "{}\n")
    with pytest.raises(PromptSetError) as caught:
        load_questions(path)
    assert caught.value.message.startswith(f"{path}, line 3 ")


@given(data=st.binary(max_size=300))
def test_any_bytes_give_questions_or_a_prompt_set_error(data: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data)
    try:
        assert len(load_questions(path)) > 0
    except PromptSetError as error:
        assert error.remedy


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    base=st.sampled_from([HELLASWAG, ARC, ARC_FLAT, MMLU_OBJECT]),
    value=JSON,
    nested=st.booleans(),
    data=st.data(),
)
def test_any_value_in_any_place_gives_a_question_or_a_prompt_set_error(
    base: dict[str, Any], value: object, nested: bool, data: st.DataObject, tmp_path_factory: Any
) -> None:
    row = json.loads(json.dumps(base))
    inner = [each for each in row.values() if isinstance(each, dict)]
    target = inner[0] if nested and inner else row
    target[data.draw(st.sampled_from(sorted(target)))] = value
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(json.dumps(row))
    try:
        question = only(path)
    except PromptSetError as error:
        assert error.remedy
    else:
        assert 0 <= question.answer < len(question.choices)
        assert all(question.choices)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "none.csv", "does not exist"),
        (write(tmp_path, "empty.csv", ""), "holds no questions"),
        (write(tmp_path, "blank.jsonl", "\n \n"), "holds no questions"),
        (write(tmp_path, "latin.csv", b"What?,1,2,3,4,A\nWh\xe4t?,1,2,3,4,A\n"), "line 2, is not UTF-8"),
        (Path("a\0b"), "cannot be read"),
    ]:
        with pytest.raises(PromptSetError, match=message):
            load_questions(path)


def test_too_large_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = importlib.import_module("rosi_edge.prompts.files")
    monkeypatch.setattr(files, "MAX_FILE_BYTES", len(MMLU_ROW))
    assert only(write(tmp_path, "fits.csv", MMLU_ROW))
    with pytest.raises(PromptSetError, match="larger than"):
        load_questions(write(tmp_path, "long.csv", MMLU_ROW + "\n"))


# --- folders and sets ----------------------------------------------------------------------------------


def test_a_folder_of_subjects(tmp_path: Path) -> None:
    write(tmp_path, "b_test.csv", MMLU_ROW)
    write(tmp_path, "a_test.csv", MMLU_ROW)
    write(tmp_path, "README.txt", "nothing")
    questions = load_questions(str(tmp_path))
    assert [question.subject for question in questions] == ["a", "b"]
    assert questions.name == tmp_path.name
    assert questions.source == str(tmp_path)


def test_folders_that_say_too_little(tmp_path: Path) -> None:
    for split in ("test", "dev"):
        (tmp_path / split).mkdir()
        write(tmp_path / split, "a.csv", MMLU_ROW)
    with pytest.raises(PromptSetError, match="Name one of its folders: dev, test"):
        load_questions(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptSetError, match="holds no CSV or JSON lines file"):
        load_questions(tmp_path / "empty")


def test_mixed_benchmarks(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", MMLU_ROW)
    write(tmp_path, "b.jsonl", lines(ARC))
    with pytest.raises(PromptSetError, match="mixes questions of arc and mmlu"):
        load_questions(tmp_path)


def test_samples_are_repeatable_even_and_nested() -> None:
    questions = bundled()[Benchmark.MMLU]
    drawn = questions.take(20, seed=3)
    assert drawn == questions.take(20, seed=3)
    assert drawn != questions.take(20, seed=4)
    subjects = [question.subject for question in drawn]
    assert {subjects.count(subject) for subject in set(subjects)} == {5}
    assert set(questions.take(9, seed=3)) < set(drawn)
    backwards = QuestionSet.of("x", reversed(questions.questions), "x")
    assert set(backwards.take(20, seed=3)) == set(drawn)
    assert questions.take(1000) is questions
    with pytest.raises(PromptSetError, match="sample of 0"):
        questions.take(0)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    first = load_questions(write(tmp_path, "a.jsonl", lines(ARC)))
    assert first.sha256 == load_questions(write(tmp_path, "b.jsonl", "\n" + lines(ARC))).sha256
    other = load_questions(write(tmp_path, "c.jsonl", lines({**ARC, "answerKey": "B"})))
    assert other.sha256 != first.sha256


# --- scoring -------------------------------------------------------------------------------------------


def question(choices: tuple[str, ...], answer: int) -> Question:
    return Question(Benchmark.ARC, "Question: ?\nAnswer:", choices, answer, "arc", "here, line 1")


def harness(choices: tuple[str, ...], gold: int, lls: tuple[float, ...]) -> tuple[float, float]:
    """The formula of lm-evaluation-harness, with NumPy as there."""
    lengths = np.array([float(len(choice)) for choice in choices])
    return float(np.argmax(lls) == gold), float(np.argmax(np.array(lls) / lengths) == gold)


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=30), st.floats(-300, 0) | st.just(-float("inf"))),
        min_size=2,
        max_size=5,
    ),
    st.integers(0, 4),
)
def test_outcome_is_that_of_the_harness(scored: list[tuple[str, float]], gold: int) -> None:
    choices, lls = zip(*scored, strict=True)
    gold %= len(choices)
    assert outcome(question(choices, gold), lls) == Outcome(*map(bool, harness(choices, gold, lls)))


def test_the_two_measures_differ_as_they_should() -> None:
    # -4.0 is the larger sum, -9.0 the larger average over characters (-0.9 against -1.0).
    asked = question(("abcd", "abcdefghij"), 1)
    assert outcome(asked, [-4.0, -9.0]) == Outcome(acc=False, acc_norm=True)
    # Characters, not bytes: four of them in twelve bytes would turn the second comparison round.
    asked = question(("日本語文", "abcdefgh"), 1)
    assert outcome(asked, [-4.0, -6.0]) == Outcome(acc=False, acc_norm=True)


def test_the_first_of_equals_is_picked() -> None:
    assert outcome(question(("aa", "bb"), 0), [-1.0, -1.0]) == Outcome(True, True)
    assert outcome(question(("aa", "bb"), 1), [-1.0, -1.0]) == Outcome(False, False)


def test_score_over_the_bundled_questions() -> None:
    generator = np.random.default_rng(7)
    for questions in bundled().values():
        logprobs = [tuple(-40 * generator.random(4)) for _ in questions]
        expected = np.mean(
            [harness(q.choices, q.answer, lls) for q, lls in zip(questions, logprobs, strict=True)], axis=0
        )
        scored = [outcome(q, lls) for q, lls in zip(questions, logprobs, strict=True)]
        assert np.mean([(each.acc, each.acc_norm) for each in scored], axis=0) == pytest.approx(expected)


def test_right_and_wrong_answers_give_one_and_nought() -> None:
    for questions in bundled().values():
        for q in questions:
            assert outcome(q, [-1.0 if i == q.answer else -500.0 for i in range(4)]) == Outcome(True, True)
            assert not outcome(q, [-500.0 if i == q.answer else -1.0 for i in range(4)]).acc


def test_results_that_do_not_match() -> None:
    asked = question(("a", "b"), 0)
    with pytest.raises(ValueError, match="as many log-probabilities"):
        outcome(asked, [-1.0])
    with pytest.raises(ValueError, match="not a number"):
        outcome(asked, [-1.0, float("nan")])


# --- the hub -------------------------------------------------------------------------------------------

MMLU_FILES = [
    "README.md",
    "all/dev-00000-of-00001.parquet",
    "all/test-00000-of-00001.parquet",
    "all/auxiliary_train-00000-of-00001.parquet",
    "anatomy/dev-00000-of-00001.parquet",
    "anatomy/test-00000-of-00001.parquet",
    "anatomy/validation-00000-of-00001.parquet",
]
ARC_FILES = [f"ARC-{kind}/{split}.jsonl" for kind in ("Easy", "Challenge") for split in ("train", "test")]


@pytest.mark.parametrize(
    ("names", "subset", "chosen"),
    [
        (MMLU_FILES, "", [["all/test-00000-of-00001.parquet"]]),
        (
            MMLU_FILES,
            "anatomy",
            [["anatomy/test-00000-of-00001.parquet"], ["anatomy/validation-00000-of-00001.parquet"]],
        ),
        (ARC_FILES, "ARC-Easy", [["ARC-Easy/test.jsonl"]]),
        (
            ["data/hellaswag_train.jsonl", "data/hellaswag_test.jsonl", "data/hellaswag_val.jsonl"],
            "",
            [["data/hellaswag_test.jsonl"], ["data/hellaswag_val.jsonl"]],
        ),
        (
            ["data/test/a_test.csv", "data/test/b_test.csv", "data/dev/a_dev.csv", "data/test/a.parquet"],
            "",
            [["data/test/a_test.csv", "data/test/b_test.csv"]],
        ),
    ],
)
def test_hub_files_are_chosen(names: list[str], subset: str, chosen: list[list[str]]) -> None:
    assert hub.choose("org/set", names, subset) == chosen


@pytest.mark.parametrize(
    ("names", "subset", "message"),
    [
        (ARC_FILES, "", "hf:org/set:SUBSET with one of ARC-Challenge, ARC-Easy"),
        (ARC_FILES, "ARC-Hard", "It has ARC-Challenge, ARC-Easy"),
        (["test.jsonl"], "x", "It has a single set"),
        (["train.jsonl", "test.py", "README.md"], "", "no test or validation part"),
    ],
)
def test_hub_files_that_cannot_be_chosen(names: list[str], subset: str, message: str) -> None:
    with pytest.raises(FetchError) as caught:
        hub.choose("org/set", names, subset)
    assert message in str(caught.value)


def offer(monkeypatch: pytest.MonkeyPatch, folder: Path, *, fails: Exception | None = None) -> None:
    """A stand-in for the package huggingface_hub that serves a folder."""

    def list_repo_files(repository: str, *, repo_type: str) -> list[str]:
        assert repo_type == "dataset"
        if fails:
            raise fails
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl")]

    def hf_hub_download(repository: str, name: str, *, repo_type: str) -> str:
        assert (repository, repo_type) == ("org/HellaSwag", "dataset")
        return str(folder / name)

    module = SimpleNamespace(list_repo_files=list_repo_files, hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_hub_test_part_without_answers_gives_way_to_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, tmp_path)
    write(tmp_path, "test.jsonl", lines(changed(HELLASWAG, label="")))
    with pytest.raises(PromptSetError, match="has no answer"):
        load_questions("hf:org/HellaSwag")
    write(tmp_path, "validation.jsonl", lines(HELLASWAG, HELLASWAG))
    questions = load_questions("hf:org/HellaSwag")
    assert len(questions) == 2
    assert questions.name == "hellaswag"
    assert questions.source == "hf:org/HellaSwag"
    write(tmp_path, "test.jsonl", lines(HELLASWAG))
    assert len(load_questions("hf:org/HellaSwag")) == 1


def test_hub_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, tmp_path, fails=ConnectionError("no route\nto host"))
    with pytest.raises(FetchError, match=r"could not be fetched: no route\. Check the network"):
        load_questions("hf:org/HellaSwag")
    offer(monkeypatch, tmp_path, fails=type("RepositoryNotFoundError", (Exception,), {})())
    with pytest.raises(FetchError, match="does not exist on the hub"):
        load_questions("hf:org/HellaSwag")
    with pytest.raises(FetchError, match="Write hf:ORG/NAME"):
        load_questions("hf:nonsense")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FetchError, match="pip install"):
        load_questions("hf:org/HellaSwag")


def test_parquet_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(PromptSetError, match="pip install pyarrow"):
        load_questions(write(tmp_path, "a.parquet", b"PAR1 and so on"))


@pytest.mark.parametrize("row", [MMLU_OBJECT, HELLASWAG, ARC, ARC_FLAT])
def test_parquet_gives_the_same_questions(tmp_path: Path, row: dict[str, Any]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([row]), buffer)
    read = only(write(tmp_path, "x.parquet", buffer.getvalue()))
    same = only(write(tmp_path, "x.jsonl", lines(row)))
    assert (read.context, read.choices, read.answer) == (same.context, same.choices, same.answer)
    assert read.place.endswith("x.parquet, row 1")
    with pytest.raises(PromptSetError, match="not a Parquet file that can be read"):
        load_questions(write(tmp_path, "cut.parquet", buffer.getvalue()[:-20]))
