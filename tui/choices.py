"""What the user has chosen, as the texts of ``rosi-edge harden``'s own options.

The command's parser reads them, so a value is refused here with the words it is refused with there, and the
command that repeats a run is these very texts.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rosi_edge.commands.harden import harden
from rosi_edge.commands.harden_help import GROUPS as HARDEN_GROUPS
from rosi_edge.commands.hardening_options import hardening_options

if TYPE_CHECKING:
    # Not at run time: these bring scipy and optuna, and the wizard shall be there at once.
    from rosi_edge.evaluation.verdicts import Judge
    from rosi_edge.hardening.attribute import Attribute
    from rosi_edge.hardening.options import HardenOptions
    from rosi_edge.prompts.plan import PromptPlan

_ELSEWHERE = ("output", "report_folder", "as_json", "source", "also", "no_evaluation")
"""Options that have a field of their own in the wizard, or no use there."""
GROUPS = {title: tuple(n for n in names if n not in _ELSEWHERE) for title, names in HARDEN_GROUPS.items()}
"""What can be set, in the groups of the command's own help."""
ALL = tuple(chain.from_iterable(GROUPS.values()))

FOR_SESSION = frozenset({*GROUPS["Prompts"], "seed", "template"}) - {"elicit"}
"""Options that a session is opened with for good."""
FOR_CALIBRATION = FOR_SESSION | {"elicit", "method"}
"""Options on which the calibration depends, and all after it. How the model is run is not among them."""
FOR_SEARCH = frozenset({*GROUPS["Search"], "force"})
"""Options on which the search depends, and all after it. The rest of them matter from the baking on."""

YES = "yes"
"""The text of a flag that is set."""


def option(name: str) -> click.Option:
    """The command's own option of this name."""
    return next(p for p in harden.params if isinstance(p, click.Option) and p.name == name)


def flag(name: str) -> str:
    """The option as it is typed."""
    return max(option(name).opts, key=len)


@dataclass(frozen=True)
class Choices:
    """Everything that can be set.

    Attributes:
        model: a path, ``demo`` or ``hf:…``, as typed.
        texts: option names of ``harden`` to what was typed, ``YES`` for a flag; absent or empty means the
            default.
        output: where the hardened file goes.
    """

    model: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    output: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", {k: v.strip() for k, v in self.texts.items() if v.strip()})

    def text(self, name: str) -> str:
        return self.texts.get(name, "")

    def set(self, **texts: str) -> Choices:
        return replace(self, texts={**self.texts, **texts})

    def has(self, name: str) -> bool:
        """Whether a flag is set."""
        return self.text(name) == YES

    def changed(self, other: Choices) -> frozenset[str]:
        """Names of the options in which the two differ."""
        return frozenset(name for name in ALL if self.text(name) != other.text(name))

    def flags(self) -> list[str]:
        """The options as they are typed on the command line."""
        flags: list[str] = []
        for name in ALL:
            text = self.text(name)
            if option(name).is_flag:
                flags += [flag(name)] if self.has(name) else []
            elif name == "elicit" and text == "default":
                flags.append("--elicit=")
            elif text:
                flags += [flag(name), text]
        return flags

    def parse(self) -> dict[str, Any]:
        """The options' values.

        Raises:
            click.UsageError: one of them cannot be used.
        """
        arguments = [*self.flags(), "-o", self.output or "out.gguf", "--", self.model or "demo"]
        return harden.make_context("harden", arguments).params

    def requests(self) -> tuple[PromptPlan, Judge, Attribute | None]:
        """What the run is about: prompts, who judges the answers, and the attribute if it is not harm.

        Raises:
            click.UsageError, RosiEdgeError: an option, a prompt file or an attribute cannot be used.
        """
        from rosi_edge.hardening.attribute import prompts_and_judge
        from rosi_edge.prompts.sets import Kind

        values = self.parse()
        files = {
            Kind.HARMFUL: values["harmful"],
            Kind.HARMLESS: values["harmless"],
            Kind.SOUNDS_HARMFUL: values["sounds_harmful"],
        }
        return prompts_and_judge(values["attribute"], files, seed=values["seed"])

    def options(self, journals: Path | None = None) -> HardenOptions:
        """
        Args:
            journals: a folder in which interrupted searches are kept.

        Raises:
            click.UsageError, RosiEdgeError: an option cannot be used.
        """
        from rosi_edge.hardening.attribute import open_attribute

        values = self.parse()
        about = None if values["attribute"] is None else open_attribute(values["attribute"])
        options = hardening_options(
            values, about, folder=journals, reference=self.model, command=self.command()
        )
        options.check()
        return options

    def command(self, report: Path | None = None) -> str:
        """The command that does the same without the wizard, to be shown: without a storage's password.

        Raises:
            RosiEdgeError: the storage is no address.
        """
        flags = self.flags()
        if storage := self.text("storage"):
            from rosi_edge.search.journal import shown_storage

            flags = [shown_storage(storage) if text == storage else text for text in flags]
        words = ["rosi-edge", "harden", self.model, "-o", self.output or "OUT.gguf", *flags]
        return shlex.join([*words, *(["--report", str(report)] if report else [])])

    def repeating(self, *, by_hand: tuple[int, float] | None = None, force: bool = False) -> Choices:
        """The choices that lead to the same file without a hand on the slider.

        Args:
            by_hand: layer and strength of a point that the search had not taken.
            force: the file was kept despite its verdict.
        """
        repeat = self.set(force=YES) if force else self
        if by_hand is not None:
            repeat = repeat.set(layer=str(by_hand[0]), alpha=f"{by_hand[1]:.6g}")
        return repeat

    def commands(
        self,
        report: Path | None,
        *,
        written: Path | None,
        by_hand: tuple[int, float] | None = None,
        force: bool = False,
    ) -> list[str]:
        """The commands that repeat a run and look at its file.

        Args:
            written: the file, where there is one.
            by_hand, force: see ``repeating``.
        """
        lines = [self.repeating(by_hand=by_hand, force=force).command(report)]
        if written is not None:
            lines.append(shlex.join(["rosi-edge", "verify", str(written), "--base", self.model]))
            lines.append(shlex.join(["rosi-edge", "eval", str(written), "--base", self.model]))
        return lines
