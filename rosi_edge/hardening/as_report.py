"""What a hardening run found and did, as its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np

from rosi_edge import __version__
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.basics.statistics import Estimate, proportion
from rosi_edge.direction.difference import Directions
from rosi_edge.evaluation.as_figures import figures, prompt_set_facts, report_changes
from rosi_edge.evaluation.behaviour import Behaviour, Changes
from rosi_edge.evaluation.stress import Stress
from rosi_edge.inspection import Inspection
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.prompts.plan import PromptPlan
from rosi_edge.records import hardening as schema
from rosi_edge.records.facts import (
    EvaluationFacts,
    ModelFacts,
    OutputFile,
    ToolFacts,
)
from rosi_edge.search.result import FrontierPoint, SearchResult


@dataclass(frozen=True)
class RoundingCheck:
    """The file against the exact edit, an adapter, on the choosing prompts.

    Attributes:
        kl: KL(adapter ‖ file) of the first answer token on harmless prompts, nats.
    """

    adapter_refusal: Estimate
    file_refusal: Estimate
    adapter_compliance: Estimate
    file_compliance: Estimate
    kl: Estimate | None


@dataclass(frozen=True)
class Run:
    """Everything a report is made of.

    Attributes:
        matrices: every write matrix of the model.
        max_kl: the limit that held while choosing, nats; None where there was none.
        chosen: None when no point was good enough.
        paper: the best point of the paper's method under the same constraints; None when it was not looked
            for.
        findings: sentences about what was noticed on the way.
    """

    inspection: Inspection
    reference: str
    matrices: Sequence[WriteMatrix]
    prompts: PromptPlan
    judge: str
    max_tokens: int
    method: schema.Method
    max_kl: float | None
    rounding: str
    directions: Directions
    search: SearchResult
    chosen: FrontierPoint | None
    before: Behaviour
    after: Behaviour | None
    changes: Changes | None
    rounding_check: RoundingCheck | None
    stress_before: Stress | None
    stress_after: Stress | None
    baked: Sequence[BakedTensor]
    paper: FrontierPoint | None
    findings: Sequence[str]
    verdict: schema.Verdict
    written: OutputFile | None
    stages: Mapping[str, float]
    seconds: float
    seed: int
    command: str


def hardening_report(run: Run) -> schema.HardeningReport:
    """``report.json``."""
    layer = run.chosen.layer if run.chosen else run.search.frontier[0].layer
    return schema.HardeningReport(
        verdict=run.verdict,
        findings=tuple(run.findings),
        model=ModelFacts.of(run.inspection, run.reference or str(run.inspection.path)),
        output=run.written,
        before=figures(run.before),
        after=figures(run.after) if run.after else None,
        rounding_check=_rounding_check(run),
        stress=_stress(run),
        changes=report_changes(run.changes) if run.changes else None,
        evaluation=EvaluationFacts(
            judge=run.judge,
            max_tokens=run.max_tokens,
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
        timing=schema.Timing(
            stages={stage: round(seconds, 2) for stage, seconds in run.stages.items()},
            total=round(run.seconds, 2),
        ),
        tool=ToolFacts(
            version=__version__,
            llama_cpp_python=version("llama-cpp-python"),
            seed=run.seed,
            command=run.command,
        ),
        generated=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _rounding_check(run: Run) -> schema.RoundingCheck | None:
    check = run.rounding_check
    if check is None:
        return None
    return schema.RoundingCheck(
        adapter_harmful_refusal=check.adapter_refusal,
        file_harmful_refusal=check.file_refusal,
        adapter_benign_compliance=check.adapter_compliance,
        file_benign_compliance=check.file_compliance,
        kl_between=check.kl,
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
            requantized_delivered=tensor.compared.delivered if tensor.compared else None,
            requantized_noise=tensor.compared.noise if tensor.compared else None,
            estimate=tensor.estimate,
        )
        for tensor in baked
    )


def _injection(run: Run) -> schema.Injection:
    tensors = edited_tensors(run.matrices, run.baked)
    return schema.Injection(
        method=run.method,
        rounding=run.rounding,
        setting=run.chosen.setting if run.chosen else "",
        strength=run.chosen.strength if run.chosen else 0.0,
        min_compliance=run.search.floor,
        max_kl=run.max_kl,
        delivered=float(np.mean([t.delivered for t in tensors])) if tensors else None,
        tensors=tensors,
    )


def _frontier(run: Run) -> tuple[schema.FrontierPoint, ...]:
    found = run.search
    layer = run.chosen.layer if run.chosen else found.frontier[0].layer
    original = FrontierPoint(layer, 0.0, found.original, ())
    return (
        _point(original, chosen=False),
        *(_point(point, chosen=point is run.chosen) for point in found.frontier),
    )


def _point(point: FrontierPoint, *, chosen: bool) -> schema.FrontierPoint:
    behaviour = point.behaviour
    return schema.FrontierPoint(
        layer=point.layer,
        strength=point.strength,
        setting=point.setting,
        harmful_refusal=behaviour.refusal,
        benign_compliance=behaviour.compliance,
        sounds_harmful_compliance=behaviour.sounds_harmful_compliance,
        degenerate=behaviour.degenerate,
        kl=behaviour.kl,
        chosen=chosen,
    )
