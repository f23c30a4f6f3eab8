"""Prompt sets: those that ship with the tool, the user's own files, and the parts they are split into.

A prompt set is a list of requests, never of answers. Every set is used in one of three parts that must
not mix: a direction fitted on a prompt would be flattered by being chosen, or reported, on the same one.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Self

from rosi_edge.errors import PromptSetError
from rosi_edge.prompts.draw import draw
from rosi_edge.prompts.files import decoded, read_file

MAX_PROMPT_CHARACTERS = 32_768

MIN_PROMPTS_TO_SPLIT = 20
"""With this many prompts a split leaves a part empty in about 2 of 1,000 files."""

_JSON_LINES_SUFFIXES = {".jsonl", ".ndjson", ".json"}


class Part(StrEnum):
    """What a prompt may be used for: fitting, choosing settings, or measuring the result."""

    CALIBRATION = "calibration"
    CHOOSING = "choosing"
    REPORTING = "reporting"


class Kind(StrEnum):
    """What a bundled prompt asks for; ``SOUNDS_HARMFUL`` is benign but reads like harm."""

    HARMFUL = "harmful"
    HARMLESS = "harmless"
    SOUNDS_HARMFUL = "sounds_harmful"


_SHARES = {Part.CALIBRATION: 40, Part.CHOOSING: 30, Part.REPORTING: 30}
"""Per cent of a user's own file that each part receives."""


@dataclass(frozen=True)
class Prompt:
    """One request, as the user would type it."""

    text: str
    category: str | None = None


@dataclass(frozen=True)
class PromptSet:
    """Prompts in order, with the hash that a report names them by.

    Args:
        name: short name for tables, such as ``harmful_choosing``.
        prompts: the requests, in the order of their file.
        source: the path they were read from, or ``bundled:`` and the file's name.
        sha256: hash of the texts, as ``PromptSet.of`` computes it.
        doubled: how many more lines of the file repeated a prompt; each prompt counts once.
    """

    name: str
    prompts: tuple[Prompt, ...]
    source: str
    sha256: str
    doubled: int = field(default=0, compare=False)

    @classmethod
    def of(cls, name: str, prompts: Iterable[Prompt], source: str, *, doubled: int = 0) -> Self:
        """Make a set and hash it.

        ``sha256`` is that of the UTF-8 texts in order, each in Unicode form NFC with its runs of white space
        turned into one space, and each followed by a newline. Categories do not enter.
        """
        kept = tuple(prompts)
        digest = hashlib.sha256()
        for prompt in kept:
            digest.update(f"{_normalised(prompt.text)}\n".encode())
        return cls(name, kept, source, digest.hexdigest(), doubled)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @property
    def texts(self) -> list[str]:
        """The requests alone, in order."""
        return [prompt.text for prompt in self.prompts]

    def without(self, texts: Collection[str]) -> Self:
        """The set without these requests, which are given as ``request_key`` has them."""
        kept = [prompt for prompt in self.prompts if request_key(prompt.text) not in texts]
        return type(self).of(self.name, kept, self.source, doubled=self.doubled)

    def take(self, n: int, seed: int = 0) -> Self:
        """Draw at most ``n`` prompts, as evenly over the categories as their sizes allow.

        A report's seed gives the same sample on any machine, see :func:`draw`. The prompts keep their order.

        Raises:
            PromptSetError: ``n`` is below 1.
        """
        if n < 1:
            raise PromptSetError(f"A sample of {n} prompts was asked for", "Ask for at least 1 prompt")
        if n >= len(self):
            return self
        keys = ((_key(prompt.category or ""), _key(prompt.text)) for prompt in self.prompts)
        prompts = (self.prompts[index] for index in draw(keys, n, seed))
        return type(self).of(self.name, prompts, self.source, doubled=self.doubled)


def request_key(text: str) -> str:
    """What two spellings of one request share, whatever their case, spaces and last marks."""
    return " ".join(text.casefold().split()).rstrip(".,;:!?… ")


def bundled(kind: Kind, part: Part) -> PromptSet:
    """Read one of the prompt sets that ship with the tool.

    Raises:
        PromptSetError: the installation lacks the file.
    """
    file_name = f"{Kind(kind).value}_{Part(part).value}.jsonl"
    for folder in fixture_folders():
        try:
            data = folder.joinpath("prompts", file_name).read_bytes()
        except OSError:
            continue
        name = file_name.removesuffix(".jsonl")
        return _parse(data, name=name, source=f"bundled:{file_name}", json_lines=True)
    raise PromptSetError(f"The bundled prompt set {file_name} is missing", "Install rosi-edge again")


