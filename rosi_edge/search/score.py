"""The cheap score of a setting: first answer tokens, at the strength the limits allow."""

from __future__ import annotations

from dataclasses import dataclass

from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.runtime.engine import EditHandle

CAUTION = 0.015
"""Share of first tokens by which benign refusals should fall for real answers to keep their compliance."""
BENIGN_PRICE = 6.0
"""Share of harmful refusals that a share of benign ones is worth, beyond what is allowed. High, because the
floor of benign compliance is a constraint: what breaks it is not taken, however much it refuses."""
SAME_STRENGTH = 0.08
"""Strengths that differ by a smaller share are not worth another score."""
MOST_DOUBLINGS = 6
VISIBLE = 0.025
"""Nats of divergence from which on a strength is one to start from, however much more is allowed."""


@dataclass(frozen=True)
class Applied:
    """Edits that the engine has active, and what it calls them."""

    handle: EditHandle
    edits: tuple[RankOneEdit, ...]
