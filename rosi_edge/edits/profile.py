"""How strongly each layer is edited: a smooth profile over depth, for attention and MLP writes apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.edits.keys import Form, Key
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import write_direction
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights, matrix_name

_EDGE = 0.5
"""Layers over which the profile falls from nearly one to nearly nothing, in halves."""
_LEAST_WEIGHT = 0.15
"""A matrix with less is left alone: its edit would be mostly rounding, or need a larger type to hold it."""


@dataclass(frozen=True)
class Profile:
    """A plateau with smooth edges.

    Attributes:
        center, width: of the plateau, in blocks; it reaches ``width`` to both sides of ``center``.
        weight: its height.
    """

    center: float
    width: float
    weight: float = 1.0

    def at(self, block: int) -> float:
        """The weight of a block, 0 … ``weight``."""
        inside = (self.width - abs(block - self.center)) / _EDGE
        return float(self.weight / (1 + np.exp(-2 * inside)))


@dataclass(frozen=True)
class Setting:
    """One point of the search.

    Attributes:
        direction: the name of a candidate direction, such as ``layer 15``.
        below: β for each set of inputs but the positive one; negative where they are to be pushed along.
        strength: α.
    """

    direction: str
    form: Form
    attention: Profile
    mlp: Profile
    below: tuple[float, ...]
    strength: float

    def at(self, strength: float) -> Setting:
        return replace(self, strength=strength)

    def describe(self) -> str:
        parts = [
            f"{name} {p.center - p.width:.0f}–{p.center + p.width:.0f} × {p.weight:.2f}"
            for name, p in (("attention", self.attention), ("MLP", self.mlp))
        ]
        below = "/".join(f"{share:.2f}" for share in self.below)
        return f"{self.direction}, {self.form}, {', '.join(parts)}, β {below}, strength {self.strength:.3f}"


def conditional_edits(
    file: Weights,
    matrices: Sequence[WriteMatrix],
    keys: Mapping[str, Mapping[Form, Key]],
    direction: Float32,
    setting: Setting,
) -> tuple[RankOneEdit, ...]:
    """The edits of a setting at strength one.

    Args:
        keys: by ``RankOneEdit.matrix``; matrices without a key are not edited.
        direction: unit vector, (hidden,), or one a layer, (layers, hidden).
    """
    edits = []
    for matrix in matrices:
        profile = setting.mlp if matrix.kind == "mlp" else setting.attention
        weight = profile.at(matrix.block)
        known = [expert for expert in matrix.parts if matrix_name(matrix.name, expert) in keys]
        if known and weight >= _LEAST_WEIGHT:
            along = direction if direction.ndim == 1 else direction[matrix.block]
            output = write_direction(file, matrix, along)
            for expert in known:
                key = keys[matrix_name(matrix.name, expert)][setting.form].at(setting.below)
                edits.append(RankOneEdit(matrix.name, output, key * np.float32(weight), expert))
    return tuple(edits)
