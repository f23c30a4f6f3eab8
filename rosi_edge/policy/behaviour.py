"""What is measured by running the model, within a budget of time, and the bounds that it has to keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rosi_edge.basics.progress import Progress
from rosi_edge.basics.statistics import Estimate, PairedChange
from rosi_edge.evaluation.run import EvaluateOptions, Named, evaluate
from rosi_edge.evaluation.suites import SuiteChoices, open_suites
from rosi_edge.policy.model import FigureRule, Policy
from rosi_edge.policy.rule import Finding, could_not_run, failed, passed
from rosi_edge.records.evaluation import EvaluationReport
from rosi_edge.runtime.child_engine import ChildEngine
from rosi_edge.runtime.engine import Engine, EngineOptions

_RESERVE = 0.85
"""Share of what is left of the budget that a sample may be expected to take."""


@dataclass(frozen=True)
class Measurement:
    """Figures, and how they were come by.

    Attributes:
        sample: prompts of each set at most; None for all.
        problems: by suite, why it could not run.
    """

    report: EvaluationReport
    sample: int | None
    seconds: float
    note: str

    @property
    def problems(self) -> Mapping[str, str]:
        return {name: suite.problem for name, suite in self.report.suites.items() if suite.problem}

    def figure(self, name: str) -> tuple[Estimate, PairedChange | None] | None:
        for suite in self.report.suites.values():
            if (found := suite.figures.get(name)) is not None:
                return found, found.change
        return None

    def names(self) -> list[str]:
        return [name for suite in self.report.suites.values() for name in suite.figures]


def measure(
    model: Named,
    base: Named | None,
    policy: Policy,
    *,
    engine: EngineOptions,
    progress: Progress,
    open_engine: Callable[[Path, EngineOptions], Engine] = ChildEngine,
    clock: Callable[[], float] = time.monotonic,
) -> Measurement:
    """Run the policy's suites on as many prompts as its budget holds.

    A few prompts are measured first; how long they take says how many more fit. Samples of one seed lie
    within each other, so how fast a machine is changes the size of the sample and nothing else.

    Raises:
        RosiEdgeError: the model, the judge or every suite failed.
    """
    wanted = policy.behaviour
    start = clock()
    loading = 0.0

    def timed(path: Path, options: EngineOptions) -> Engine:
        nonlocal loading
        before = clock()
        opened = open_engine(path, options)
        loading += clock() - before
        return opened

    choices = SuiteChoices(
        limit=wanted.fewest,
        max_tokens=wanted.max_tokens,
        seed=wanted.seed,
        compared=base is not None,
    )
    options = EvaluateOptions(judge=wanted.judge, engine=engine, fresh=True)

    def run(limit: int | None) -> EvaluationReport:
        chosen = replace(choices, limit=limit)
        suites = open_suites(",".join(wanted.suites), chosen)
        return evaluate(
            model, suites, chosen, base=base, options=options, progress=progress, open_engine=timed
        )

    pilot = run(wanted.fewest)
    spent = clock() - start
    each = max(spent - loading, 1e-3) / wanted.fewest
    left = wanted.budget - spent - loading
    largest = _largest(policy, choices)
    fits = int(_RESERVE * left / each)
    if fits <= wanted.fewest or wanted.fewest >= largest:
        report, sample = pilot, wanted.fewest
    else:
        sample = min(fits, largest)
        report = run(sample)
    seconds = clock() - start
    whole = sample >= largest
    note = (
        f"all prompts were asked, {seconds:.0f} s"
        if whole
        else f"at most {sample} prompts of each set were drawn (seed {wanted.seed}) to fit a budget of "
        f"{wanted.budget:.0f} s; it took {seconds:.0f} s"
    )
    return Measurement(report, None if whole else sample, seconds, note)


def _largest(policy: Policy, choices: SuiteChoices) -> int:
    """Prompts in the largest set of the suites."""
    everything = replace(choices, limit=None)
    suites = open_suites(",".join(policy.behaviour.suites), everything)
    return max((given.n for suite in suites for given in suite.inputs), default=1)


def judge_figure(name: str, rule: FigureRule, measured: Measurement) -> Finding:
    """Whether a figure keeps its bounds, by the bound of its interval that lies on the wrong side."""
    found = measured.figure(name)
    if found is None:
        problems = "; ".join(f"{suite}: {problem}" for suite, problem in measured.problems.items())
        known = ", ".join(measured.names())
        return could_not_run(
            f"no suite measured {name}" + (f" ({problems})" if problems else ""),
            "Mend what is said there" if problems else f"These were measured: {known}",
        )
    estimate, change = found
    evidence = estimate.model_dump() | {"rule": rule.model_dump(exclude={"severity"}, exclude_none=True)}
    words = f"{name} {_words(estimate.value, estimate.low, estimate.high, estimate.n)}"
    broken = _broken(estimate.low, estimate.high, rule.min, rule.max)
    if rule.change_min is not None or rule.change_max is not None:
        if change is None:
            return could_not_run(
                f"{name} was not measured on a base as well", "Name the original with --base MODEL"
            )
        evidence["change"] = change.model_dump()
        words += f", change {_words(change.change, change.low, change.high, change.n)}"
        broken = broken or _broken(change.low, change.high, rule.change_min, rule.change_max, "its change")
    if broken:
        return replace(
            failed(f"{words}: {broken}", "Improve the model, or ask more prompts for a narrower interval"),
            evidence=evidence,
        )
    return replace(passed(words), evidence=evidence)


def _broken(
    low: float, high: float, smallest: float | None, largest: float | None, what: str = "the interval"
) -> str | None:
    # Not "low < smallest": a bound that is no number must not pass.
    if smallest is not None and not low >= smallest:
        return f"{what} reaches down to {low:.4g}, below {smallest:g}"
    if largest is not None and not high <= largest:
        return f"{what} reaches up to {high:.4g}, above {largest:g}"
    return None


def _words(value: float, low: float, high: float, n: int) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f}, n={n})"
