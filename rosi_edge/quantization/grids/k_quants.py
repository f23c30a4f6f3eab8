"""Blocks of 256 with scaled scales: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K (block_q2_K and so on in ggml-common.h)."""

from __future__ import annotations

import numpy as np

from rosi_edge.basics.arrays import Bytes, Float32
from rosi_edge.quantization.grids.base import Values
from rosi_edge.quantization.grids.bits import BitField
from rosi_edge.quantization.grids.blocks import half
from rosi_edge.quantization.grids.packed import PackedGrid


def _q2_k_scales(blocks: Bytes) -> tuple[Float32, Float32]:
    packed = blocks[:, :16]
    step = half(blocks, 80) * (packed & np.uint8(0x0F))
    return step, -(half(blocks, 82) * (packed >> np.uint8(4)))


def _q3_k_scales(blocks: Bytes) -> tuple[Float32, None]:
    # Sixteen scales of 6 bits: four in the nibbles of eight bytes, two in the bit pairs of the next four.
    low = BitField(96, groups=1, lanes=8, shifts=(0, 4), width=4).unpack(blocks)
    high = BitField(104, groups=1, lanes=4, shifts=(0, 2, 4, 6), width=2).unpack(blocks)
    scales = (low | (high << np.uint8(4))).view(np.int8) - np.int8(32)
    return half(blocks, 108) * scales, None


def _q4_k_scales(blocks: Bytes) -> tuple[Float32, Float32]:
    # Eight scales and eight minima of 6 bits in twelve bytes; the top bits of the last four of each lie
    # above the first four (get_scale_min_k4 in ggml-quants.c).
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    low, high = np.uint8(0x0F), np.uint8(0x30)
    scales = np.concatenate([first & 0x3F, (rest & low) | ((first >> 2) & high)], axis=1)
    minima = np.concatenate([second & 0x3F, (rest >> 4) | ((second >> 2) & high)], axis=1)
    return half(blocks, 0) * scales, -(half(blocks, 2) * minima)


def _q6_k_scales(blocks: Bytes) -> tuple[Float32, None]:
    return half(blocks, 208) * blocks[:, 192:208].view(np.int8), None


_PAIRS = (0, 2, 4, 6)
_BITS = tuple(range(8))

Q2_K = PackedGrid(84, (BitField(16, 2, 32, _PAIRS, 2),), _q2_k_scales, Values(0, 3))
Q3_K = PackedGrid(
    110,
    (BitField(32, 2, 32, _PAIRS, 2), BitField(0, 1, 32, _BITS, 1)),
    _q3_k_scales,
    Values(-4, 3),
    bias=-4,
)
Q4_K = PackedGrid(144, (BitField(16, 4, 32, (0, 4), 4),), _q4_k_scales, Values(0, 15))
Q5_K = PackedGrid(
    176, (BitField(48, 4, 32, (0, 4), 4), BitField(16, 1, 32, _BITS, 1)), _q4_k_scales, Values(0, 31)
)
Q6_K = PackedGrid(
    210,
    (BitField(0, 2, 64, (0, 4), 4), BitField(128, 2, 32, _PAIRS, 2)),
    _q6_k_scales,
    Values(-32, 31),
    bias=-32,
)
