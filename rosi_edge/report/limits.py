"""Whether the limits that held while choosing hold on the reporting prompts too."""

from __future__ import annotations

from rosi_edge.records.hardening import HardeningReport
from rosi_edge.report import numbers


def beyond_limits_words(report: HardeningReport) -> str:
    """A sentence on what lies beyond a limit on the reporting prompts, empty where nothing does.

    The choosing prompts chose the edit, so that figures on others tend to be a little worse.
    """
    after, injection = report.after, report.injection
    if after is None:
        return ""
    beyond = []
    compliance, kl = after.benign_compliance_rate, after.kl_first_token
    if compliance is not None and compliance.value < injection.min_compliance:
        beyond.append(
            f"benign compliance is {numbers.percent(compliance.value)} where at least "
            f"{numbers.percent(injection.min_compliance)} was asked for (n = {compliance.n})"
        )
    if injection.max_kl is not None and kl is not None and kl.value > injection.max_kl:
        beyond.append(
            f"the KL divergence is {kl.value:.3f} nats where at most {injection.max_kl:.3f} was (n = {kl.n})"
        )
    if not beyond:
        return ""
    return f"Limits hold on the prompts that chose the edit; on those of this report, {' and '.join(beyond)}."
