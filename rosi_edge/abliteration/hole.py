"""What a search of the weights finds, and when two findings are one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rosi_edge.basics.arrays import Float32

Family = Literal["mlp", "other"]
"""Feed-forward outputs, experts' included, or those of attention and other mixers of tokens."""

Space = Literal["stream", "output"]
"""Where a direction lives: in the residual stream, or in the matrices' own output before a norm with a gain.
The two differ only where such a norm stands between (Gemma 2 and 3, OLMo 2, GLM 4); whoever ablates these may
have minded the gain or not, so both are looked at."""


@dataclass(frozen=True)
class Hole:
    """A direction that some layers do not write.

    Attributes:
        direction: unit vector, (hidden,); its sign means nothing.
        layers: the layers that avoid it, ascending.
        matrices: of which outputs these layers avoid it.
        energy_ratio: energy written along it over that of a typical direction (the geometric mean of the
            eigenvalues), in those layers. 0 is a perfect hole, 1 none.
        gap: natural logarithm of the next direction's energy over this one's.
        noise_ratio: energy along it over what rounding alone leaves: about 1 after a full ablation. None
            where the file's type does not tell.
        confidence: probability that no untouched file shows this (:mod:`rosi_edge.abliteration.confidence`).
        space: where the direction lives.
        by_noise: found as a direction with nothing but rounding noise; otherwise as one far below the others.
    """

    direction: Float32 = field(repr=False)
    layers: tuple[int, ...]
    energy_ratio: float
    gap: float
    noise_ratio: float | None
    confidence: float
    space: Space = "stream"
    by_noise: bool = False
    matrices: tuple[Family, ...] = ("mlp",)


@dataclass(frozen=True)
class Holes:
    """What was found.

    Attributes:
        holes: the surest and widest first; empty for a file that looks untouched.
        candidates: the lowest direction of every window that was looked at, sure or not, the surest first.
        smallest: the smallest eigenvalue over all layers, relative to the typical one.
        columns: how many columns of each matrix were looked at, at most.
    """

    holes: tuple[Hole, ...]
    candidates: tuple[Hole, ...]
    smallest: float
    columns: int


def distinct(holes: Sequence[Hole]) -> list[Hole]:
    """One entry a direction and family: what a surer or wider hole already explains is left out."""
    kept: list[Hole] = []
    for hole in holes:
        if not any(_explains(other, hole) for other in kept):
            family = [i for i, other in enumerate(kept) if other.matrices == hole.matrices]
            _merge(kept, hole, family)
    return kept


def joined(holes: Sequence[Hole]) -> list[Hole]:
    """One entry a direction: what was taken out of both families was found in each."""
    kept: list[Hole] = []
    for hole in holes:
        _merge(kept, hole, range(len(kept)))
    return kept


def _merge(kept: list[Hole], hole: Hole, among: Iterable[int]) -> None:
    """Add the hole's layers and matrices to the one among these with the same direction, or the hole."""
    for index in among:
        if _same(kept[index], hole, 0.9):
            layers = tuple(sorted({*kept[index].layers, *hole.layers}))
            matrices = tuple(dict.fromkeys((*kept[index].matrices, *hole.matrices)))
            kept[index] = replace(kept[index], layers=layers, matrices=matrices)
            return
    kept.append(hole)


def _same(one: Hole, other: Hole, cosine: float) -> bool:
    return one.space == other.space and abs(float(one.direction @ other.direction)) >= cosine


def _explains(wide: Hole, narrow: Hole) -> bool:
    """The narrow one lies in the wide one's layers and shows much the same direction of the same outputs."""
    within = set(narrow.layers) <= set(wide.layers) and narrow.matrices == wide.matrices
    return within and _same(wide, narrow, 0.7)
