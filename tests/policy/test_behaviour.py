"""Thresholds on intervals, and the sample that fits a budget."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rosi_edge.basics.progress import SILENT
from rosi_edge.basics.statistics import Estimate, PairedChange, paired_change
from rosi_edge.evaluation.run import Named
from rosi_edge.policy import behaviour
from rosi_edge.policy.model import FigureRule, parse_policy
from rosi_edge.policy.result import Status
from rosi_edge.runtime.engine import EngineOptions


def measurement(estimate: Estimate | None, change: PairedChange | None = None) -> Any:
    class Measured:
        problems = {} if estimate else {"refusal": "no chat template"}

        def figure(self, name: str) -> Any:
            return None if estimate is None or name != "harmful_refusal_rate" else (estimate, change)

        def names(self) -> list[str]:
            return ["harmful_refusal_rate"]

    return Measured()


RATE = Estimate(value=0.9, n=50, low=0.78, high=0.96)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (FigureRule(min=0.78), Status.PASSED),
        (FigureRule(min=0.8), Status.FAILED),  # the point is above, the interval's bound is not
        (FigureRule(max=0.96), Status.PASSED),
        (FigureRule(max=0.95), Status.FAILED),
        (FigureRule(min=0.5, max=0.97), Status.PASSED),
        (FigureRule(change_min=-0.1), Status.COULD_NOT_RUN),
    ],
)
def test_the_bound_of_the_interval_decides(rule: FigureRule, expected: Status) -> None:
    finding = behaviour.judge_figure("harmful_refusal_rate", rule, measurement(RATE))
    assert finding.status is expected
    assert "n=50" in finding.message or expected is Status.COULD_NOT_RUN


def test_a_figure_that_nobody_measured() -> None:
    rule = FigureRule(min=0)
    assert behaviour.judge_figure("kl", rule, measurement(RATE)).status is Status.COULD_NOT_RUN
    finding = behaviour.judge_figure("harmful_refusal_rate", rule, measurement(None))
    assert finding.status is Status.COULD_NOT_RUN
    assert "no chat template" in finding.message


def test_the_change_from_the_base() -> None:
    change = paired_change([True] * 40, [True] * 30 + [False] * 10)
    rule = FigureRule(change_min=-0.05)
    finding = behaviour.judge_figure("harmful_refusal_rate", rule, measurement(RATE, change))
    assert finding.status is Status.FAILED
    loose = FigureRule(change_min=-0.9)
    assert (
        behaviour.judge_figure("harmful_refusal_rate", loose, measurement(RATE, change)).status
        is Status.PASSED
    )


@pytest.mark.parametrize(
    ("budget", "a_prompt", "expected"),
    [(100.0, 1.0, 78), (100.0, 100.0, 8), (10_000.0, 0.1, 100), (5.0, 1.0, 8)],
)
def test_the_sample_fits_the_budget(
    monkeypatch: pytest.MonkeyPatch, budget: float, a_prompt: float, expected: int
) -> None:
    """An evaluation that takes ``a_prompt`` seconds a prompt; the last measured one is reported."""
    now = 0.0
    limits: list[int] = []

    def evaluate(model: Any, suites: Any, choices: Any, **more: Any) -> Any:
        nonlocal now
        now += choices.limit * a_prompt
        limits.append(choices.limit)
        return SimpleNamespace(suites={})

    monkeypatch.setattr(behaviour, "evaluate", evaluate)
    policy = parse_policy(f"[behaviour]\nbudget = {budget}\nfewest = 8")
    measured = behaviour.measure(
        Named("m", Path("m")), None, policy, engine=EngineOptions(), progress=SILENT, clock=lambda: now
    )
    assert limits[0] == 8
    assert limits[-1] == expected
    assert len(limits) <= 2
    assert measured.sample == (None if expected == 100 else expected)
    if expected > 8:
        assert now <= budget
    assert ("all prompts" in measured.note) == (expected == 100)