def load_prompts(path: str | Path) -> PromptSet:
    """Read a user's prompt file.

    JSON Lines, each an object with ``prompt`` and optionally ``category``, if the file is named so (.jsonl,
    .ndjson, .json) or its first character is ``{``; otherwise plain text, a prompt a line. Blank lines are
    skipped, and a prompt that occurs twice counts once.

    Raises:
        PromptSetError: the file cannot be read, is too large, is not UTF-8, is malformed (the message names
            the line), or holds no prompt.
    """
    path = Path(path)
    data = read_file(path, "prompt file", "Check that it is a prompt file, or split it")
    json_lines = path.suffix.lower() in _JSON_LINES_SUFFIXES
    return _parse(data, name=path.stem, source=str(path), json_lines=json_lines)


def split(prompt_set: PromptSet) -> dict[Part, PromptSet]:
    """Split a set into its three parts: about 40 % calibration, 30 % choosing, 30 % reporting.

    Each prompt's own text decides its part, so adding, removing or reordering lines never moves another
    prompt. Prompts that differ only in capitals, spacing or closing punctuation share a part.

    Raises:
        PromptSetError: a part came out empty.
    """
    members: dict[Part, list[Prompt]] = {part: [] for part in Part}
    for prompt in prompt_set:
        members[_part_of(prompt.text)].append(prompt)
    empty = [part.value for part in Part if not members[part]]
    if empty:
        needed = max(MIN_PROMPTS_TO_SPLIT, len(prompt_set) + 10)
        raise PromptSetError(
            f"{prompt_set.source} has too few prompts ({len(prompt_set)}) to split into calibration, "
            f"choosing and reporting: nothing is left for {' and '.join(empty)}",
            f"Give at least {needed} different prompts",
        )
    return {
        part: PromptSet.of(f"{prompt_set.name}_{part.value}", prompts, prompt_set.source)
        for part, prompts in members.items()
    }


def fixture_folders() -> Iterator[Traversable]:
    """Where the data that ships with the tool may lie, best place first."""
    # Suppressed: a checkout that was never installed, or was installed before it had this package.
    with suppress(ImportError, OSError):
        yield files("rosi_edge_fixtures")
    yield Path(__file__).resolve().parents[2] / "fixtures"


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _key(text: str) -> bytes:
    return _normalised(text).encode()


def _part_of(text: str) -> Part:
    key = _normalised(text).casefold().rstrip(".,;:!?… ")
    # The first 8 bytes as a fraction of 2^64, in whole per cent: exact integer arithmetic on every machine.
    percent = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") * 100 >> 64
    bound = 0
    for part, share in _SHARES.items():
        bound += share
        if percent < bound:
            return part
    raise AssertionError("the shares add up to less than 100 per cent")


def _parse(data: bytes, *, name: str, source: str, json_lines: bool) -> PromptSet:
    text = decoded(data, source)
    json_lines = json_lines or text.lstrip().startswith("{")
    prompts: dict[str, Prompt] = {}
    doubled = 0
    # Not splitlines(): it would also cut at U+2028 and the like, which JSON strings may hold.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, written in enumerate(lines, start=1):
        content = written.strip()
        if not content:
            continue
        prompt = _from_json(content, source, number) if json_lines else Prompt(content)
        if len(prompt.text) > MAX_PROMPT_CHARACTERS:
            raise _malformed(
                source,
                number,
                f"has {len(prompt.text):,} characters; a prompt may have {MAX_PROMPT_CHARACTERS:,}",
                "Shorten the prompt or put each prompt on a line of its own",
            )
        key = _normalised(prompt.text)
        doubled += key in prompts
        prompts.setdefault(key, prompt)
    if not prompts:
        raise PromptSetError(f"{source} holds no prompts", "Write one prompt on each line")
    return PromptSet.of(name, prompts.values(), source, doubled=doubled)


def _from_json(content: str, source: str, line: int) -> Prompt:
    expected = 'Write each line as {"prompt": "...", "category": "..."}; the category may be left out'
    try:
        entry = json.loads(content)
    except (ValueError, RecursionError) as error:  # also nested too deep, or a number of too many digits
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be decoded"
        raise _malformed(source, line, f"is not valid JSON ({reason})", expected) from None
    if not isinstance(entry, dict):
        raise _malformed(source, line, "is not a JSON object", expected)
    if "prompt" not in entry:
        raise _malformed(source, line, 'has no "prompt"', expected)
    text, category = entry["prompt"], entry.get("category")
    if not isinstance(text, str):
        raise _malformed(source, line, 'has a "prompt" that is not text', expected)
    if not text.strip():
        raise _malformed(source, line, 'has a blank "prompt"', "Fill in the prompt or delete the line")
    if category is not None and not isinstance(category, str):
        raise _malformed(source, line, 'has a "category" that is not text', expected)
    if any("\ud800" <= character <= "\udfff" for character in text + (category or "")):
        raise _malformed(source, line, "holds half of a surrogate pair, which is no character", expected)
    return Prompt(text.strip(), (category or "").strip() or None)


def _malformed(source: str, line: int, problem: str, remedy: str) -> PromptSetError:
    return PromptSetError(f"{source}, line {line}, {problem}", remedy)
