"""``eval``: one model, or a model beside its base, on the suites that were chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.statistics import Estimate
from rosi_edge.basics.text import printable
from rosi_edge.errors import (
    EngineCrashError,
    EngineError,
    JudgeError,
    RosiEdgeError,
    UnsupportedModelError,
)
from rosi_edge.evaluation.judges.registry import open_judge
from rosi_edge.evaluation.kept import Kept
from rosi_edge.evaluation.suites.suite import Series, Subject, Suite, SuiteChoices, SuiteResult, Unpaired
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.inspection import inspect
from rosi_edge.models.checkpoint import Checkpoint, is_checkpoint
from rosi_edge.records.evaluation import (
    EvaluationReport,
    JudgeFacts,
    SuiteFigure,
    SuiteReport,
)
from rosi_edge.records.facts import ModelFacts, PromptSetFacts
from rosi_edge.records.figures import Figures
from rosi_edge.runtime.engine import Engine, EngineOptions
from rosi_edge.runtime.open_engine import open_engine


@dataclass(frozen=True)
class Named:
    """A model file and what the user called it."""

    reference: str
    path: Path


@dataclass(frozen=True)
class EvaluateOptions:
    """How to evaluate.

    Attributes:
        judge: what ``open_judge`` takes.
        fresh: measure everything again, whatever earlier calls have kept.
    """

    judge: str = "keyword"
    engine: EngineOptions = field(default_factory=EngineOptions)
    fresh: bool = False


@dataclass
class _Outcome:
    """One suite on both models; ``problem`` when it could not run."""

    model: SuiteResult | None = None
    base: SuiteResult | None = None
    problem: RosiEdgeError | None = None


def evaluate(
    model: Named,
    suites: Sequence[Suite],
    choices: SuiteChoices,
    *,
    base: Named | None = None,
    options: EvaluateOptions | None = None,
    progress: Progress = SILENT,
    open_engine: Callable[[Path, EngineOptions], Engine] = open_engine,
) -> EvaluationReport:
    """Measure a model; with ``base`` also that one, and the paired changes.

    What is measured is kept as it comes, so a call that was interrupted, or failed half-way, goes on where
    it stopped. A suite that this model cannot run, or whose judge failed, is reported with its problem, and
    the others run.

    Raises:
        RosiEdgeError: a model or the judge cannot be used, or no suite could run.
    """
    options = options or EvaluateOptions()
    # Everything that can be refused is refused before the first long step.
    facts = _facts(model, progress)
    base_facts = _facts(base, progress) if base else None
    _tell_of_doubled_lines(suites, progress)
    with _opened_judge(options, suites, progress) as judge:
        with _subjects(model, facts, base, base_facts, judge, options, open_engine) as (
            subject,
            base_subject,
        ):
            outcomes = _measure(subject, base_subject, suites, progress)
            _tell(progress, [one.kept for one in (base_subject, subject) if one is not None])
        judge_facts = None
        if judge is not None:
            judge_facts = JudgeFacts(
                name=judge.name,
                sha256=getattr(judge, "sha256", None),
                unreadable=getattr(judge, "unreadable", 0),
            )
    problems = [outcome.problem for outcome in outcomes.values() if outcome.problem is not None]
    if problems and len(problems) == len(outcomes):
        raise problems[0]
    reports = {suite.name: _suite_report(suite, outcomes[suite.name]) for suite in suites}
    changes = {
        name: figure.change
        for report in reports.values()
        for name, figure in report.figures.items()
        if figure.change is not None
    }
    inputs = {facts.sha256: facts for report in reports.values() for facts in report.inputs}
    return EvaluationReport(
        **dict(_headline(reports, lambda figure: figure.estimate)),
        model=facts,
        base=base_facts,
        base_figures=_headline(reports, lambda figure: figure.base) if base_facts else None,
        changes=changes,
        suites=reports,
        judge=judge_facts,
        prompt_sets=tuple(inputs.values()),
        seed=choices.seed,
        settings={"max_tokens": choices.max_tokens, "limit": choices.limit, **_that_matter(options.engine)},
    )


def _measure(
    model: Subject, base: Subject | None, suites: Sequence[Suite], progress: Progress
) -> dict[str, _Outcome]:
    outcomes = {suite.name: _Outcome() for suite in suites}
    judge_problem: JudgeError | None = None

    def run(suite: Suite, subject: Subject) -> SuiteResult | None:
        nonlocal judge_problem
        outcome = outcomes[suite.name]
        if suite.needs_judge and judge_problem is not None:
            # A server that hangs would cost its time-out again, after answers that nobody judges.
            outcome.problem = judge_problem
        if outcome.problem is not None:
            return None
        try:
            return suite.measure(subject, progress)
        except JudgeError as error:
            outcome.problem = judge_problem = error
            return None
        except EngineCrashError:
            raise
        except (EngineError, UnsupportedModelError) as error:
            # Of this suite and this model: the other suites may well run.
            outcome.problem = error
            return None

    alone = [suite for suite in suites if not suite.needs_base]
    if base is not None:
        for suite in alone:
            outcomes[suite.name].base = run(suite, base)
        # Two models at once need twice the memory; only what compares them directly opens both.
        base.close()
    for suite in suites:
        outcomes[suite.name].model = run(suite, model)
    return outcomes


def _tell_of_doubled_lines(suites: Sequence[Suite], progress: Progress) -> None:
    for name, doubled in dict.fromkeys((i.name, i.doubled) for suite in suites for i in suite.inputs):
        if doubled:
            lines = "1 doubled line counts" if doubled == 1 else f"{doubled} doubled lines count"
            progress.note(f"{printable(name, 60)}: {lines} once.")


def _tell(progress: Progress, stores: Sequence[Kept]) -> None:
    if any(kept.reused for kept in stores):
        progress.note("Some of this was measured by an earlier run; --fresh measures it again.")
    for problem in {kept.problem for kept in stores if kept.problem is not None}:
        progress.note(f"The results cannot be kept for later runs ({problem}).")


@contextmanager
def _subjects(
    model: Named,
    facts: ModelFacts,
    base: Named | None,
    base_facts: ModelFacts | None,
    judge: Judge | None,
    options: EvaluateOptions,
    open_engine: Callable[[Path, EngineOptions], Engine],
) -> Iterator[tuple[Subject, Subject | None]]:
    def subject(title: str, named: Named, its: ModelFacts, other: Subject | None) -> Subject:
        identity = _identity(named, its)
        kept = Kept.of_model(identity, _that_matter(options.engine), fresh=options.fresh)
        return Subject(title, identity, lambda: open_engine(named.path, options.engine), kept, judge, other)

    before = subject("Base", base, base_facts, None) if base and base_facts else None
    after = subject("Model", model, facts, before)
    try:
        yield after, before
    finally:
        after.close()
        if before is not None:
            before.close()


def _opened_judge(
    options: EvaluateOptions, suites: Sequence[Suite], progress: Progress
) -> AbstractContextManager[Judge | None]:
    if not any(suite.needs_judge for suite in suites):
        return nullcontext()
    return open_judge(options.judge, replace(options.engine, template=None), progress)


def _suite_report(suite: Suite, outcome: _Outcome) -> SuiteReport:
    settings = suite.settings
    inputs = tuple(PromptSetFacts(name=i.name, n=i.n, sha256=i.sha256) for i in suite.inputs)
    if outcome.model is None or outcome.problem is not None:
        return SuiteReport(inputs=inputs, settings=settings, problem=str(outcome.problem))
    return SuiteReport(
        figures={figure.name: _figure(figure, outcome.base) for figure in outcome.model.figures},
        findings=suite.findings(outcome.base, outcome.model),
        inputs=inputs,
        settings=settings,
        details=dict(outcome.model.details),
        base_details=dict(outcome.base.details) if outcome.base else None,
    )


def _figure(figure: Series | Unpaired, base: SuiteResult | None) -> SuiteFigure:
    before = next((f for f in base.figures if f.name == figure.name), None) if base else None
    change = None
    if isinstance(figure, Series) and isinstance(before, Series):
        change = figure.change_from(before)
    return SuiteFigure(
        **figure.estimate.model_dump(),
        label=figure.label,
        unit=figure.unit,
        better=figure.better,
        base=before.estimate if before is not None else None,
        change=change,
    )


def _headline(reports: dict[str, SuiteReport], pick: Callable[[SuiteFigure], Estimate | None]) -> Figures:
    """The contract's figures, out of whichever suite has them."""
    found: dict[str, Estimate | None] = dict.fromkeys(Figures.model_fields)
    for report in reports.values():
        for name in found:
            if name in report.figures:
                found[name] = pick(report.figures[name])
    return Figures(**found)


def _that_matter(options: EngineOptions) -> dict[str, Any]:
    """The engine's flags that can change a figure; the others only change time and memory."""
    return {name: value for name, value in asdict(options).items() if name not in ("threads", "held")}


def _identity(named: Named, its: ModelFacts) -> str:
    """What a model's answers depend on, as a hash: of a checkpoint its settings and tokenizer too, which a
    GGUF file holds within."""
    if not is_checkpoint(named.path):
        return its.sha256
    with Checkpoint.open(named.path) as folder:
        return hashlib.sha256((its.sha256 + folder.settings_sha256()).encode()).hexdigest()


def _facts(named: Named, progress: Progress) -> ModelFacts:
    return ModelFacts.of(inspect(named.path, with_sha256=True, progress=progress), named.reference)
