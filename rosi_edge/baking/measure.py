"""What a baked tensor holds of its edit: delivered share, noise, and their interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.statistics import Estimate, ratio_of_sums
from rosi_edge.edits.rank_one import RankOneEdit


@dataclass(frozen=True)
class Arrival:
    """How an edit arrived.

    Attributes:
        delivered: share of the wanted push that the file's weights give: the slope of the delivered push
            along the edit's output against the wanted one, over probe inputs. 1 is all of it.
        noise: what came out differently from what was wanted, as root mean square over the probe inputs, in
            parts of the wanted change. 0 is none; an edit that was lost whole leaves 1.
        estimate: what was delivered, with its interval over the probe inputs; None for too few of them.
    """

    delivered: float
    noise: float
    estimate: Estimate | None = None


@dataclass(frozen=True)
class BakedTensor:
    """What became of the edits of one matrix.

    Attributes:
        name: the tensor's, and of an expert also its number.
        type: the type it has in the new file.
        delivered: see ``Arrival``.
        noise: see ``Arrival``.
        promoted_from: the type it had, if that could not hold the edit.
        rescaled: whether its blocks got other scales, because the edit is larger than their steps.
        aim: how much of the edit was asked for, so that all of it arrives.
        estimate: see ``Arrival``.
    """

    name: str
    type: str
    delivered: float
    noise: float
    promoted_from: str | None = None
    aim: float = 1.0
    rescaled: bool = False
    estimate: Estimate | None = None


class Measure:
    """Adds up, rows by rows, what a changed matrix does to probe inputs."""

    def __init__(self, edits: Sequence[RankOneEdit], probe: Float32) -> None:
        self._probe = probe
        self._outputs = np.stack([edit.output for edit in edits], axis=1)  # (rows, k)
        # (n, k): what each aᵀx should add along its output vector.
        self._wanted = probe @ np.stack([edit.input for edit in edits], axis=1)
        self._projected = np.zeros(self._wanted.shape)
        self._squared_change = 0.0

    def add(self, part: slice, moved: Float32) -> None:
        outputs = self._probe @ moved.T  # (n, rows of this part)
        self._projected += outputs @ self._outputs[part]
        self._squared_change += float(np.square(outputs, dtype=np.float64).sum())

    def figures(self) -> Arrival:
        wanted = self._wanted.astype(np.float64)
        outputs = self._outputs.astype(np.float64)
        each_along = np.einsum("nk,nk->n", self._projected, wanted)
        each_square = np.einsum("nk,kj,nj->n", wanted, outputs.T @ outputs, wanted, optimize=True)
        along, square = float(each_along.sum()), float(each_square.sum())
        if not square > 0:
            return Arrival(0.0, 0.0)
        # ‖Δx − Σ s·aᵀx‖² summed over the probes, expanded so that no (n, rows) array of all rows is needed.
        noise_square = self._squared_change - 2 * along + square
        return Arrival(
            along / square,
            float(np.sqrt(max(noise_square, 0.0) / square)),
            ratio_of_sums(each_along, each_square),
        )
