"""The directions a search tries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.direction.calibration import Calibration
from rosi_edge.direction.difference import EACH_LAYERS_OWN
from rosi_edge.edits.keys import Form
from rosi_edge.edits.profile import Profile, Setting
from rosi_edge.models.architectures import WriteMatrix

_MIDDLE = 0.63
"""Depth at which directions and edits usually do most."""
BELOW_GUARDED = -0.2
"""β of guarded requests: they are pushed a little along. Pushed away as benign ones are, or not at all, they
were refused less often on the demo model: a direction of declining shares something with that of refusal."""


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
    return [*single, CandidateDirection(EACH_LAYERS_OWN, vectors, int(_MIDDLE * len(vectors)))]


def default_setting(
    matrices: Sequence[WriteMatrix],
    layers: int,
    directions: Sequence[CandidateDirection],
    *,
    benign_sets: int,
    guarded: bool = False,
    strength: float = 0.5,
) -> Setting:
    """Where a search starts: a plateau over the upper middle of the model.

    Args:
        matrices: those that may be edited.
        layers: of the model.
        benign_sets: how many sets of benign inputs the keys were solved with.
        guarded: whether they were solved with guarded ones besides.
    """
    center = float(np.clip(0.65 * layers, matrices[0].block, matrices[-1].block))
    plateau = Profile(center, max(0.16 * layers, 0.5))
    middle = min(directions, key=lambda candidate: abs(candidate.layer - _MIDDLE * layers))
    below = (*(0.25, 0.1)[:benign_sets], *([BELOW_GUARDED] if guarded else []))
    return Setting(middle.name, Form.RIDGE, plateau, plateau, below=below, strength=strength)


HOLES_TRIED = 2
