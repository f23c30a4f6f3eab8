"""What is the same for all tensors of a bake."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from rosi_edge.basics.arrays import Float32
from rosi_edge.quantization.promotion import NEVER, Promotion
from rosi_edge.quantization.rounding import Rounding


@dataclass(frozen=True)
class Settings:
    """What is the same for all tensors of a bake; see ``bake``."""

    rounding: Rounding
    probes: Mapping[str, Float32]
    aims: Mapping[str, Float32]
    min_delivered: float | None = None
    promotion: Promotion = NEVER
    compare: Rounding | None = None
    stop: threading.Event = field(default_factory=threading.Event)
