"""What rounding cost: the file against the exact edit, an adapter, on the choosing prompts."""

from __future__ import annotations

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.statistics import mean
from rosi_edge.evaluation.behaviour import Behaviour, measure_behaviour
from rosi_edge.evaluation.divergence import kl_divergence
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.records.hardening import RoundingCheck
from rosi_edge.runtime.engine import Engine


def check_rounding(
    engine: Engine,
    exact: Behaviour,
    sets: RequestSets,
    judge: Judge,
    *,
    max_tokens: int,
    progress: Progress = SILENT,
) -> RoundingCheck:
    """Measure a running file on the prompts that the search measured the exact edit on.

    Returns:
        with KL(adapter ‖ file) of the first answer token on harmless prompts, nats.
    """
    file = measure_behaviour(
        engine,
        RequestSets(sets.harmful, sets.harmless),
        judge,
        max_tokens=max_tokens,
        progress=progress,
        title="Hardened file on the choosing prompts",
    )
    kl = None
    if exact.first_logprobs is not None and file.first_logprobs is not None:
        kl = mean([float(v) for v in kl_divergence(exact.first_logprobs, file.first_logprobs)])
    return RoundingCheck(
        adapter_harmful_refusal=exact.refusal,
        file_harmful_refusal=file.refusal,
        adapter_benign_compliance=exact.compliance,
        file_benign_compliance=file.compliance,
        kl_between=kl,
    )
