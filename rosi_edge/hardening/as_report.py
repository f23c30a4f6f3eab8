"""What a hardening run found and did, as its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np

from rosi_edge import __version__
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.basics.statistics import proportion
from rosi_edge.basics.stopwatch import Stopwatch
from rosi_edge.direction.difference import Directions
from rosi_edge.evaluation.as_figures import figures, prompt_set_facts, report_changes
from rosi_edge.evaluation.behaviour import Behaviour
from rosi_edge.evaluation.stress import Stress
from rosi_edge.hardening.delivery import Delivery
from rosi_edge.hardening.opened import OpenModel
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.hardening.verdict import Measured
from rosi_edge.models.architectures import WriteMatrix, expert_counts
from rosi_edge.prompts.plan import PromptPlan
from rosi_edge.records import hardening as schema
from rosi_edge.records.facts import (
    EvaluationFacts,
    ModelFacts,
    OutputFile,
    ToolFacts,
)
from rosi_edge.search.result import AnsweredPoint, SearchResult


@dataclass(frozen=True)
class Run:
    """Everything a report is made of.

    Attributes:
        chosen: None when no point was good enough.
        measured: the written file; None where there is none, or it was not measured.
        paper: the best point of the paper's method under the same constraints; None when it was not looked
            for.
        findings: sentences about what was noticed until the choice.
    """

    model: OpenModel
    options: HardenOptions
    prompts: PromptPlan
    judge: str
    directions: Directions
    search: SearchResult
    chosen: AnsweredPoint | None
    before: Behaviour
    measured: Measured | None
    rounding_check: schema.RoundingCheck | None
    stress_before: Stress | None
    stress_after: Stress | None
    delivery: Delivery | None
    paper: AnsweredPoint | None
    findings: Sequence[str]
    verdict: schema.HardeningVerdict
    written: OutputFile | None


def hardening_report(run: Run) -> schema.HardeningReport:
    """``report.json``."""
    layer = run.chosen.layer if run.chosen else run.search.frontier[0].layer
    options, inspection = run.options, run.model.inspection
    return schema.HardeningReport(
        verdict=run.verdict,
        findings=tuple(_findings(run)),
        model=ModelFacts.of(inspection, options.reference or str(inspection.path)),
        output=run.written,
        before=figures(run.before),
        after=figures(run.measured.after) if run.measured else None,
        rounding_check=run.rounding_check,
        stress=_stress(run),
        changes=report_changes(run.measured.changes) if run.measured else None,
        evaluation=EvaluationFacts(
            judge=run.judge,
            max_tokens=options.max_tokens,
            prompt_sets=prompt_set_facts(run.prompts.reporting),
        ),
        direction=schema.DirectionFacts.of(
            run.directions,
            layer,
            sweep=_sweep(run),
            prompt_sets=(
                *prompt_set_facts(run.prompts.calibration),
                *prompt_set_facts(run.prompts.choosing),
            ),
        ),
        injection=_injection(run),
        frontier=_frontier(run),
        paper=_point(run.paper, chosen=False) if run.paper else None,
        timing=timing(run.model.watch),
        tool=ToolFacts(
            version=__version__,
            llama_cpp_python=version("llama-cpp-python"),
            seed=options.seed,
            command=options.command,
        ),
        generated=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _findings(run: Run) -> Iterator[str]:
    if run.prompts.about:
        yield run.prompts.about
    yield from run.findings
    edits = run.chosen.edits if run.chosen else ()
    edited = {edit.matrix: edit.tensor for edit in edits if edit.expert is not None}
    counts = expert_counts(run.model.matrices)
    total = sum(counts[tensor] for tensor in set(edited.values()))
    if len(edited) != total:
        yield (
            f"{len(edited)} of {total} experts were edited; the others were sent too few of the calibration "
            "prompts to tell what they answer to."
        )
    if run.delivery is not None and run.delivery.correction is not None:
        yield run.delivery.correction.describe()


def timing(watch: Stopwatch) -> schema.Timing:
    return schema.Timing(
        stages={stage: round(seconds, 2) for stage, seconds in watch.stages.items()},
        total=round(watch.total, 2),
    )


def _stress(run: Run) -> schema.StressTest | None:
    before, after = run.stress_before, run.stress_after
    if before is None:
        return None
    return schema.StressTest(
        requests=before.requests,
        attacks=tuple(
            schema.AttackSuccess(
                name=name,
                before=proportion(sum(succeeded), len(succeeded)),
                after=proportion(sum(after.by_attack[name]), len(after.by_attack[name])) if after else None,
            )
            for name, succeeded in before.by_attack.items()
        ),
        before=before.success,
        after=after.success if after else None,
    )


def _sweep(run: Run) -> tuple[schema.SweepPoint, ...]:
    d_prime = {entry.layer: entry.d_prime for entry in run.directions.separation}
    return tuple(
        schema.SweepPoint(
            layer=trial.layer,
            direction=trial.name or f"layer {trial.layer}",
            d_prime=d_prime[trial.layer],
            strength=trial.strength,
            harmful_refusal_score_change=trial.harmful_shift,
            harmless_refusal_score_change=trial.harmless_shift,
            kl_first_token=trial.kl,
        )
        for trial in run.search.sweep
    )


def edited_tensors(
    matrices: Sequence[WriteMatrix], baked: Sequence[BakedTensor]
) -> tuple[schema.EditedTensor, ...]:
    known = {matrix.name: matrix for matrix in matrices}
    return tuple(
        schema.EditedTensor(
            name=tensor.name,
            block=known[tensor.name.split("[")[0]].block,
            kind=known[tensor.name.split("[")[0]].kind,
            type=tensor.type,
            delivered=tensor.delivered,
            noise=tensor.noise,
            promoted_from=tensor.promoted_from,
            rescaled=tensor.rescaled,
            estimate=tensor.estimate,
        )
        for tensor in baked
    )


def _injection(run: Run) -> schema.Injection:
    tensors = edited_tensors(run.model.matrices, run.delivery.baked if run.delivery else ())
    return schema.Injection(
        method=run.options.method,
        rounding=run.options.rounding,
        setting=_setting(run.chosen) if run.chosen else "",
        direction=run.chosen.direction if run.chosen else "",
        strength=run.chosen.strength if run.chosen else 0.0,
        min_compliance=run.search.floor,
        max_kl=run.options.max_kl,
        delivered=float(np.mean([t.delivered for t in tensors])) if tensors else None,
        tensors=tensors,
    )


def _frontier(run: Run) -> tuple[schema.FrontierPoint, ...]:
    found = run.search
    layer = run.chosen.layer if run.chosen else found.frontier[0].layer
    original = AnsweredPoint(layer, 0.0, found.original, ())
    return (
        _point(original, chosen=False),
        *(_point(point, chosen=point is run.chosen) for point in found.frontier),
    )


def _setting(point: AnsweredPoint) -> str:
    return "" if point.setting is None else point.words


def _point(point: AnsweredPoint, *, chosen: bool) -> schema.FrontierPoint:
    behaviour = point.behaviour
    return schema.FrontierPoint(
        layer=point.layer,
        strength=point.strength,
        setting=_setting(point),
        harmful_refusal=behaviour.refusal,
        benign_compliance=behaviour.compliance,
        sounds_harmful_compliance=behaviour.sounds_harmful_compliance,
        degenerate=behaviour.degenerate,
        kl=behaviour.kl,
        chosen=chosen,
    )
