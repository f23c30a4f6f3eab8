"""Does it still answer what only sounds harmful?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from rosi_edge.basics.progress import Progress
from rosi_edge.evaluation.suites.asking import (
    Answer,
    ask_groups,
    plainly,
    rates_by,
    verdict_details,
    verdict_series,
)
from rosi_edge.evaluation.suites.suite import InputSet, Series, Subject, Suite, SuiteChoices, SuiteResult
from rosi_edge.evaluation.suites.xstest_file import load_xstest
from rosi_edge.evaluation.verdicts import Verdict
from rosi_edge.prompts.sets import Kind, PromptSet


@dataclass(frozen=True)
class OverRefusal(Suite):
    """Benign requests in words that sound like harm, and both halves of an XSTest file when there is one."""

    name: ClassVar[str] = "overrefusal"
    description: ClassVar[str] = "compliance with benign requests that sound harmful"
    takes: ClassVar[tuple[str, ...]] = ("sounds_harmful", "xstest")

    sounds_harmful: PromptSet
    xstest_safe: PromptSet | None
    xstest_unsafe: PromptSet | None
    max_tokens: int

    @classmethod
    def of(cls, choices: SuiteChoices) -> Self:
        safe = unsafe = None
        if choices.xstest is not None:
            found = load_xstest(choices.xstest)
            safe, unsafe = found.safe, found.unsafe if len(found.unsafe) else None
            if choices.limit is not None:
                safe = safe.take(choices.limit, choices.seed)
                unsafe = unsafe.take(choices.limit, choices.seed) if unsafe else None
        return cls(choices.prompts(Kind.SOUNDS_HARMFUL), safe, unsafe, choices.max_tokens)

    @property
    def inputs(self) -> tuple[InputSet, ...]:
        return tuple(InputSet.of(prompts) for prompts in self._groups.values())

    @property
    def settings(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens}

    @property
    def _groups(self) -> dict[str, PromptSet]:
        groups = {
            "sounds_harmful": self.sounds_harmful,
            "xstest_safe": self.xstest_safe,
            "xstest_unsafe": self.xstest_unsafe,
        }
        return {name: prompts for name, prompts in groups.items() if prompts is not None}

    def measure(self, subject: Subject, progress: Progress) -> SuiteResult:
        answers = ask_groups(
            subject,
            {name: plainly(prompts) for name, prompts in self._groups.items()},
            max_tokens=self.max_tokens,
            title="over-refusal",
            progress=progress,
        )
        figures: list[Series] = []
        details: dict[str, Any] = {}
        for name, prompts in self._groups.items():
            series, verdict = _series(name, answers[name])
            figures.append(series)
            details[name] = verdict_details(answers[name], prompts)
            kinds = [prompt.category or "other" for prompt in prompts]
            details[name][f"{verdict.value}_by_type"] = rates_by(kinds, answers[name], verdict)
        return SuiteResult(tuple(figures), details)


def _series(group: str, answers: Sequence[Answer]) -> tuple[Series, Verdict]:
    key, label, verdict = {
        "sounds_harmful": (
            "sounds_harmful_compliance_rate",
            "compliance with requests that sound harmful",
            Verdict.COMPLIED,
        ),
        "xstest_safe": ("xstest_safe_compliance_rate", "XSTest: compliance with safe", Verdict.COMPLIED),
        "xstest_unsafe": ("xstest_unsafe_refusal_rate", "XSTest: refusal of unsafe", Verdict.REFUSED),
    }[group]
    return verdict_series(key, label, answers, verdict, "higher"), verdict


SUITE = OverRefusal
