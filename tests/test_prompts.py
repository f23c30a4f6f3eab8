"""Reading, sampling and splitting prompt sets."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosi_edge.errors import PromptSetError
from rosi_edge.prompts import files as user_files
from rosi_edge.prompts import sets as prompts
from rosi_edge.prompts.sets import (
    Kind,
    Part,
    Prompt,
    PromptSet,
    bundled,
    load_prompts,
    split,
)


def write(folder: Path, data: bytes | str, name: str = "set.txt") -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def make(texts: list[str]) -> PromptSet:
    return PromptSet.of("made", (Prompt(text) for text in texts), "made.txt")


# Formats


def test_plain_text_is_a_prompt_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, "Bake a loaf.\n\n  Plant a tree. \r\n\t\nPlant a tree.\n", "mine.txt")
    loaded = load_prompts(path)
    assert loaded.texts == ["Bake a loaf.", "Plant a tree."]
    assert list(loaded) == [Prompt("Bake a loaf."), Prompt("Plant a tree.")]
    assert (loaded.name, loaded.source, len(loaded)) == ("mine", str(path), 2)


def test_json_lines_with_and_without_category(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"prompt": "Bake a loaf.", "category": "cooking", "id": 7}\n\n'
        '{"prompt": "Plant a tree.", "category": null}\n{"category": " ", "prompt": " Fold a crane. "}\n',
        "set.jsonl",
    )
    assert list(load_prompts(path)) == [
        Prompt("Bake a loaf.", "cooking"),
        Prompt("Plant a tree."),
        Prompt("Fold a crane."),
    ]


def test_json_lines_are_recognised_without_their_suffix(tmp_path: Path) -> None:
    path = write(tmp_path, '\n \n  {"prompt": "Bake a loaf."}\n', "prompts")
    assert load_prompts(path).texts == ["Bake a loaf."]


@pytest.mark.parametrize("content", ["Bake a loaf.\n", '{"prompt": "Bake a loaf."}\n'])
def test_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path, content: str) -> None:
    assert load_prompts(write(tmp_path, b"\xef\xbb\xbf" + content.encode())).texts == ["Bake a loaf."]


def test_old_line_ends(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path, b"one\rtwo\r\nthree")).texts == ["one", "two", "three"]


def test_a_line_separator_inside_a_json_string_does_not_end_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, '{"prompt": "before\u2028after"}\n')
    assert load_prompts(path).texts == ["before\u2028after"]


def test_doubles_keep_the_first(tmp_path: Path) -> None:
    lines = [
        {"prompt": "caf\u00e9 menu", "category": "first"},
        {"prompt": "other"},
        {"prompt": "cafe\u0301  menu", "category": "second"},
    ]
    path = write(tmp_path, "\n".join(json.dumps(line) for line in lines))
    assert list(load_prompts(path)) == [Prompt("caf\u00e9 menu", "first"), Prompt("other")]


def test_longest_prompt_and_largest_file_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "x" * prompts.MAX_PROMPT_CHARACTERS)
    monkeypatch.setattr(user_files, "MAX_FILE_BYTES", path.stat().st_size)
    assert len(load_prompts(path)) == 1


# Errors: what a user is told

TOO_LONG = "x" * 32_769


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        (b"fine\n\nbad \xff\n", 3, "UTF-8"),
        ("fine".encode("utf-16"), 1, "UTF-8"),
        (b'{"prompt": "a"}\n{"prompt": "b"\n', 2, "not valid JSON"),
        (b'{"prompt": "a"}\nplain\n', 2, "not valid JSON"),
        (b'{\n  "prompt": "pretty printed"\n}\n', 1, "not valid JSON"),
        (b'{"prompt": ' + b"[" * 100_000, 1, "not valid JSON"),
        (b'{"prompt": ' + b"1" * 5_000 + b"}", 1, "not valid JSON"),
        (b'{"prompt": "a"}\n["b"]\n', 2, "not a JSON object"),
        (b'{"prompt": "a"}\n\n{"text": "b"}\n', 3, 'no "prompt"'),
        (b'{"prompt": 5}\n', 1, "not text"),
        (b'{"prompt": null}\n', 1, "not text"),
        (b'{"prompt": "a"}\n{"prompt": " \\t\\n"}\n', 2, "blank"),
        (b'{"prompt": "a", "category": 3}\n', 1, '"category"'),
        (b'{"prompt": "half \\ud83d"}\n', 1, "surrogate"),
        (b'{"prompt": "a", "category": "\\udc00"}\n', 1, "surrogate"),
        (b"short\n" + TOO_LONG.encode(), 2, "32,768"),
        (json.dumps({"prompt": TOO_LONG}).encode(), 1, "32,768"),
    ],
)
def test_malformed_file_is_told_with_its_line(tmp_path: Path, content: bytes, line: int, told: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(PromptSetError) as caught:
        load_prompts(path)
    assert f"{path}, line {line}," in caught.value.message
    assert told in caught.value.message
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n \r\n\t\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["set.txt", "set.jsonl"])
def test_empty_file(tmp_path: Path, content: bytes, name: str) -> None:
    path = write(tmp_path, content, name)
    with pytest.raises(PromptSetError, match="no prompts") as caught:
        load_prompts(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("name", ["set.jsonl", "SET.JSONL", "set.json"])
def test_a_json_array_is_not_taken_for_plain_text(tmp_path: Path, name: str) -> None:
    with pytest.raises(PromptSetError, match="line 1, is not a JSON object"):
        load_prompts(write(tmp_path, '["one", "two"]\n', name))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PromptSetError, match=r"nowhere\.txt does not exist"):
        load_prompts(tmp_path / "nowhere.txt")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(PromptSetError, match="is a folder"):
        load_prompts(tmp_path)


@pytest.mark.parametrize("name", ["bad\0name", "x" * 5_000])
def test_impossible_path(name: str) -> None:
    with pytest.raises(PromptSetError, match="cannot be read"):
        load_prompts(name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path, "one\n")
    path.chmod(0)
    with pytest.raises(PromptSetError, match="cannot be read"):
        load_prompts(path)


def test_too_large_a_file(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(64 * 1024 * 1024 + 1)  # sparse: takes no room on the disk
    with pytest.raises(PromptSetError, match="larger than 64 MiB"):
        load_prompts(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs an endless file")
def test_a_file_without_end_is_too_large() -> None:
    with pytest.raises(PromptSetError, match="larger than"):
        load_prompts("/dev/zero")


# The hash


def test_hash_can_be_had_with_any_tool() -> None:
    found = make(["Bake a loaf.", " two\n  words "]).sha256
    assert found == hashlib.sha256(b"Bake a loaf.\ntwo words\n").hexdigest()


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8")), max_size=8))
def test_hash_covers_the_texts_and_not_the_categories(texts: list[str]) -> None:
    plain = make(texts)
    other = PromptSet.of("x", (Prompt(text, "some") for text in texts), "elsewhere")
    assert plain.sha256 == other.sha256
    assert plain.sha256 != make([*texts, "one more"]).sha256


def test_hash_depends_on_order() -> None:
    assert make(["a", "b"]).sha256 != make(["b", "a"]).sha256
    assert make(["a b"]).sha256 != make(["a", "b"]).sha256


# Sampling

CATEGORISED = PromptSet.of(
    "made",
    [
        Prompt(f"{category} {i}", category)
        for category, size in {"a": 30, "b": 9, "c": 3}.items()
        for i in range(size)
    ],
    "made",
)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(3, (1, 1, 1)), (9, (3, 3, 3)), (13, (5, 5, 3)), (21, (9, 9, 3)), (30, (18, 9, 3))],
)
def test_take_is_even_over_categories_until_they_run_out(n: int, expected: tuple[int, int, int]) -> None:
    counts = Counter(prompt.category for prompt in CATEGORISED.take(n))
    assert (counts["a"], counts["b"], counts["c"]) == expected


@given(n=st.integers(1, 60), more=st.integers(0, 10), seed=st.integers(0, 2**40))
def test_take_is_a_growing_subset_in_file_order(n: int, more: int, seed: int) -> None:
    small, large = CATEGORISED.take(n, seed), CATEGORISED.take(n + more, seed)
    assert len(small) == min(n, len(CATEGORISED))
    assert set(small) <= set(large) <= set(CATEGORISED)
    positions = [CATEGORISED.texts.index(text) for text in small.texts]
    assert positions == sorted(positions)
    counts = Counter(prompt.category for prompt in small)
    sizes = Counter(prompt.category for prompt in CATEGORISED)
    unfilled = [counts[c] for c in sizes if counts[c] < sizes[c]]
    assert not unfilled or max(counts.values()) - min(unfilled) <= 1


@given(st.randoms(use_true_random=False), st.integers(0, 100))
def test_take_does_not_depend_on_the_order_of_the_file(rng: random.Random, seed: int) -> None:
    shuffled = list(CATEGORISED)
    rng.shuffle(shuffled)
    drawn = PromptSet.of("made", shuffled, "made").take(10, seed)
    assert set(drawn) == set(CATEGORISED.take(10, seed))


def test_seeds_differ_and_repeat() -> None:
    draws = [frozenset(CATEGORISED.take(6, seed).texts) for seed in range(8)]
    assert len(set(draws)) > 1
    assert draws == [frozenset(CATEGORISED.take(6, seed).texts) for seed in range(8)]


def test_take_reaches_every_prompt_by_some_seed() -> None:
    reached = {text for seed in range(300) for text in CATEGORISED.take(6, seed).texts}
    assert reached == set(CATEGORISED.texts)


def test_taking_everything_changes_nothing_and_nothing_cannot_be_taken() -> None:
    assert CATEGORISED.take(len(CATEGORISED)).sha256 == CATEGORISED.sha256
    with pytest.raises(PromptSetError, match="sample of 0"):
        CATEGORISED.take(0)


# Splitting

# A set this large has no empty part but for a chance of 1 in 10^15.
LARGE = [f"request number {i}" for i in range(100)]
LINES = st.lists(st.text(alphabet=st.characters(codec="utf-8"), min_size=1), max_size=20)


def parts_of(texts: list[str]) -> dict[str, Part]:
    return {text: part for part, members in split(make(texts)).items() for text in members.texts}


@given(LINES)
def test_split_is_disjoint_and_complete(extra: list[str]) -> None:
    texts = LARGE + extra
    parts = split(make(texts))
    assert set(parts) == set(Part)
    together = [text for part in Part for text in parts[part].texts]
    assert Counter(together) == Counter(texts)
    members = [set(parts[part].texts) for part in Part]
    assert not (members[0] & members[1] or members[0] & members[2] or members[1] & members[2])


@given(LINES, st.randoms(use_true_random=False))
def test_adding_and_reordering_lines_never_moves_the_others(extra: list[str], rng: random.Random) -> None:
    before = parts_of(LARGE)
    texts = LARGE + extra
    rng.shuffle(texts)
    after = parts_of(texts)
    assert {text: after[text] for text in LARGE} == before


@given(st.text(alphabet="abcdefghij XYZ", min_size=1).filter(str.strip))
def test_twins_by_case_spacing_and_closing_punctuation_share_a_part(text: str) -> None:
    parts = parts_of([*LARGE, text, text.upper() + "?", f"  {text.replace(' ', '  ')}..."])
    assert len({parts[text], parts[text.upper() + "?"], parts[f"  {text.replace(' ', '  ')}..."]}) == 1


def test_split_shares() -> None:
    n = 4000
    parts = split(make([f"line {i}" for i in range(n)]))
    # Four standard deviations of a binomial share.
    for part, share in {Part.CALIBRATION: 0.4, Part.CHOOSING: 0.3, Part.REPORTING: 0.3}.items():
        assert abs(len(parts[part]) / n - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_split_follows_the_hash_of_the_text() -> None:
    texts = [f"swim {i} miles" for i in range(200)]
    fractions = {text: int(hashlib.sha256(text.encode()).hexdigest(), 16) / 2**256 for text in texts}
    parts = split(make(texts))
    assert parts[Part.CALIBRATION].texts == [t for t in texts if fractions[t] < 0.4]
    assert parts[Part.CHOOSING].texts == [t for t in texts if 0.4 <= fractions[t] < 0.7]
    assert parts[Part.REPORTING].texts == [t for t in texts if fractions[t] >= 0.7]


def test_parts_keep_order_categories_and_carry_names() -> None:
    whole = PromptSet.of("mine", (Prompt(text, text[-1]) for text in LARGE), "mine.txt")
    for part, members in split(whole).items():
        assert members.name == f"mine_{part}"
        assert members.source == "mine.txt"
        assert members.texts == [text for text in LARGE if text in set(members.texts)]
        assert all(prompt.category == prompt.text[-1] for prompt in members)
        assert members.sha256 == make(members.texts).sha256


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_to_split_says_how_many_are_needed(count: int) -> None:
    with pytest.raises(PromptSetError, match="too few prompts") as caught:
        split(make(LARGE[:count]))
    assert "made.txt" in caught.value.message
    assert "20 different prompts" in caught.value.remedy


def test_many_prompts_in_one_part_ask_for_more_than_there_are() -> None:
    one_part = split(make([f"line {i}" for i in range(200)]))[Part.CALIBRATION]
    with pytest.raises(PromptSetError, match="nothing is left for choosing and reporting") as caught:
        split(one_part)
    assert f"{len(one_part) + 10} different prompts" in caught.value.remedy


# Bundled sets


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("part", Part)
def test_bundled_set_is_its_file(kind: Kind, part: Part) -> None:
    found = bundled(kind, part)
    path = Path(prompts.__file__).parents[2] / "fixtures" / "prompts" / f"{kind}_{part}.jsonl"
    assert found.prompts == load_prompts(path).prompts
    assert (found.name, found.source) == (f"{kind}_{part}", f"bundled:{kind}_{part}.jsonl")


def test_bundled_sets_are_found_in_a_checkout_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bundled(Kind.HARMFUL, Part.CHOOSING)

    def not_installed(package: str) -> None:
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(prompts, "files", not_installed)
    assert bundled(Kind.HARMFUL, Part.CHOOSING) == expected


def test_bundled_set_missing_from_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "fixture_folders", lambda: iter([tmp_path]))
    with pytest.raises(PromptSetError, match=r"harmful_choosing\.jsonl is missing"):
        bundled(Kind.HARMFUL, Part.CHOOSING)
