"""Which larger types a tensor may get when its own cannot hold an edit."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import gguf

from rosi_edge.errors import RosiEdgeError, UnsupportedModelError
from rosi_edge.models.gguf_header import TensorInfo
from rosi_edge.quantization.grid import larger_types, supported_grids

Promotion: TypeAlias = Literal["never", "auto"] | gguf.GGMLQuantizationType
"""Keep every type, take the smallest one that holds the edit, or this very one."""

NEVER: Final = "never"
AUTO: Final = "auto"


def promotion_of(text: str) -> Promotion:
    """``never``, ``auto`` or a type's name, in upper or lower case.

    Raises:
        RosiEdgeError: no such type, or one without a grid.
    """
    if text.lower() == NEVER:
        return NEVER
    if text.lower() == AUTO:
        return AUTO
    for kind in supported_grids():
        if kind.name == text.upper():
            return kind
    raise RosiEdgeError(
        f"tensors cannot be promoted to {text[:40]!r}",
        f"Choose auto, never or one of {', '.join(sorted(kind.name for kind in supported_grids()))}",
    )


def types_to_try(tensor: TensorInfo, promotion: Promotion) -> list[gguf.GGMLQuantizationType]:
    """The types that a tensor may get besides its own, the smallest first.

    Raises:
        UnsupportedModelError: the type asked for is no larger, or the tensor's rows do not fit into it.
    """
    if promotion == NEVER or len(tensor.shape) != 2:
        # Of stacked experts most are not edited, and another type would change them all.
        return []
    larger = larger_types(tensor.type, tensor.shape[-1])
    if promotion == AUTO:
        return larger
    if promotion == tensor.type:
        return []
    weights, size = gguf.GGML_QUANT_SIZES[promotion]
    own_weights, own_size = gguf.GGML_QUANT_SIZES[tensor.type]
    if size * own_weights <= own_size * weights:
        raise UnsupportedModelError(
            f"{tensor.name} is stored as {tensor.type.name}, and {promotion.name} is no larger",
            "Choose a larger type, or --promote auto",
        )
    if tensor.shape[-1] % weights:
        raise UnsupportedModelError(
            f"{tensor.name} has rows of {tensor.shape[-1]} values, which {promotion.name} cannot store",
            f"Choose one of {', '.join(kind.name for kind in larger)}, or --promote auto",
        )
    return [promotion]
