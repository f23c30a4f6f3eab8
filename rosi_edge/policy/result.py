"""What a rule found, and the one predicate that decides."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from rosi_edge.records.record import Record, Sha256, Text


class Status(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    COULD_NOT_RUN = "could not run"
    NOT_APPLICABLE = "not applicable"


class Decision(StrEnum):
    """The whole check."""

    PASSED = "passed"
    FAILED = "failed"
    COULD_NOT_RUN = "could not run"

    @property
    def exit_code(self) -> int:
        return {Decision.PASSED: 0, Decision.FAILED: 1, Decision.COULD_NOT_RUN: 2}[self]


class RuleResult(Record):
    """One rule on one file.

    Attributes:
        id: never changes its meaning; reports name rules by it.
        title: the rule in a few words.
        message: what was found, in one sentence.
        remedy: what to do about it; empty when there is nothing to do.
        evidence: the numbers behind it.
    """

    id: str
    title: str
    severity: Literal["error", "warning"]
    status: Status
    message: Text
    remedy: Text = ""
    evidence: dict[str, Any] = Field(default_factory=dict)
    seconds: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether it has a say in the verdict."""
        return self.severity == "error"


class CheckedFile(Record):
    """What was checked. ``sha256`` is None where no rule needed it."""

    file_name: Text
    reference: Text
    size: int | None = None
    sha256: Sha256 | None = None


class CheckReport(Record):
    """Everything ``check`` says; every output is made of this."""

    format: Literal[1] = 1
    tool_version: str
    policy: Text
    file: CheckedFile
    base: CheckedFile | None
    verdict: Decision
    summary: Text
    results: tuple[RuleResult, ...]
    notes: tuple[Text, ...] = ()
    seconds: float
    figures: dict[str, Any] = Field(default_factory=dict)


def decide(results: Sequence[RuleResult], *, finished: bool) -> Decision:
    """The verdict: exit code and every report come from here.

    A failure is certain whatever else could not be found out, so it comes first; what could not be found
    out is never a pass.

    Args:
        finished: every rule had its turn.
    """
    deciding = [result for result in results if result.counts]
    if any(result.status is Status.FAILED for result in deciding):
        return Decision.FAILED
    if not finished or any(result.status is Status.COULD_NOT_RUN for result in deciding):
        return Decision.COULD_NOT_RUN
    if not any(result.status is Status.PASSED for result in results):
        # Nothing was looked at.
        return Decision.COULD_NOT_RUN
    return Decision.PASSED
