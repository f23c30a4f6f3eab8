"""Where the tensors of a file lie once some of them have another type, and so another size.

Both the writer and the verifier ask here, so that a file is checked against one rule: tensors keep their
order, what follows a tensor in the old file follows it in the new one, and where a tensor's type changed
its bytes are padded with zeros to the alignment.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import gguf

from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import TensorInfo, align

Types = Mapping[str, gguf.GGMLQuantizationType]
"""New types of some tensors by name."""


@dataclass(frozen=True)
class Run:
    """Neighbouring bytes of a file, counted from its start.

    ``tensor`` is None for bytes that are copied as they are. Otherwise they belong to a tensor that may
    change, the padding behind it included.
    """

    start: int
    end: int
    tensor: TensorInfo | None = None


def tensor_size(shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> int:
    """Bytes of a tensor. Raises ValueError when its rows do not fit into the type's blocks."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % weights:
        raise ValueError(f"rows of {shape[-1]} values cannot be stored as {kind.name}")
    return math.prod(shape) // int(weights) * int(size)


def runs(source: GgufFile, touched: Collection[str]) -> Iterator[Run]:
    """The bytes after the header of one file, in order.

    Args:
        touched: tensors that may change; those of a model's other parts are passed over.
    """
    position = source.data_offset
    for tensor in sorted(source.own_tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.name not in touched:
            continue
        if position < tensor.offset:
            yield Run(position, tensor.offset)
        # The last tensor of a file need not be padded.
        position = max(min(align(tensor.end, source.alignment), source.size), tensor.end)
        yield Run(tensor.offset, position, tensor)
    if position < source.size:
        yield Run(position, source.size)


def tensor_table(source: GgufFile, types: Types) -> bytes:
    """The tensor table of one file with some types changed and the offsets that follow from them."""
    if not types.keys() & source.own_tensors.keys():
        return source.raw(*source.tensor_table)
    offsets: dict[str, int] = {}
    shift = 0
    for tensor in sorted(source.own_tensors.values(), key=lambda tensor: tensor.offset):
        offsets[tensor.name] = tensor.offset - source.data_offset + shift
        kind = types.get(tensor.name, tensor.type)
        if kind != tensor.type:
            size = tensor_size(tensor.shape, kind)
            shift += align(size, source.alignment) - align(tensor.size, source.alignment)
    entries = []
    for tensor in source.own_tensors.values():
        name = tensor.name.encode("utf-8")
        extents = tuple(reversed(tensor.shape))
        entries.append(
            struct.pack("<Q", len(name))
            + name
            + struct.pack(
                f"<I{len(extents)}QIQ",
                len(extents),
                *extents,
                types.get(tensor.name, tensor.type),
                offsets[tensor.name],
            )
        )
    return b"".join(entries)
