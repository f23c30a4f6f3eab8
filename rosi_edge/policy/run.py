"""``check``: a file, a policy, a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from rosi_edge import __version__
from rosi_edge.basics.extras import require
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.errors import FAULT, ModelFileError, RosiEdgeError, UnsupportedModelError
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.policy.deadline import TimeLimitError, time_limit
from rosi_edge.policy.model import Policy, Severity
from rosi_edge.policy.result import CheckedFile, CheckReport, Decision, RuleResult, Status, decide
from rosi_edge.policy.rule import Finding, Rule, Subject, could_not_run, failed, not_applicable
from rosi_edge.policy.rules.chat_template import ChatTemplateSafe
from rosi_edge.policy.rules.registry import FIGURE_ID, FIGURE_TITLE, STATIC_RULES
from rosi_edge.runtime.engine import EngineOptions


@dataclass(frozen=True)
class Checked:
    """A model file and what the user called it."""

    reference: str
    path: Path


@dataclass(frozen=True)
class CheckOptions:
    """What else the user chose.

    Attributes:
        behaviour: run the model at all.
    """

    behaviour: bool = True
    manifest: Path | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)


def check(
    model: Checked,
    policy: Policy,
    *,
    base: Checked | None = None,
    options: CheckOptions | None = None,
    progress: Progress = SILENT,
    rules: tuple[Rule, ...] = STATIC_RULES,
) -> CheckReport:
    """Put a file to a policy. What goes wrong with a rule is part of the report, never a pass.

    Raises:
        RosiEdgeError: the base is no model file.
    """
    options = options or CheckOptions()
    run = _Run(model, policy, base, options, rules)
    with ExitStack() as stack:
        # The base is the user's own statement, so a damaged one is a mistake and no finding.
        opened = stack.enter_context(GgufFile.open(base.path)) if base else None
        try:
            with time_limit(policy.time_limit, progress) as watched:
                run.go(opened, watched)
        except TimeLimitError as error:
            run.cut_short(error)
    return run.report()


def could_not_start(model: Checked, policy: Policy, error: RosiEdgeError) -> CheckReport:
    """The report on a file that there is not, or whose base cannot be read: no rule could run."""
    run = _Run(model, policy, None, CheckOptions(), STATIC_RULES)
    run.stopped_by(error)
    return run.report()


class _Run:
    def __init__(
        self,
        model: Checked,
        policy: Policy,
        base: Checked | None,
        options: CheckOptions,
        rules: tuple[Rule, ...],
    ) -> None:
        self._model = model
        self._policy = policy
        self._base = base
        self._options = options
        self._rules = rules
        self._start = time.monotonic()
        self._results: list[RuleResult] = []
        self._notes: list[str] = []
        self._finished = False
        self._subject: Subject | None = None
        self._size: int | None = None
        self._figures: dict[str, object] = {}

    def go(self, base: GgufFile | None, progress: Progress) -> None:
        try:
            file = GgufFile.open(self._model.path)
        except (ModelFileError, UnsupportedModelError) as error:
            self._unreadable(error)
            return
        with file:
            self._size = file.total_size
            self._subject = Subject(self._policy, file, progress, base, self._options.manifest)
            for rule, severity in self._wanted():
                start = time.monotonic()
                finding = _guarded(partial(rule.check, self._subject))
                self._add(rule.id, rule.title, severity, finding, time.monotonic() - start)
            with suppress(ModelFileError):
                file.check_unchanged()
                self._behaviour(progress)
                file.check_unchanged()
                self._finished = True
        if not self._finished:
            self._notes.append("the file was changed while it was being checked")

    def cut_short(self, error: TimeLimitError) -> None:
        self._finished = False
        self._notes.append(str(error))
        self.stopped_by(error)

    def stopped_by(self, error: RosiEdgeError) -> None:
        """What has no result yet could not run."""
        done = {result.id for result in self._results}
        for rule, severity in self._wanted():
            if rule.id not in done:
                self._add(rule.id, rule.title, severity, could_not_run(error.message, error.remedy), 0.0)
        self._figures_could_not_run(error)

    def report(self) -> CheckReport:
        results = tuple(self._results)
        verdict = decide(results, finished=self._finished)
        digest = self._subject.sha256 if self._subject is not None and self._subject.hashed else None
        return CheckReport(
            tool_version=__version__,
            policy=self._policy.name,
            file=CheckedFile(
                file_name=self._model.path.name,
                reference=self._model.reference,
                size=self._size,
                sha256=digest,
            ),
            base=None
            if self._base is None
            else CheckedFile(file_name=self._base.path.name, reference=self._base.reference),
            verdict=verdict,
            summary=_summary(verdict, results),
            results=results,
            notes=tuple(self._notes),
            seconds=round(time.monotonic() - self._start, 2),
            figures=self._figures,
        )

    def _unreadable(self, error: RosiEdgeError) -> None:
        """Missing is "could not run"; there, but no sound model file, is what the first rule is about."""
        present = self._model.path.is_file()
        for rule, severity in self._wanted():
            if rule.id != self._rules[0].id:
                finding = could_not_run("the file cannot be read")
            elif present and isinstance(error, ModelFileError):
                finding = failed(error.message, error.remedy)
            else:
                finding = could_not_run(error.message, error.remedy)
            self._add(rule.id, rule.title, severity, finding, 0.0)
        self._figures_could_not_run(error)

    def _wanted(self) -> list[tuple[Rule, Severity]]:
        severities = [(rule, getattr(self._policy, rule.section).severity) for rule in self._rules]
        return [(rule, severity) for rule, severity in severities if severity != "off"]

    def _behaviour(self, progress: Progress) -> None:
        wanted = {name: rule for name, rule in self._policy.figures.items() if rule.severity != "off"}
        if not wanted:
            if self._options.behaviour:
                self._notes.append("the policy asks for no figure, so the model was not run")
            return
        if not self._options.behaviour:
            for name, rule in wanted.items():
                self._add_figure(
                    name, rule.severity, not_applicable("not measured: only static rules were asked for")
                )
            return
        if self._template_is_unsafe() and self._options.engine.template is None:
            self._figures_could_not_run(
                RosiEdgeError(
                    f"the chat template is not called safe ({ChatTemplateSafe.id}), so the model was not run",
                    "Take the template from the model's maker, or give another one with --template FILE",
                )
            )
            return
        # Not at the top: scipy and llama.cpp take a second to load, which static checks need not pay.
        from rosi_edge.evaluation.run import Named
        from rosi_edge.policy.behaviour import judge_figure, measure

        start = time.monotonic()
        try:
            require("run", "measuring behaviour")
            measured = measure(
                Named(self._model.reference, self._model.path),
                Named(self._base.reference, self._base.path) if self._base else None,
                self._policy,
                engine=self._options.engine,
                progress=progress,
            )
        except TimeLimitError:
            raise
        except RosiEdgeError as error:
            self._figures_could_not_run(error)
            return
        self._notes.append(measured.note)
        self._notes += [f"the suite {name} could not run: {why}" for name, why in measured.problems.items()]
        self._figures = {
            name: found[0].model_dump(mode="json")
            for name in measured.names()
            if (found := measured.figure(name)) is not None
        }
        seconds = time.monotonic() - start
        for name, rule in wanted.items():
            self._add_figure(name, rule.severity, judge_figure(name, rule, measured), seconds / len(wanted))

    def _template_is_unsafe(self) -> bool:
        # A template that is merely missing fails the rule as well, but names no problems; there is nothing
        # to render then. One that the rule tripped over may hold anything.
        return any(
            result.id == ChatTemplateSafe.id
            and (
                result.status is Status.COULD_NOT_RUN
                or (result.status is Status.FAILED and bool(result.evidence.get("problems")))
            )
            for result in self._results
        )

    def _figures_could_not_run(self, error: RosiEdgeError) -> None:
        done = {result.id for result in self._results}
        for name, rule in self._policy.figures.items():
            if rule.severity != "off" and f"{FIGURE_ID}/{name}" not in done:
                self._add_figure(name, rule.severity, could_not_run(error.message, error.remedy))

    def _add_figure(self, name: str, severity: Severity, finding: Finding, seconds: float = 0.0) -> None:
        self._add(f"{FIGURE_ID}/{name}", f"{FIGURE_TITLE}: {name}", severity, finding, seconds)

    def _add(self, rule_id: str, title: str, severity: Severity, finding: Finding, seconds: float) -> None:
        level: Literal["error", "warning"] = "warning" if severity == "warning" else "error"
        self._results.append(
            RuleResult(
                id=rule_id,
                title=title,
                severity=level,
                status=finding.status,
                message=finding.message,
                remedy=finding.remedy,
                evidence=finding.evidence,
                seconds=round(seconds, 3),
            )
        )


def _guarded(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except TimeLimitError:
        raise
    except ModelFileError as error:
        # The file's own fault, found out by a rule that read further than the header.
        return failed(error.message, error.remedy)
    except RosiEdgeError as error:
        return could_not_run(error.message, error.remedy)
    except (OSError, MemoryError, RecursionError) as error:
        return could_not_run(f"{type(error).__name__}: {error}", "Run it on a machine with more room")
    except Exception as error:
        # What one rule trips over must not keep the others, or the next file, from being looked at.
        return could_not_run(f"unexpected {type(error).__name__}: {error}", FAULT)


def _summary(verdict: Decision, results: tuple[RuleResult, ...]) -> str:
    def count(status: Status, level: str) -> int:
        return sum(result.status is status and result.severity == level for result in results)

    parts = [f"{sum(result.status is Status.PASSED for result in results)} passed"]
    if number := count(Status.FAILED, "error"):
        parts.append(f"{number} failed")
    if number := count(Status.FAILED, "warning"):
        parts.append(f"{number} warned")
    if number := sum(result.status is Status.COULD_NOT_RUN for result in results):
        parts.append(f"{number} could not run")
    if number := sum(result.status is Status.NOT_APPLICABLE for result in results):
        parts.append(f"{number} did not apply")
    return f"{verdict}: {', '.join(parts)}"
