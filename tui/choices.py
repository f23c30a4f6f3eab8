"""What the user has chosen, as the texts of ``rosi-edge harden``'s own options.

The command's parser reads them, so a value is refused here with the words it is refused with there, and the
command that repeats a run is these very texts.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rosi_edge.commands.harden import harden
from rosi_edge.commands.options import elicitation_of, engine_options

if TYPE_CHECKING:
    # Not at run time: these bring scipy and optuna, and the wizard shall be there at once.
    from rosi_edge.hardening import HardenOptions
    from rosi_edge.prompt_plan import PromptPlan

BASIC = (
    *("method", "rounding", "layer", "alpha", "min_compliance", "max_kl", "trials", "time_limit"),
    *("min_delivered", "promote", "stress"),
)
PROMPTS = ("harmful", "harmless", "sounds_harmful", "elicit")
RUNTIME = ("threads", "context_size", "batch_size", "gpu_layers", "template", "seed")

FOR_CALIBRATION = frozenset({"method", *PROMPTS, "template", "seed"})
"""Options on which the calibration depends, and all after it. How the model is run is not among them."""
FOR_SEARCH = frozenset({"layer", "alpha", "min_compliance", "max_kl", "trials", "time_limit"})
"""Options on which the search depends, and all after it. The rest of them matter from the baking on."""


def option(name: str) -> click.Option:
    """The command's own option of this name."""
    return next(p for p in harden.params if isinstance(p, click.Option) and p.name == name)


@dataclass(frozen=True)
class Choices:
    """Everything that can be set.

    Attributes:
        model: a path, ``demo`` or ``hf:…``, as typed.
        texts: option names of ``harden`` to what was typed; absent or empty means the default.
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

    def changed(self, other: Choices) -> frozenset[str]:
        """Names of the options in which the two differ."""
        names = (*BASIC, *PROMPTS, *RUNTIME)
        return frozenset(name for name in names if self.text(name) != other.text(name))

    def flags(self) -> list[str]:
        """The options as they are typed on the command line."""
        flags: list[str] = []
        for name in (*BASIC, *PROMPTS, *RUNTIME):
            text = self.text(name)
            if name == "elicit" and text == "default":
                flags.append("--elicit=")
            elif text:
                flags += [max(option(name).opts, key=len), text]
        return flags

    def parse(self) -> dict[str, Any]:
        """The options' values.

        Raises:
            click.UsageError: one of them cannot be used.
        """
        arguments = [*self.flags(), "-o", self.output or "out.gguf", "--", self.model or "demo"]
        return harden.make_context("harden", arguments).params

    def prompts(self) -> PromptPlan:
        """
        Raises:
            click.UsageError, PromptSetError: an option, or a prompt file, cannot be used.
        """
        from rosi_edge.prompt_plan import plan_prompts
        from rosi_edge.prompts import Kind

        values = self.parse()
        files = {
            Kind.HARMFUL: values["harmful"],
            Kind.HARMLESS: values["harmless"],
            Kind.SOUNDS_HARMFUL: values["sounds_harmful"],
        }
        return plan_prompts(files, seed=values["seed"])

    def options(self, journals: Path | None = None) -> HardenOptions:
        """
        Args:
            journals: a folder in which interrupted searches are kept.

        Raises:
            click.UsageError, RosiEdgeError: an option cannot be used.
        """
        from rosi_edge.conditional_search import ConditionalOptions
        from rosi_edge.hardening import HardenOptions
        from rosi_edge.quantization.promotion import promotion_of
        from rosi_edge.search import SearchOptions

        values = self.parse()
        layer = None if values["layer"] is None else int(values["layer"])
        runtime = ("threads", "batch_size", "context_size", "gpu_layers", "template")
        return HardenOptions(
            rounding=values["rounding"],
            method=values["method"],
            elicitation=elicitation_of(values["elicit"]),
            search=SearchOptions(
                min_compliance=values["min_compliance"],
                layers=None if layer is None else (layer,),
                strength=values["alpha"],
            ),
            conditional=ConditionalOptions(
                min_compliance=values["min_compliance"],
                max_kl=values["max_kl"],
                trials=values["trials"],
                time_limit=values["time_limit"],
                layer=layer,
                strength=values["alpha"],
                folder=journals,
                seed=values["seed"],
            ),
            min_delivered=values["min_delivered"],
            promotion=promotion_of(values["promote"]),
            stress=values["stress"],
            engine=engine_options(**{name: values[name] for name in runtime}),
            reference=self.model,
            command=self.command(),
            seed=values["seed"],
        )

    def command(self, report: Path | None = None) -> str:
        """The command that does the same without the wizard."""
        words = ["rosi-edge", "harden", self.model, "-o", self.output or "OUT.gguf", *self.flags()]
        return shlex.join([*words, *(["--report", str(report)] if report else [])])

    def commands(
        self, report: Path | None, *, written: bool, by_hand: tuple[int, float] | None = None
    ) -> list[str]:
        """The commands that repeat a run and look at its file.

        Args:
            written: whether there is a file.
            by_hand: layer and strength of a point that the search had not taken.
        """
        repeat = self
        if by_hand is not None:
            repeat = self.set(layer=str(by_hand[0]), alpha=f"{by_hand[1]:.6g}")
        lines = [repeat.command(report)]
        if written:
            lines.append(shlex.join(["rosi-edge", "verify", self.output, "--base", self.model]))
            lines.append(shlex.join(["rosi-edge", "eval", self.output, "--base", self.model]))
        return lines
