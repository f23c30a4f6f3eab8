"""Blocks of 32 with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 (block_q4_0 and so on in ggml-common.h)."""

from __future__ import annotations

from rosi_edge.basics.arrays import Bytes, Float32
from rosi_edge.quantization.grids.base import Values
from rosi_edge.quantization.grids.bits import BitField
from rosi_edge.quantization.grids.blocks import half
from rosi_edge.quantization.grids.packed import PackedGrid


def _scale(blocks: Bytes) -> tuple[Float32, None]:
    return half(blocks, 0), None


def _scale_and_minimum(blocks: Bytes) -> tuple[Float32, Float32]:
    return half(blocks, 0), half(blocks, 2)


def _nibbles(start: int) -> BitField:
    return BitField(start, groups=1, lanes=16, shifts=(0, 4), width=4)


def _fifth_bits(start: int) -> BitField:
    return BitField(start, groups=4, lanes=1, shifts=tuple(range(8)), width=1)


Q4_0 = PackedGrid(18, (_nibbles(2),), _scale, Values(-8, 7), bias=-8)
Q4_1 = PackedGrid(20, (_nibbles(4),), _scale_and_minimum, Values(0, 15))
Q5_0 = PackedGrid(22, (_nibbles(6), _fifth_bits(2)), _scale, Values(-16, 15), bias=-16)
Q5_1 = PackedGrid(24, (_nibbles(8), _fifth_bits(4)), _scale_and_minimum, Values(0, 31))
# ggml's quantizer never makes −128 and some of its kernels have no room for it, so neither is it chosen here.
Q8_0 = PackedGrid(
    34,
    (BitField(2, groups=1, lanes=32, shifts=(0,), width=8),),
    _scale,
    Values(-127, 127),
    bias=-128,
    flip=0x80,
)
