"""What ``eval --json`` prints."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rosi_edge.basics.statistics import Estimate, PairedChange
from rosi_edge.records.facts import ModelFacts, PromptSetFacts
from rosi_edge.records.figures import Figures
from rosi_edge.records.record import Record, Sha256, Text

Better = Literal["higher", "lower"] | None
"""Which way a figure should move; None when neither is better in itself."""
Unit = Literal["rate", "nats", "ratio", "rate per 10,000 tokens"]


class JudgeFacts(Record):
    """Who told refused from complied.

    Attributes:
        sha256: of a guard model's file.
        unreadable: its answers that were no verdict in this run; the keyword judge stood in for them.
    """

    name: Text
    sha256: Sha256 | None = None
    unreadable: int = 0


class SuiteFigure(Estimate):
    """One figure of a model with its n and 95 % interval, and the same of its base.

    Attributes:
        label: what it is, in words.
        better: which way it should move; None when neither is better in itself.
        base: the base's figure; None without a base, and where the figure itself compares the two.
        change: model minus base on the same items; None where there are no pairs.
    """

    label: str
    unit: Unit
    better: Better
    base: Estimate | None = None
    change: PairedChange | None = None

    @property
    def estimate(self) -> Estimate:
        return Estimate(value=self.value, n=self.n, low=self.low, high=self.high)


class SuiteFinding(Record):
    """A claim, whether the figures bear it out (None: open), and a line that says so."""

    claim: str
    holds: bool | None
    words: str
    figure: Estimate | None = None


class SuiteReport(Record):
    """One suite.

    Attributes:
        figures: by name, in the order to show them; empty when the suite could not run.
        details: verdicts and what else the suite tells of the model; ``base_details`` of its base.
        problem: why it could not run.
    """

    figures: dict[str, SuiteFigure] = Field(default_factory=dict)
    findings: tuple[SuiteFinding, ...] = ()
    inputs: tuple[PromptSetFacts, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    base_details: dict[str, Any] | None = None
    problem: Text | None = None


class EvaluationReport(Figures):
    """What ``eval --json`` prints: the main figures at the top level, then every suite's.

    Attributes:
        base: the model it was compared with, if any; ``base_figures`` and ``changes`` go with it.
        changes: by the figure's name, for every figure that has pairs.
        judge: None when no suite judged answers.
        prompt_sets: every input of every suite, each once.
        settings: what else was chosen: ``max_tokens``, ``limit``, the engine's flags.
    """

    format: Literal[2] = 2
    model: ModelFacts
    base: ModelFacts | None
    base_figures: Figures | None
    changes: dict[str, PairedChange]
    suites: dict[str, SuiteReport]
    judge: JudgeFacts | None
    prompt_sets: tuple[PromptSetFacts, ...]
    seed: int
    settings: dict[str, Any]
