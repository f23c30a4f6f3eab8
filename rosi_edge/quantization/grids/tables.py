"""Four-bit codes into a table of uneven values: IQ4_NL, IQ4_XS, MXFP4 (kvalues_* in ggml-common.h)."""

from __future__ import annotations

import numpy as np

from rosi_edge.basics.arrays import Bytes, Float32
from rosi_edge.quantization.grids.base import Values
from rosi_edge.quantization.grids.bits import BitField
from rosi_edge.quantization.grids.blocks import half
from rosi_edge.quantization.grids.packed import PackedGrid

_IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)
_IQ4 = Values(0, 15, _IQ4_VALUES)

# Twice the values of E2M1 (OCP Microscaling Formats 1.0), in stored order; zero is there with either sign.
_E2M1_STORED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.float32)
_E2M1_VALUES, _E2M1_RANKS = np.unique(_E2M1_STORED, return_inverse=True)
_E2M1 = Values(0, len(_E2M1_VALUES) - 1, _E2M1_VALUES)


def _iq4_nl_scale(blocks: Bytes) -> tuple[Float32, None]:
    return half(blocks, 0), None


def _iq4_xs_scales(blocks: Bytes) -> tuple[Float32, None]:
    # Eight scales of 6 bits: bit pairs in two bytes above nibbles in four.
    high = BitField(2, groups=2, lanes=1, shifts=(0, 2, 4, 6), width=2).unpack(blocks)
    low = BitField(4, groups=4, lanes=1, shifts=(0, 4), width=4).unpack(blocks)
    scales = (low | (high << np.uint8(4))).view(np.int8) - np.int8(32)
    return half(blocks, 0) * scales, None


def _mxfp4_scale(blocks: Bytes) -> tuple[Float32, None]:
    # Half of the power of two 2^(e − 127), because the table is doubled; the two smallest are subnormal.
    exponent = blocks[:, :1].astype(np.uint32)
    bits = np.where(exponent < 2, np.uint32(0x00200000) << exponent, (exponent - 1) << np.uint32(23))
    return bits.astype(np.uint32).view(np.float32), None


IQ4_NL = PackedGrid(18, (BitField(2, 1, 16, (0, 4), 4),), _iq4_nl_scale, _IQ4)
IQ4_XS = PackedGrid(136, (BitField(8, 8, 16, (0, 4), 4),), _iq4_xs_scales, _IQ4)
MXFP4 = PackedGrid(
    17, (BitField(1, 1, 16, (0, 4), 4),), _mxfp4_scale, _E2M1, ranks=_E2M1_RANKS.astype(np.int8)
)
