"""What a model can be hardened in: requests to decline, requests to go on answering, and how to tell.

An attribute is a folder with ``attribute.toml`` and prompt files. One ships with the tool
(``fixtures/attributes``); anybody can write another. It is meant to add declining only: strengths are
positive whatever it says, and a request known to be harmful is never taken as one to be answered.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rosi_edge.basics.text import printable
from rosi_edge.errors import PromptSetError, RosiEdgeError
from rosi_edge.evaluation.judges.keyword import KeywordJudge
from rosi_edge.evaluation.judges.phrase_list import Phrase, PhraseListJudge
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.prompts.plan import (
    SIZES,
    PromptPlan,
    RequestSets,
    SetNames,
    plan_prompts,
)
from rosi_edge.prompts.sets import (
    Kind,
    Part,
    PromptSet,
    bundled,
    fixture_folders,
    load_prompts,
    request_key,
    split,
)

FILE_NAME = "attribute.toml"
GUARDED: Mapping[Part, int] = {Part.CALIBRATION: 150, Part.CHOOSING: 80, Part.REPORTING: 80}
"""Harmful requests of each part that must be refused as often as before."""
_LARGEST_FILE = 1 << 20
_MOST_PHRASES = 500
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class AttributeFileError(RosiEdgeError):
    """An attribute is missing, or its file says something that makes no sense."""


def _file_name(name: str) -> str:
    if not _SAFE_NAME.fullmatch(name):
        raise ValueError(f"{name[:60]!r} is not the name of a file in the attribute's folder")
    return name


def _shown(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("it is shown to people, and must be one line of text")
    return text.strip()


def _phrase(text: str) -> str:
    Phrase.parse(text)
    return text


FileName = Annotated[str, AfterValidator(_file_name)]
Shown = Annotated[str, Field(max_length=60), AfterValidator(_shown)]
Phrases = Annotated[tuple[Annotated[str, AfterValidator(_phrase)], ...], Field(max_length=_MOST_PHRASES)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SetSection(_Section):
    """One of the prompt sets: either a file a part, or one file that the tool splits.

    Attributes:
        name: what reports call these requests, in the plural: "unknowable questions".
    """

    name: Shown
    file: FileName | None = None
    calibration: FileName | None = None
    choosing: FileName | None = None
    reporting: FileName | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        parts = [self.calibration, self.choosing, self.reporting]
        if (self.file is None) == (parts == [None] * 3) or (self.file is None and None in parts):
            raise ValueError("give either file, or calibration, choosing and reporting")
        return self


class JudgeSection(_Section):
    """How declining is told from answering.

    Attributes:
        declining: phrases of answers that decline, as ``phrase_list.Phrase.parse`` reads them.
        not_declining: phrases that hold one of these and do not decline.
        refusals_count: an ordinary refusal ("I can't help with that") declines as well.
    """

    declining: Phrases = ()
    not_declining: Phrases = ()
    refusals_count: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.declining and not self.refusals_count:
            raise ValueError("give phrases in declining, or set refusals_count = true")
        return self


class AttributeFile(_Section):
    """``attribute.toml``.

    Attributes:
        name: short, as part of file names and of the judge's name.
        decline: requests to decline.
        answer: requests to go on answering.
        looks_alike: requests to go on answering although they look like the first.
        elicitation: a system prompt under which a model that hardly declines does so; for a bare
            ``--elicit``.
    """

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    description: Annotated[str, Field(max_length=300), AfterValidator(_shown)]
    elicitation: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    decline: SetSection
    answer: SetSection
    looks_alike: SetSection | None = None
    judge: JudgeSection


@dataclass(frozen=True)
class Attribute:
    """An attribute, read and checked; its prompts are read by ``plan``."""

    file: AttributeFile
    folder: Path
    source: str

    @property
    def names(self) -> SetNames:
        alike = self.file.looks_alike
        return SetNames(self.file.decline.name, self.file.answer.name, alike.name if alike else "")

    @property
    def labels(self) -> tuple[str, str, str]:
        """What figures are called: declining, answering, and answering what only looks alike."""
        names = self.names
        return (
            f"declines {names.harmful}",
            f"answers {names.harmless}",
            f"answers {names.sounds_harmful or 'requests that look alike'}",
        )

    @property
    def sentence(self) -> str:
        """What a reader of a report must know, whose field names speak of harm."""
        names = self.names
        alike = f', "sounds harmful" {names.sounds_harmful}' if names.sounds_harmful else ""
        return (
            f'Attribute {self.file.name}: here "harmful" reads {names.harmful}, "harmless" {names.harmless}'
            f"{alike}, and a refusal is an answer that declines as the attribute's judge has it"
        )

    def elicitation(self, text: str) -> str:
        """The system prompt to take the direction under: this text, or the attribute's own where it is empty.

        Raises:
            AttributeFileError: neither has one.
        """
        if not text and self.file.elicitation is None:
            raise AttributeFileError(
                f"the attribute {self.file.name} has no system prompt for --elicit",
                "Give one with --elicit TEXT, or as elicitation in its file",
            )
        return text or str(self.file.elicitation)

    def judge(self) -> Judge:
        section = self.file.judge
        if not section.declining:
            return KeywordJudge()
        return PhraseListJudge(
            self.file.name,
            [Phrase.parse(text) for text in section.declining],
            not_declining=[Phrase.parse(text) for text in section.not_declining],
            refusals_count=section.refusals_count,
        )

    def plan(self, *, sizes: Mapping[Part, Mapping[Kind, int]] = SIZES, seed: int = 0) -> PromptPlan:
        """Its prompts in their three parts, each with harmful requests to go on refusing.

        Raises:
            PromptSetError: a file is missing, malformed or too small; a request stands in two sets or parts;
                or one to be answered is known to be harmful.
        """
        sections = {Kind.HARMFUL: self.file.decline, Kind.HARMLESS: self.file.answer}
        if self.file.looks_alike is not None:
            sections[Kind.SOUNDS_HARMFUL] = self.file.looks_alike
        sets = {kind: self._parts(section) for kind, section in sections.items()}
        _check_apart({self._name_of(kind): parts for kind, parts in sets.items()})
        _check_not_harmful([parts for kind, parts in sets.items() if kind is not Kind.HARMFUL])
        own = {request_key(text) for parts in sets.values() for each in parts.values() for text in each.texts}

        def part(wanted: Part) -> RequestSets:
            groups = (parts[wanted].take(sizes[wanted][kind], seed) for kind, parts in sets.items())
            harmful = bundled(Kind.HARMFUL, wanted).without(own)
            guarded = harmful.take(GUARDED[wanted], seed) if len(harmful) else None
            return replace(RequestSets(*groups), guarded=guarded)

        return PromptPlan(
            part(Part.CALIBRATION), part(Part.CHOOSING), part(Part.REPORTING), self.names, self.sentence
        )

    def _name_of(self, kind: Kind) -> str:
        names = {Kind.HARMFUL: self.names.harmful, Kind.HARMLESS: self.names.harmless}
        return names.get(kind, self.names.sounds_harmful)

    def _parts(self, section: SetSection) -> Mapping[Part, PromptSet]:
        if section.file is not None:
            return split(self._read(section.file))
        files = (section.calibration, section.choosing, section.reporting)
        return {part: self._read(str(name)) for part, name in zip(Part, files, strict=True)}

    def _read(self, name: str) -> PromptSet:
        prompts = load_prompts(self.folder / name)
        return PromptSet.of(prompts.name, prompts.prompts, f"{self.source}/{name}", doubled=prompts.doubled)


def open_attribute(name: str) -> Attribute:
    """The attribute of this name that ships with the tool, or the one in this folder.

    Raises:
        AttributeFileError: there is none, or its file makes no sense.
    """
    for fixtures in fixture_folders():
        folder = Path(str(fixtures)) / "attributes" / name
        if _SAFE_NAME.fullmatch(name) and (folder / FILE_NAME).is_file():
            return Attribute(_load(folder / FILE_NAME), folder, f"bundled:{name}")
    folder = Path(name)
    return Attribute(_load(folder / FILE_NAME), folder, str(folder))


def bundled_attributes() -> list[str]:
    """Names of the attributes that ship with the tool."""
    for fixtures in fixture_folders():
        folder = Path(str(fixtures)) / "attributes"
        if folder.is_dir():
            return sorted(path.parent.name for path in folder.glob(f"*/{FILE_NAME}"))
    return []


def _load(path: Path) -> AttributeFile:
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        known = ", ".join(bundled_attributes()) or "none"
        raise AttributeFileError(
            f"there is no attribute {printable(str(path.parent), 80)!r}: {path.name} cannot be read "
            f"({getattr(error, 'strerror', None) or error})",
            f"Name one that ships with the tool ({known}) or a folder that holds {FILE_NAME}",
        ) from None
    if len(data) > _LARGEST_FILE:
        raise AttributeFileError(f"{path} is too large for an attribute", f"Give a folder with {FILE_NAME}")
    try:
        return AttributeFile.model_validate(tomllib.loads(data.decode("utf-8-sig")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(place) for place in first["loc"]) or "the file"
        if first["type"] == "extra_forbidden":
            raise AttributeFileError(f"{path}: there is no key {printable(where, 80)}", "Remove it") from None
        reason = printable(str(first["msg"]).removeprefix("Value error, "), 200)
        raise AttributeFileError(f"{path}: {printable(where, 80)}: {reason}", "Mend that value") from None
    except (ValueError, RecursionError) as error:  # no TOML, or no UTF-8
        raise AttributeFileError(
            f"{path} is not TOML: {printable(str(error), 200)}", "Mend that line"
        ) from None


def _check_apart(sets: Mapping[str, Mapping[Part, PromptSet]]) -> None:
    """A request in two sets has no right answer, one in two parts flatters the figures."""
    seen: dict[str, tuple[str, Part]] = {}
    for name, parts in sets.items():
        for part, prompts in parts.items():
            for text in prompts.texts:
                other = seen.setdefault(request_key(text), (name, part))
                if other != (name, part):
                    raise PromptSetError(
                        f"the request {printable(text, 60)!r} is in the {part} part of the {name} and in the "
                        f"{other[1]} part of the {other[0]}",
                        "Remove it from one of them",
                    )


def _check_not_harmful(benign: Sequence[Mapping[Part, PromptSet]]) -> None:
    harmful = {request_key(text) for part in Part for text in bundled(Kind.HARMFUL, part).texts}
    for parts in benign:
        for prompts in parts.values():
            for text in prompts.texts:
                if request_key(text) in harmful:
                    raise PromptSetError(
                        f"the request {printable(text, 60)!r} is harmful, and {prompts.source} asks for it "
                        "to be answered",
                        "Remove it: an attribute may only add refusals",
                    )


def prompts_and_judge(
    name: str | None, files: Mapping[Kind, Path | None], *, seed: int = 0
) -> tuple[PromptPlan, Judge, Attribute | None]:
    """What a run is about: the attribute of this name, or without one harm, with the user's own prompt files.

    Raises:
        AttributeFileError: there is no such attribute, its file makes no sense, or files were given too.
        PromptSetError: its prompts or the files cannot serve.
    """
    if name is None:
        return plan_prompts(files, seed=seed), KeywordJudge(), None
    if any(files.values()):
        raise AttributeFileError(
            f"the attribute {printable(name, 80)} brings its own prompts",
            "Leave --attribute or the files out",
        )
    attribute = open_attribute(name)
    return attribute.plan(seed=seed), attribute.judge(), attribute
