"""``eval``: one model, or a model beside its base, on prompt sets."""

from __future__ import annotations

from pathlib import Path

from rosi_edge.evaluation.behaviour import RequestSets, compare, measure_behaviour
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.models.inspect import inspect
from rosi_edge.progress import SILENT, Progress
from rosi_edge.report.facts import ModelFacts
from rosi_edge.report.from_behaviour import figures, prompt_set_facts, report_changes
from rosi_edge.report.schema import EvaluationReport
from rosi_edge.runtime.child_engine import ChildEngine
from rosi_edge.runtime.engine import EngineOptions


def evaluate(
    reference: str,
    path: Path,
    sets: RequestSets,
    judge: Judge,
    *,
    base: tuple[str, Path] | None,
    max_tokens: int,
    seed: int,
    options: EngineOptions,
    progress: Progress = SILENT,
) -> EvaluationReport:
    """Measure the model at ``path``; with ``base`` also that one, the paired changes and the divergence.

    Args:
        reference: what the user called the model; ``base`` is such a name with its path.
    """
    before = None
    if base is not None:
        with ChildEngine(base[1], options) as engine:
            before = measure_behaviour(
                engine, sets, judge, max_tokens=max_tokens, keep_logprobs=True, progress=progress,
                title="Base",
            )  # fmt: skip
    with ChildEngine(path, options) as engine:
        measured = measure_behaviour(
            engine, sets, judge, max_tokens=max_tokens, progress=progress, title="Model",
            reference=before.first_logprobs if before else None,
        )  # fmt: skip
    return EvaluationReport(
        **figures(measured).model_dump(),
        model=_facts(reference, path, progress),
        base=_facts(*base, progress) if base else None,
        base_figures=figures(before) if before else None,
        changes=report_changes(compare(before, measured)) if before else None,
        judge=judge.name,
        max_tokens=max_tokens,
        prompt_sets=prompt_set_facts(sets),
        seed=seed,
    )


def _facts(reference: str, path: Path, progress: Progress) -> ModelFacts:
    return ModelFacts.of(inspect(path, with_sha256=True, progress=progress), reference)
