"""The directions a search tries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rosi_edge.abliteration import find_holes
from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.calibration import Calibration, Keys
from rosi_edge.direction.difference import EACH_LAYERS_OWN
from rosi_edge.edits.profile import Setting, conditional_edits
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights

MIDDLE = 0.63
"""Depth at which directions and edits usually do most."""
_HOLES_TRIED = 2


@dataclass(frozen=True)
class CandidateDirection:
    """A direction that the search may take.

    Attributes:
        vector: unit vector, (hidden,), or one a layer, (layers, hidden).
        layer: the block it was taken after; a middle one for one found in the weights, or one a layer.
    """

    name: str
    vector: Float32
    layer: int


@dataclass(frozen=True)
class Editable:
    """What a search may edit, and along what."""

    weights: Weights
    matrices: Sequence[WriteMatrix]
    directions: Sequence[CandidateDirection]

    def direction(self, setting: Setting) -> CandidateDirection:
        return next(candidate for candidate in self.directions if candidate.name == setting.direction)

    def edits(self, setting: Setting, keys: Keys) -> tuple[RankOneEdit, ...]:
        """The edits of a setting at strength one."""
        vector = self.direction(setting).vector
        return conditional_edits(self.weights, self.matrices, keys, vector, setting)


def layer_candidates(calibration: Calibration, layer: int | None) -> list[CandidateDirection]:
    """The directions of the layers worth trying: the given one, or about ten of the middle and upper ones."""
    vectors = calibration.directions.vectors
    layers = len(vectors)
    chosen = [layer] if layer is not None else range(int(0.4 * layers), int(0.85 * layers) + 1, 1)
    step = max(1, -(-len(chosen) // 10))
    return [CandidateDirection(f"layer {number}", vectors[number], number) for number in chosen[::step]]


def direction_candidates(calibration: Calibration, layer: int | None) -> list[CandidateDirection]:
    """The measured directions that a search tries: those of ``layer_candidates``, and unless a layer is given
    each layer's own in its place."""
    single = layer_candidates(calibration, layer)
    if layer is not None:
        return single
    vectors = calibration.directions.vectors
    return [*single, CandidateDirection(EACH_LAYERS_OWN, vectors, int(MIDDLE * len(vectors)))]


def hole_candidates(
    weights: Weights, matrices: Sequence[WriteMatrix], progress: Progress = SILENT
) -> tuple[list[CandidateDirection], list[str]]:
    """Directions that the weights avoid: what an ablated model cannot write cannot be measured in its
    activations. An eigenvector's sign is open, so both are candidates.

    Returns:
        also a sentence about each.
    """
    found = find_holes(weights, matrices, progress=progress).holes
    holes = [hole for hole in found if hole.space == "stream"][:_HOLES_TRIED]
    sentences = [
        f"The weights of layers {hole.layers[0]} to {hole.layers[-1]} avoid one direction (energy ratio "
        f"{hole.energy_ratio:.2f}, confidence {hole.confidence:.3f}): signs of abliteration."
        for hole in holes
    ]
    for sentence in sentences:
        progress.note(sentence)
    candidates = [
        CandidateDirection(
            f"hole {number} {name}",
            (sign * hole.direction).astype(np.float32),
            hole.layers[len(hole.layers) // 2],
        )
        for number, hole in enumerate(holes, start=1)
        for name, sign in (("+", 1), ("−", -1))
    ]
    return candidates, sentences
