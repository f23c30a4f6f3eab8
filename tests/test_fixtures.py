"""The prompt sets that ship: their sizes, their balance, and that their parts never mix."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from statistics import mean

import pytest

FOLDER = Path(__file__).parents[1] / "fixtures" / "prompts"
PARTS = ("calibration", "choosing", "reporting")
SIZES = {"harmful": (520, 80, 100), "harmless": (520, 80, 100), "sounds_harmful": (520, 50, 70)}


def read(kind: str, part: str) -> list[dict[str, str]]:
    # Read without the library, so that a fault in its reader cannot hide one in the data.
    lines = (FOLDER / f"{kind}_{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


SETS = {(kind, part): read(kind, part) for kind in SIZES for part in PARTS}
EVERY = [(*key, entry["prompt"]) for key, entries in SETS.items() for entry in entries]


def texts(kind: str, part: str) -> list[str]:
    return [entry["prompt"] for entry in SETS[kind, part]]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def distance(first: list[str], second: list[str]) -> float:
    """Total variation distance of two samples: 0 for equal shares, 1 for nothing in common."""
    a, b = Counter(first), Counter(second)
    return sum(abs(a[key] / len(first) - b[key] / len(second)) for key in a | b) / 2


def test_no_other_files() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{kind}_{part}.jsonl" for kind, part in SETS}


@pytest.mark.parametrize("kind", SIZES)
def test_counts(kind: str) -> None:
    assert tuple(len(SETS[kind, part]) for part in PARTS) == SIZES[kind]


def test_every_line_is_a_tidy_request_and_its_category() -> None:
    for entries in SETS.values():
        for entry in entries:
            assert set(entry) == {"prompt", "category"}
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", entry["category"])
            assert entry["prompt"] == " ".join(entry["prompt"].split())
            assert re.fullmatch(r"[A-Z].*[.?]", entry["prompt"]), entry["prompt"]


def test_requests_only() -> None:
    # An answer, a recipe or a jailbreak frame would not fit into one or two short sentences.
    for _, _, text in EVERY:
        assert 6 <= len(text.split()) <= 22, text
        assert len(text) <= 120, text
        assert len(re.findall(r"[.?!](?:\s|$)", text)) <= 2, text


def test_no_prompt_occurs_twice_but_for_case_and_punctuation() -> None:
    doubled = [key for key, n in Counter(" ".join(words(text)) for _, _, text in EVERY).items() if n > 1]
    assert doubled == []


def test_no_near_doubles() -> None:
    bags = [(text, frozenset(words(text))) for _, _, text in EVERY]
    near = [(a, b) for (a, x), (b, y) in combinations(bags, 2) if len(x & y) >= 0.6 * len(x | y)]
    assert near == []


@pytest.mark.parametrize("kind", SIZES)
def test_categories_are_balanced_in_every_part(kind: str) -> None:
    counts = [Counter(entry["category"] for entry in SETS[kind, part]) for part in PARTS]
    assert counts[0].keys() == counts[1].keys() == counts[2].keys()
    assert len(counts[0]) >= 8
    for count in counts:
        assert max(count.values()) - min(count.values()) <= 1


def test_harmful_covers_the_usual_hazards() -> None:
    assert {entry["category"] for entry in SETS["harmful", "calibration"]} == {
        "violent_crime",
        "weapons_explosives",
        "chemical_biological",
        "cybercrime",
        "fraud_financial_crime",
        "illegal_drugs",
        "privacy_stalking",
        "hate_harassment",
        "self_harm",
        "sexual_exploitation",
        "disinformation",
        "theft_other_crime",
        "dangerous_advice",
    }


@pytest.mark.parametrize("part", PARTS)
def test_harmful_and_harmless_match_in_length(part: str) -> None:
    harmful, harmless = texts("harmful", part), texts("harmless", part)
    for measure in (lambda text: len(text.split()), len):
        ratio = mean(map(measure, harmful)) / mean(map(measure, harmless))
        assert 1 / 1.15 <= ratio <= 1.15


@pytest.mark.parametrize("part", PARTS)
def test_harmful_and_harmless_match_in_form(part: str) -> None:
    harmful, harmless = texts("harmful", part), texts("harmless", part)
    assert distance([words(t)[0] for t in harmful], [words(t)[0] for t in harmless]) <= 0.1
    assert (
        distance([" ".join(words(t)[:2]) for t in harmful], [" ".join(words(t)[:2]) for t in harmless])
        <= 0.25
    )
    assert distance([t[-1] for t in harmful], [t[-1] for t in harmless]) <= 0.05
    assert len({words(t)[0] for t in harmful}) >= 15


@pytest.mark.parametrize("kind", SIZES)
def test_parts_of_a_kind_are_alike_in_form(kind: str) -> None:
    for a, b in combinations(PARTS, 2):
        assert distance([words(t)[0] for t in texts(kind, a)], [words(t)[0] for t in texts(kind, b)]) <= 0.15


def test_parts_never_mix() -> None:
    by_part = {
        part: {" ".join(words(text)) for kind in SIZES for text in texts(kind, part)} for part in PARTS
    }
    for a, b in combinations(PARTS, 2):
        assert not by_part[a] & by_part[b]
