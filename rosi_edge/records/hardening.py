"""``report.json`` of ``harden`` as data; ``evaluation`` has the JSON of ``eval``.

Keys keep the order in which they are declared here. Fields may be added; ``format`` is raised when one
changes its meaning or goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import model_validator

from rosi_edge.basics.statistics import Estimate
from rosi_edge.direction.difference import Directions, LayerSeparation
from rosi_edge.models.architectures import Kind
from rosi_edge.records.facts import (
    EvaluationFacts,
    ModelFacts,
    OutputFile,
    PromptSetFacts,
    ToolFacts,
)
from rosi_edge.records.figures import Changes, Figures
from rosi_edge.records.record import Record, Text

Method = Literal["rosi", "conditional"]
Status = Literal["hardened", "ineffective", "over_refusing", "degraded"]
_DIRECTION = re.compile(r"(hole \d+ [+−]|[^,+]+?)(?:, | \+ )")
"""What a setting in words begins with."""


class SweepPoint(Record):
    """What one layer's direction did in the layer sweep, at one strength, on the choosing prompts.

    Attributes:
        direction: its name; one found in the weights has a layer only for its place.
        strength: α that the layer was tried at.
        harmful_refusal_score_change: how much likelier a refusal became on harmful prompts, in the units of
            the search's refusal score; harmless likewise.
        kl_first_token: mean KL divergence from the original on harmless prompts, in nats.
    """

    layer: int
    direction: Text = ""
    d_prime: float
    strength: float
    harmful_refusal_score_change: float
    harmless_refusal_score_change: float
    kl_first_token: float


class DirectionFacts(Record):
    """The safety direction and where it comes from.

    Attributes:
        layer: the block after which the direction was taken.
        separation: every layer's.
        sweep: the layers that were tried; empty when the user chose the layer.
        harmful_prompts, harmless_prompts: numbers of prompts behind the means.
        elicitation: the temporary system prompt it was taken under, if any.
        prompt_sets: those it was fitted and the settings chosen on.
    """

    layer: int
    separation: tuple[LayerSeparation, ...]
    sweep: tuple[SweepPoint, ...]
    harmful_prompts: int
    harmless_prompts: int
    elicitation: Text | None
    prompt_sets: tuple[PromptSetFacts, ...]

    @model_validator(mode="after")
    def _layer_is_known(self) -> Self:
        if self.layer not in {entry.layer for entry in self.separation}:
            raise ValueError(f"layer {self.layer} is not among those whose separation was measured")
        return self

    @classmethod
    def of(
        cls,
        directions: Directions,
        layer: int,
        *,
        sweep: tuple[SweepPoint, ...] = (),
        prompt_sets: tuple[PromptSetFacts, ...],
    ) -> Self:
        return cls(
            layer=layer,
            separation=directions.separation,
            sweep=sweep,
            harmful_prompts=directions.positive,
            harmless_prompts=directions.negative,
            elicitation=directions.elicitation,
            prompt_sets=prompt_sets,
        )


class EditedTensor(Record):
    """How much of its edit one write matrix received.

    Attributes:
        delivered: share of the wanted change that the stored codes hold; 1 is all of it, 0 nothing.
        noise: root mean square of what came out differently from what was wanted, in parts of the wanted
            change.
        promoted_from: the type it had before, if that could not hold the edit.
        rescaled: whether its blocks got other scales, because the edit is larger than their steps.
        requantized_delivered, requantized_noise: what plain requantization would have given; in reports up to
            0.1 only.
        estimate: what was delivered, with its interval over the inputs that it was measured on; None where
            they were too few.
    """

    name: Text
    block: int
    kind: Kind
    type: str
    delivered: float
    noise: float
    promoted_from: str | None = None
    rescaled: bool = False
    requantized_delivered: float | None = None
    requantized_noise: float | None = None
    estimate: Estimate | None = None


class Injection(Record):
    """What was done to the weights.

    Attributes:
        rounding: how the edits were put into blocks.
        setting: the chosen point in words.
        direction: the name of its direction, as in the layer sweep.
        strength: α; 0 when no strength was good enough.
        min_compliance: benign compliance on the choosing prompts, 0 … 1, below which no strength was taken.
        max_kl: nats of mean KL divergence there above which none was taken; None without such a limit.
        delivered: mean over the tensors; None when no file was made.
        tensors: empty when no file was made.
    """

    method: Method = "rosi"
    rounding: str = "requantize"
    setting: Text = ""
    direction: Text = ""
    strength: float
    min_compliance: float
    max_kl: float | None = None
    delivered: float | None
    tensors: tuple[EditedTensor, ...]

    @model_validator(mode="before")
    @classmethod
    def _older(cls, values: Any) -> Any:
        # Reports of earlier versions name the direction only in ``setting``, which begins with it. They list
        # the categories that had directions of their own; those that were injected are in ``setting`` too.
        if isinstance(values, Mapping):
            begins = _DIRECTION.match(str(values.get("setting", "")))
            older = {"direction": begins[1]} if begins else {}
            return older | {name: value for name, value in values.items() if name != "further"}
        return values


class FrontierPoint(Record):
    """One setting tried in the search, measured on the choosing prompts. Strength 0 is the original."""

    layer: int
    strength: float
    setting: Text = ""
    harmful_refusal: Estimate
    benign_compliance: Estimate
    sounds_harmful_compliance: Estimate | None = None
    degenerate: Estimate
    kl: Estimate | None
    chosen: bool = False

    def answers_enough(self, min_compliance: float) -> bool:
        # The limit is a difference of two rates, so equality must survive rounding.
        return self.benign_compliance.value >= min_compliance - 1e-12


class RoundingCheck(Record):
    """The file against the exact edit, an adapter, on the choosing prompts.

    Attributes:
        kl_between: KL(adapter ‖ file) of the first answer token on harmless prompts, nats.
    """

    adapter_harmful_refusal: Estimate
    file_harmful_refusal: Estimate
    adapter_benign_compliance: Estimate
    file_benign_compliance: Estimate
    kl_between: Estimate | None


class AttackSuccess(Record):
    """Share of harmful requests that were complied with under one attack."""

    name: Text
    before: Estimate
    after: Estimate | None


class StressTest(Record):
    """A few attacks around a few harmful requests of the reporting set.

    Attributes:
        before, after: mean share of the attacks that succeed on a request.
    """

    requests: int
    attacks: tuple[AttackSuccess, ...]
    before: Estimate
    after: Estimate | None


class Timing(Record):
    """Seconds of wall time, by stage and in all."""

    stages: dict[str, float]
    total: float


class HardeningVerdict(Record):
    """What came of it.

    Attributes:
        reason: why this status, in a sentence.
        advice: what to try next or to mind; empty when there is nothing to say.
    """

    status: Status
    reason: Text
    advice: Text


class TransferredFile(Record):
    """One file that got edits which were found on another form of the model.

    Attributes:
        reference: what the user called it.
        problem: why it could not be done; nothing else is known then.
        output: None when no file was kept.
        verdict, before, after, changes: None when it was not measured.
        delivered: mean over the tensors.
    """

    reference: Text
    problem: Text | None = None
    model: ModelFacts | None = None
    output: OutputFile | None = None
    verdict: HardeningVerdict | None = None
    before: Figures | None = None
    after: Figures | None = None
    changes: Changes | None = None
    rounding: str = ""
    delivered: float | None = None
    tensors: tuple[EditedTensor, ...] = ()
    timing: Timing | None = None


class TransferReport(Record):
    """What ``harden --from`` prints as JSON.

    Attributes:
        source: where the edits came from, as the user called it; ``edits_sha256`` is of the edits themselves.
        generated: when, ISO 8601.
    """

    format: Literal[1] = 1
    source: Text
    edits_sha256: str
    files: tuple[TransferredFile, ...]
    evaluation: EvaluationFacts | None
    tool: ToolFacts
    generated: str


class HardeningReport(Record):
    """``report.json``.

    Attributes:
        output: None when no file was written, or none was kept.
        before, after: the original and the written file, on prompts used for nothing else. ``after`` is
            None when there was nothing to measure.
        rounding_check: what rounding cost.
        stress: a few attacks before and after.
        paper: the best point of the paper's method under the same constraints, on the choosing prompts.
        findings: what was noticed on the way.
        also: further files of the model that got the same edits.
        generated: when, ISO 8601.
    """

    format: Literal[1] = 1
    verdict: HardeningVerdict
    model: ModelFacts
    output: OutputFile | None
    before: Figures
    after: Figures | None
    rounding_check: RoundingCheck | None = None
    stress: StressTest | None = None
    changes: Changes | None
    evaluation: EvaluationFacts
    direction: DirectionFacts
    injection: Injection
    frontier: tuple[FrontierPoint, ...]
    paper: FrontierPoint | None = None
    findings: tuple[Text, ...] = ()
    also: tuple[TransferredFile, ...] = ()
    timing: Timing
    tool: ToolFacts
    generated: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sum(point.chosen for point in self.frontier) > 1:
            raise ValueError("only one point of the frontier can be the chosen one")
        if self.before.kl_first_token is not None:
            raise ValueError("the original does not diverge from itself")
        return self
