"""What a hardening run finds on its way, for whoever wants to draw it while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rosi_edge.baking.measure import BakedTensor
from rosi_edge.direction.difference import LayerSeparation
from rosi_edge.search.result import Tried


def _ignore(event: object) -> None:
    pass


@dataclass(frozen=True)
class Events:
    """Listeners, called from the working thread.

    Attributes:
        separation: a layer's separation is known.
        tried: a point of the search has been measured.
        baked: a matrix has been rounded into the new file, in the order of the file.
    """

    separation: Callable[[LayerSeparation], None] = _ignore
    tried: Callable[[Tried], None] = _ignore
    baked: Callable[[BakedTensor], None] = _ignore
