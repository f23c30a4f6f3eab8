"""How edits are put into a file: one object for whoever bakes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rosi_edge.basics.arrays import Float32
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.models.rewrite import NewValue
from rosi_edge.quantization.promotion import NEVER, Promotion
from rosi_edge.quantization.rounding import Rounding


@dataclass(frozen=True)
class BakeSettings:
    """What is the same for all tensors of a bake.

    Attributes:
        rounding: how changed rows become blocks.
        probes: for each edited matrix (``RankOneEdit.matrix``) real inputs, (n, columns), to measure what
            arrived; others than the rounding was fitted to.
        metadata: keys to add.
        aims: for each edited matrix further real inputs, neither the rounding's nor the probes: what the
            first rounding delivers too little or too much on them is made good in a second one.
        min_delivered: the share of its push that each edit must deliver; None for any.
        promotion: which larger types a tensor of a GGUF file may get that does not deliver it; a checkpoint
            keeps its types.
        declared: what the edits are a corrected form of, one for each and with its output; where they differ
            a GGUF file declares both. None for the edits themselves.
        stop: set when nobody waits for the tensors any more.
    """

    rounding: Rounding
    probes: Mapping[str, Float32]
    metadata: Mapping[str, NewValue] = field(default_factory=dict)
    aims: Mapping[str, Float32] = field(default_factory=dict)
    min_delivered: float | None = None
    promotion: Promotion = NEVER
    declared: Sequence[RankOneEdit] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
