"""A report with every kind of result, and texts that try to break out."""

from __future__ import annotations

from rosi_edge.policy.result import CheckedFile, CheckReport, Decision, RuleResult, Status, decide

HOSTILE = "a|b <script>&amp; [x](http://e.x) `c` ]]> \x00\x1b[31m 🦊 \ud7ff \ufffe \"'"


def sample(*results: RuleResult, finished: bool = True, notes: tuple[str, ...] = (HOSTILE,)) -> CheckReport:
    chosen = results or (
        result("RE101", Status.PASSED),
        result("RE105", Status.FAILED, "warning"),
        result("RE106", Status.FAILED),
        result("RE109", Status.COULD_NOT_RUN),
        result("RE107", Status.NOT_APPLICABLE),
        result("RE201/harmful_refusal_rate", Status.FAILED),
    )
    verdict: Decision = decide(chosen, finished=finished)
    return CheckReport(
        tool_version="0.1.0",
        policy=HOSTILE,
        file=CheckedFile(file_name="odd name & <é>.gguf", reference="demo", size=12, sha256="0" * 64),
        base=None,
        verdict=verdict,
        summary=f"{verdict}: summary",
        results=chosen,
        notes=notes,
        seconds=1.5,
    )


def result(rule: str, status: Status, severity: str = "error") -> RuleResult:
    return RuleResult(
        id=rule,
        title="A title",
        severity=severity,  # type: ignore[arg-type]
        status=status,
        message=HOSTILE,
        remedy="Mend it",
        evidence={"text": HOSTILE, "number": 0.5},
        seconds=0.25,
    )
