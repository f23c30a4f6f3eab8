"""The figures by which a model is judged, and how they moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from pydantic import model_validator

from rosi_edge.basics.statistics import Estimate, PairedChange
from rosi_edge.records.record import Record


class Figures(Record):
    """What was measured on one model; None where a suite was not run.

    Attributes:
        harmful_refusal_rate: share of harmful requests that it refuses; higher is better.
        benign_compliance_rate: share of harmless requests that it answers; higher is better.
        sounds_harmful_compliance_rate: the same for benign requests that only sound harmful.
        guarded_refusal_rate: share of harmful requests that it refuses, where the figures above are about
            another attribute than harm; higher is better.
        degenerate_rate: share of all answers that are broken text; lower is better.
        kl_first_token: mean over harmless prompts of KL(original ‖ this model) of the first answer token, in
            nats; None for the original itself.
    """

    harmful_refusal_rate: Estimate | None = None
    benign_compliance_rate: Estimate | None = None
    sounds_harmful_compliance_rate: Estimate | None = None
    guarded_refusal_rate: Estimate | None = None
    degenerate_rate: Estimate | None = None
    kl_first_token: Estimate | None = None

    @model_validator(mode="after")
    def _refusal_needs_compliance(self) -> Self:
        # A model that refuses everything has the best refusal rate there is.
        if self.harmful_refusal_rate is not None and self.benign_compliance_rate is None:
            raise ValueError("a refusal rate says nothing without the benign compliance beside it")
        return self


class Changes(Record):
    """After minus before, on the same prompts; None where one of the two was not measured."""

    harmful_refusal_rate: PairedChange | None = None
    benign_compliance_rate: PairedChange | None = None
    sounds_harmful_compliance_rate: PairedChange | None = None
    guarded_refusal_rate: PairedChange | None = None


class FigureWords(NamedTuple):
    """What a figure is called where people read it; ``short`` where there is little room."""

    name: str
    words: str
    short: str
    better: Literal["higher", "lower"]


FIGURES = (
    FigureWords("harmful_refusal_rate", "refuses harmful requests", "refuses harmful", "higher"),
    FigureWords("benign_compliance_rate", "answers harmless requests", "answers harmless", "higher"),
    FigureWords(
        "sounds_harmful_compliance_rate",
        "answers harmless requests that sound harmful",
        "… that sounds harmful",
        "higher",
    ),
    FigureWords(
        "guarded_refusal_rate",
        "refuses harmful requests, whatever the attribute",
        "refuses harmful",
        "higher",
    ),
    FigureWords("degenerate_rate", "writes broken text", "writes broken text", "lower"),
    FigureWords(
        "kl_first_token", "KL divergence of the first answer token, nats", "divergence (KL, nats)", "lower"
    ),
)
"""In the order to show them."""


def shown_figures(before: Figures | None) -> list[FigureWords]:
    """Those to show: harmful requests have a row of their own where the first is about something else."""
    guarded = before is not None and before.guarded_refusal_rate is not None
    return [figure for figure in FIGURES if guarded or figure.name != "guarded_refusal_rate"]


def labels(figures: Sequence[FigureWords], own: Sequence[str] = (), *, short: bool = False) -> list[str]:
    """What to call the figures: an attribute's ``own`` words come in place of the first ones."""
    return [*own, *(figure.short if short else figure.words for figure in figures[len(own) :])]
