"""The prompt sets of the attribute that ships: their sizes, their variety, and that nothing mixes."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"
FOLDER = FIXTURES / "attributes" / "unknowable"
PARTS = ("calibration", "choosing", "reporting")
SIZES = {"unknowable": (160, 48, 48), "answerable": (160, 48, 48), "seems_unknowable": (60, 24, 24)}


def read(path: Path) -> list[dict[str, str]]:
    # Read without the library, so that a fault in its reader cannot hide one in the data.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


SETS = {(kind, part): read(FOLDER / f"{kind}_{part}.jsonl") for kind in SIZES for part in PARTS}
EVERY = [entry["prompt"] for entries in SETS.values() for entry in entries]
OTHERS = [entry["prompt"] for path in (FIXTURES / "prompts").glob("*.jsonl") for entry in read(path)]


def test_no_other_files() -> None:
    names = {f"{kind}_{part}.jsonl" for kind, part in SETS}
    assert {path.name for path in FOLDER.iterdir()} == names | {"attribute.toml"}


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
            assert 4 <= len(entry["prompt"].split()) <= 22, entry["prompt"]
            assert len(entry["prompt"]) <= 120, entry["prompt"]


def test_no_near_doubles_here_or_with_the_other_sets() -> None:
    bags = [(text, frozenset(words(text))) for text in EVERY]
    others = [(text, frozenset(words(text))) for text in OTHERS]
    pairs = [*combinations(bags, 2), *((own, other) for own in bags for other in others)]
    near = [(a, b) for (a, x), (b, y) in pairs if len(x & y) >= 0.6 * len(x | y)]
    assert near == []


@pytest.mark.parametrize("kind", SIZES)
def test_categories_are_balanced_in_every_part(kind: str) -> None:
    counts = [Counter(entry["category"] for entry in SETS[kind, part]) for part in PARTS]
    assert counts[0].keys() == counts[1].keys() == counts[2].keys()
    assert len(counts[0]) >= 6
    for count in counts:
        assert max(count.values()) - min(count.values()) <= 1


@pytest.mark.parametrize("kind", SIZES)
def test_wordings_vary(kind: str) -> None:
    texts = [entry["prompt"] for part in PARTS for entry in SETS[kind, part]]
    openings = Counter(" ".join(words(text)[:3]) for text in texts)
    assert len(openings) >= 40
    assert max(openings.values()) <= 0.12 * len(texts)


def test_the_asker_alone_does_not_tell_the_sets_apart() -> None:
    # "My" in most unknowable questions and nowhere else would make a direction for the word.
    for kind in SIZES:
        texts = [entry["prompt"] for part in PARTS for entry in SETS[kind, part]]
        share = sum(bool({"i", "my", "me"} & set(words(text))) for text in texts) / len(texts)
        assert 0.15 <= share <= 0.6, (kind, share)
