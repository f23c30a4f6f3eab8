"""What a hardening run finds on its way, for whoever wants to draw it while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rosi_edge.bake import BakedTensor
from rosi_edge.direction import LayerSeparation


@dataclass(frozen=True)
class Tried:
    """One point of the search.

    Attributes:
        setting: in words.
        layer: of the direction.
        refusal: share of harmful prompts refused.
        compliance: share of harmless prompts answered.
        kl: mean KL divergence of the first answer token on harmless prompts, nats; None when not measured.
        answered: whether these come from real answers or from first tokens alone.
    """

    setting: str
    layer: int
    strength: float
    refusal: float
    compliance: float
    kl: float | None
    answered: bool


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
