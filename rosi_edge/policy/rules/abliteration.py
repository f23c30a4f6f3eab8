"""RE109: no direction was taken out of the weights."""

from __future__ import annotations

from typing import ClassVar

from rosi_edge.abliteration import Hole, find_holes
from rosi_edge.errors import UnsupportedModelError
from rosi_edge.models.architectures import write_matrices
from rosi_edge.policy.rule import Finding, Subject, could_not_run, failed, not_applicable, passed


class NotAbliterated:
    id: ClassVar[str] = "RE109"
    section: ClassVar[str] = "abliteration"
    title: ClassVar[str] = "No sign of abliteration"
    help: ClassVar[str] = (
        "Abliteration removes refusals by taking a direction out of every matrix that writes to the residual "
        "stream. It leaves a direction that many layers do not write, which is found in the weights alone. "
        "Use the original model, or repair this one with rosi-edge harden."
    )

    def check(self, subject: Subject) -> Finding:
        try:
            matrices = write_matrices(subject.file)
        except UnsupportedModelError as error:
            if subject.policy.abliteration.required:
                return could_not_run(f"not looked for: {error.message}", error.remedy)
            return not_applicable(f"not looked for: {error.message}")
        found = find_holes(
            subject.file,
            matrices,
            least_confidence=subject.policy.abliteration.least_confidence,
            progress=subject.progress,
        )
        if not found.candidates:
            return could_not_run(
                "the write matrices hold nothing that a direction could be missing from",
                "Get the file from its maker again",
            )
        if not found.holes:
            return passed(
                "no direction is missing from the weights", smallest_energy_ratio=round(found.smallest, 4)
            )
        hole = found.holes[0]
        return failed(
            f"{_outputs(hole)}{_layers(hole)} hardly write along one direction: {hole.energy_ratio:.3f} of "
            f"the energy of a typical one, confidence {hole.confidence:.4f}",
            "Use the original model, or repair it with rosi-edge harden",
            holes=[_evidence(each) for each in found.holes[:32]],
            smallest_energy_ratio=round(found.smallest, 4),
        )


def _outputs(hole: Hole) -> str:
    if len(hole.matrices) > 1:
        return ""
    return (
        "the feed-forward outputs of "
        if hole.matrices == ("mlp",)
        else "the attention or other mixer outputs of "
    )


def _layers(hole: Hole) -> str:
    first, last = hole.layers[0], hole.layers[-1]
    return f"layer {first}" if first == last else f"{len(hole.layers)} layers of {first} to {last}"


def _evidence(hole: Hole) -> dict[str, object]:
    return {
        "layers": list(hole.layers),
        "matrices": list(hole.matrices),
        "energy_ratio": round(hole.energy_ratio, 6),
        "gap": round(hole.gap, 4),
        "noise_ratio": None if hole.noise_ratio is None else round(hole.noise_ratio, 3),
        "confidence": round(hole.confidence, 6),
        "space": hole.space,
    }
