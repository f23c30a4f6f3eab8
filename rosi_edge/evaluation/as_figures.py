"""Measurements as a report shows them."""

from __future__ import annotations

from rosi_edge.evaluation.behaviour import Behaviour, BehaviourChanges
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.records.facts import PromptSetFacts
from rosi_edge.records.figures import Changes, Figures


def figures(behaviour: Behaviour) -> Figures:
    return Figures(
        harmful_refusal_rate=behaviour.refusal,
        benign_compliance_rate=behaviour.compliance,
        sounds_harmful_compliance_rate=behaviour.sounds_harmful_compliance,
        guarded_refusal_rate=behaviour.guarded_refusal,
        degenerate_rate=behaviour.degenerate,
        kl_first_token=behaviour.kl,
    )


def report_changes(changes: BehaviourChanges) -> Changes:
    return Changes(
        harmful_refusal_rate=changes.refusal,
        benign_compliance_rate=changes.compliance,
        sounds_harmful_compliance_rate=changes.sounds_harmful_compliance,
        guarded_refusal_rate=changes.guarded_refusal,
    )


def prompt_set_facts(sets: RequestSets) -> tuple[PromptSetFacts, ...]:
    return tuple(
        PromptSetFacts.of(prompts) for prompts in (*sets.groups, sets.guarded) if prompts is not None
    )
