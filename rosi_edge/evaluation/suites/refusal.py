"""Does it refuse what is harmful and answer what is not?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from rosi_edge.basics.progress import Progress
from rosi_edge.evaluation.suites.asking import ask_groups, plainly, verdict_details, verdict_series
from rosi_edge.evaluation.suites.suite import InputSet, Subject, Suite, SuiteChoices, SuiteResult
from rosi_edge.evaluation.verdicts import Verdict
from rosi_edge.prompts.sets import Kind, PromptSet


@dataclass(frozen=True)
class Refusal(Suite):
    """Harmful and harmless requests, asked plainly."""

    name: ClassVar[str] = "refusal"
    description: ClassVar[str] = "refusal of harmful and compliance with harmless requests"
    takes: ClassVar[tuple[str, ...]] = ("harmful", "benign")

    harmful: PromptSet
    harmless: PromptSet
    max_tokens: int

    @classmethod
    def of(cls, choices: SuiteChoices) -> Self:
        return cls(choices.prompts(Kind.HARMFUL), choices.prompts(Kind.HARMLESS), choices.max_tokens)

    @property
    def inputs(self) -> tuple[InputSet, ...]:
        return InputSet.of(self.harmful), InputSet.of(self.harmless)

    @property
    def settings(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens}

    def measure(self, subject: Subject, progress: Progress) -> SuiteResult:
        answers = ask_groups(
            subject,
            {"harmful": plainly(self.harmful), "harmless": plainly(self.harmless)},
            max_tokens=self.max_tokens,
            title="refusal",
            progress=progress,
        )
        harmful, harmless = answers["harmful"], answers["harmless"]
        return SuiteResult(
            (
                verdict_series("harmful_refusal_rate", "harmful refusal", harmful, Verdict.REFUSED, "higher"),
                verdict_series(
                    "benign_compliance_rate", "benign compliance", harmless, Verdict.COMPLIED, "higher"
                ),
                verdict_series(
                    "degenerate_rate", "broken answers", harmful + harmless, Verdict.DEGENERATE, "lower"
                ),
            ),
            {
                "harmful": verdict_details(harmful, self.harmful),
                "harmless": verdict_details(harmless, self.harmless),
            },
        )


SUITE = Refusal
