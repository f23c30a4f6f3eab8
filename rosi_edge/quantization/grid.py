"""Which block formats are grids, and what to do about those that are not."""

from __future__ import annotations

from typing import Final

import gguf

from rosi_edge.errors import UnsupportedModelError
from rosi_edge.quantization.grids import floats, k_quants, legacy, tables, ternary
from rosi_edge.quantization.grids.base import BlockGrid, Grid, Values

__all__ = [
    "BlockGrid",
    "Grid",
    "Values",
    "can_rescale",
    "grid_of",
    "larger_types",
    "promotion_for",
    "supported_grids",
]

_Kind = gguf.GGMLQuantizationType

_GRIDS: Final[dict[gguf.GGMLQuantizationType, BlockGrid]] = {
    _Kind.F32: floats.F32,
    _Kind.F16: floats.F16,
    _Kind.BF16: floats.BF16,
    _Kind.Q4_0: legacy.Q4_0,
    _Kind.Q4_1: legacy.Q4_1,
    _Kind.Q5_0: legacy.Q5_0,
    _Kind.Q5_1: legacy.Q5_1,
    _Kind.Q8_0: legacy.Q8_0,
    _Kind.Q2_K: k_quants.Q2_K,
    _Kind.Q3_K: k_quants.Q3_K,
    _Kind.Q4_K: k_quants.Q4_K,
    _Kind.Q5_K: k_quants.Q5_K,
    _Kind.Q6_K: k_quants.Q6_K,
    _Kind.IQ4_NL: tables.IQ4_NL,
    _Kind.IQ4_XS: tables.IQ4_XS,
    _Kind.MXFP4: tables.MXFP4,
    _Kind.TQ1_0: ternary.TQ1_0,
    _Kind.TQ2_0: ternary.TQ2_0,
}

_LADDER: Final = (
    _Kind.Q2_K,
    _Kind.Q3_K,
    _Kind.IQ4_XS,
    _Kind.Q4_K,
    _Kind.IQ4_NL,
    _Kind.Q5_K,
    _Kind.Q5_0,
    _Kind.Q6_K,
    _Kind.Q8_0,
    _Kind.F16,
    _Kind.F32,
)
"""Types to promote to, by size: general-purpose grids that ggml can quantize to without an importance matrix.
The ternary ones are missing because ordinary weights do not survive them."""


_WITHOUT_ROOM: Final = frozenset({_Kind.F32, _Kind.F16, _Kind.BF16, _Kind.TQ1_0, _Kind.TQ2_0})


def supported_grids() -> frozenset[gguf.GGMLQuantizationType]:
    """The types that ``grid_of`` knows."""
    return frozenset(_GRIDS)


def grid_of(kind: gguf.GGMLQuantizationType) -> BlockGrid:
    """The grid of a tensor type.

    Raises:
        UnsupportedModelError: the type picks groups of weights from a codebook (IQ1 to IQ3), or is unknown.
    """
    try:
        return _GRIDS[kind]
    except KeyError:
        pass
    try:
        promotion = promotion_for(kind)
    except UnsupportedModelError:
        raise UnsupportedModelError(
            f"tensors of type {kind.name} cannot be changed", "Use a file with another quantization"
        ) from None
    why = "; its weights come in groups from a codebook" if kind.name.startswith("IQ") else ""
    raise UnsupportedModelError(
        f"tensors of type {kind.name} cannot hold a small change{why}",
        f"Store the changed tensors as {promotion.name} with --promote {promotion.name}, "
        "or use a file with another quantization",
    )


def can_rescale(kind: gguf.GGMLQuantizationType) -> bool:
    """Whether a tensor can keep this type and get other scales: a grid that has scales, and that ordinary
    weights survive."""
    return kind in _GRIDS and kind not in _WITHOUT_ROOM


def promotion_for(kind: gguf.GGMLQuantizationType, columns: int | None = None) -> gguf.GGMLQuantizationType:
    """The smallest type with a grid and more bits a weight than ``kind``.

    Args:
        kind: what the tensor is now.
        columns: of the tensor, to pass over types whose blocks do not divide it; None for no such tensor.

    Raises:
        UnsupportedModelError: there is none.
    """
    larger = larger_types(kind, columns)
    if not larger:
        raise UnsupportedModelError(f"there is no larger type than {kind.name} to store a tensor in")
    return larger[0]


def larger_types(
    kind: gguf.GGMLQuantizationType, columns: int | None = None
) -> list[gguf.GGMLQuantizationType]:
    """Types with a grid and more bits a weight than ``kind``, the smallest first.

    Args:
        columns: of the tensor, to pass over types whose blocks do not divide it; None for no such tensor.
    """
    return [
        larger
        for larger in _LADDER
        if _bits(larger) > _bits(kind)
        and (columns is None or columns % gguf.GGML_QUANT_SIZES[larger][0] == 0)
    ]


def _bits(kind: gguf.GGMLQuantizationType) -> float:
    """Bits a weight."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    return float(8 * size / weights)
