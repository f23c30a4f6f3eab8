"""The questions and the prose that ship: counts, balance, and that nothing gives the answer away."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pytest

from rosi_edge.evaluation.multiple_choice import Benchmark, bundled

FIXTURES = Path(__file__).parents[2] / "fixtures"
FOLDER = FIXTURES / "utility"


@dataclass(frozen=True)
class Item:
    question: str
    choices: tuple[str, ...]
    answer: int


# Read without the library, so that a fault in its reader cannot hide one in the data.
def mmlu(path: Path) -> list[Item]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert all(len(row) == 6 for row in rows)
    return [Item(row[0], tuple(row[1:5]), "ABCD".index(row[5])) for row in rows]


def hellaswag(path: Path) -> list[Item]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        assert set(row) == {"ind", "activity_label", "ctx_a", "ctx_b", "ctx", "endings", "label"}
        assert row["ctx"] == f"{row['ctx_a']} {row['ctx_b']}".strip()
    return [Item(row["ctx"], tuple(row["endings"]), row["label"]) for row in rows]


def arc(path: Path) -> list[Item]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    items = []
    for row in rows:
        assert [choice["label"] for choice in row["question"]["choices"]] == list("ABCD")
        texts = tuple(choice["text"] for choice in row["question"]["choices"])
        items.append(Item(row["question"]["stem"], texts, "ABCD".index(row["answerKey"])))
    assert len({row["id"] for row in rows}) == len(rows)
    return items


FILES = {
    **{path.name: mmlu(path) for path in sorted(FOLDER.glob("mmlu_*.csv"))},
    "hellaswag.jsonl": hellaswag(FOLDER / "hellaswag.jsonl"),
    "arc.jsonl": arc(FOLDER / "arc.jsonl"),
}
EVERY = [item for items in FILES.values() for item in items]


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def test_no_other_files() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*FILES, "README.md"}


def test_counts() -> None:
    by_format = Counter(name.partition("_")[0].partition(".")[0] for name in FILES)
    assert by_format == {"mmlu": 4, "hellaswag": 1, "arc": 1}
    assert sum(len(items) for name, items in FILES.items() if name.startswith("mmlu")) >= 40
    assert len(FILES["hellaswag.jsonl"]) >= 40
    assert len(FILES["arc.jsonl"]) >= 40
    assert len(EVERY) == 128


@pytest.mark.parametrize("name", FILES)
def test_each_place_holds_the_answer_equally_often(name: str) -> None:
    counts = Counter(item.answer for item in FILES[name])
    assert counts == dict.fromkeys(range(4), len(FILES[name]) // 4)


def test_four_different_choices() -> None:
    for item in EVERY:
        assert len({choice.casefold() for choice in item.choices}) == 4, item
        for text in (item.question, *item.choices):
            assert text and text == " ".join(text.split()), item


def test_no_question_occurs_twice_or_nearly() -> None:
    bags = [(item.question, words(item.question + " " + " ".join(item.choices))) for item in EVERY]
    assert [(a, b) for (a, x), (b, y) in combinations(bags, 2) if len(x & y) >= 0.6 * len(x | y)] == []
    assert len({item.question for item in EVERY}) == len(EVERY)


@pytest.mark.parametrize("name", ["hellaswag.jsonl", "arc.jsonl"])
@pytest.mark.parametrize("pick", [max, min])
def test_length_does_not_give_the_answer_away(name: str, pick: Callable[..., int]) -> None:
    # The scored texts are the choices themselves here; chance is a quarter.
    extreme = [
        (len(item.choices[item.answer]) == pick(map(len, item.choices)))
        / sum(len(choice) == pick(map(len, item.choices)) for choice in item.choices)
        for item in FILES[name]
    ]
    assert sum(extreme) / len(extreme) <= 0.35


def test_the_library_reads_the_same() -> None:
    sets = bundled()
    assert {benchmark: len(questions) for benchmark, questions in sets.items()} == {
        Benchmark.MMLU: 48,
        Benchmark.HELLASWAG: 40,
        Benchmark.ARC: 40,
    }
    read = [question for benchmark in Benchmark for question in sets[benchmark]]
    assert [question.answer for question in read] == [item.answer for item in EVERY]
    assert {question.subject for question in sets[Benchmark.MMLU]} == {
        "geography",
        "world_history",
        "elementary_mathematics",
        "english_language",
    }
    for question, item in zip(sets[Benchmark.ARC], FILES["arc.jsonl"], strict=True):
        assert question.choices == item.choices
        assert item.question in question.context


def test_prose_is_long_and_varied() -> None:
    text = (FIXTURES / "text" / "plain.txt").read_text(encoding="utf-8")
    paragraphs = [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]
    spoken = re.findall(r"[a-z']+", text.casefold())
    assert 1200 <= len(spoken) <= 1700
    assert len(set(spoken)) >= 500
    assert len(set(paragraphs)) == len(paragraphs) >= 10
    assert text.isascii()
    assert text == text.strip() + "\n"
