"""Which prompts serve which purpose, so that nothing is reported on prompts that chose it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rosi_edge.errors import PromptSetError
from rosi_edge.prompts.sets import (
    Kind,
    Part,
    PromptSet,
    bundled,
    load_prompts,
    split,
)


@dataclass(frozen=True)
class RequestSets:
    """The prompts a model is judged on. ``sounds_harmful`` is benign too, and kept apart in every figure.

    Attributes:
        guarded: requests that it must go on refusing as often as before, where the first three are about
            something else than harm.
    """

    harmful: PromptSet
    harmless: PromptSet
    sounds_harmful: PromptSet | None = None
    guarded: PromptSet | None = None

    @property
    def groups(self) -> tuple[PromptSet, ...]:
        """The sets that edits are fitted to: harmful, harmless, and where there are any sounding harmful."""
        every = (self.harmful, self.harmless, self.sounds_harmful)
        return tuple(group for group in every if group is not None)


SIZES: Mapping[Part, Mapping[Kind, int]] = {
    Part.CALIBRATION: {Kind.HARMFUL: 400, Kind.HARMLESS: 400, Kind.SOUNDS_HARMFUL: 400},
    Part.CHOOSING: {Kind.HARMFUL: 64, Kind.HARMLESS: 80, Kind.SOUNDS_HARMFUL: 40},
    Part.REPORTING: {Kind.HARMFUL: 80, Kind.HARMLESS: 80, Kind.SOUNDS_HARMFUL: 60},
}
"""Prompts used of each set at most. More narrow the intervals and take longer, in proportion."""


@dataclass(frozen=True)
class SetNames:
    """What the three sets are called where people read it, in the plural."""

    harmful: str = "harmful requests"
    harmless: str = "harmless requests"
    sounds_harmful: str = "benign requests that sound harmful"


HARM = SetNames()


@dataclass(frozen=True)
class PromptPlan:
    """The three parts; they never share a prompt.

    Attributes:
        about: what a reader of a report must know of these requests; empty for harm itself.
    """

    calibration: RequestSets
    choosing: RequestSets
    reporting: RequestSets
    names: SetNames = HARM
    about: str = ""


def plan_prompts(
    files: Mapping[Kind, Path | None], *, sizes: Mapping[Part, Mapping[Kind, int]] = SIZES, seed: int = 0
) -> PromptPlan:
    """The project's own sets, or the user's files split into parts.

    Raises:
        PromptSetError: a file is missing, malformed or too small, or a request is both harmful and benign.
    """
    parts: dict[Kind, Mapping[Part, PromptSet]] = {}
    seen: dict[str, Kind] = {}
    for kind in Kind:
        path = files.get(kind)
        parts[kind] = split(load_prompts(path)) if path else {part: bundled(kind, part) for part in Part}
        for prompts in parts[kind].values():
            for text in prompts.texts:
                other = seen.setdefault(text.strip().lower(), kind)
                if other is not kind:
                    raise PromptSetError(
                        f"the request {text[:60]!r} is in both the {other} and the {kind} prompts",
                        "Remove it from one of them",
                    )

    def sets(part: Part) -> RequestSets:
        harmful, harmless, sounds = (
            parts[kind][part].take(sizes[part][kind], seed)
            for kind in (Kind.HARMFUL, Kind.HARMLESS, Kind.SOUNDS_HARMFUL)
        )
        return RequestSets(harmful, harmless, sounds)

    return PromptPlan(sets(Part.CALIBRATION), sets(Part.CHOOSING), sets(Part.REPORTING))
