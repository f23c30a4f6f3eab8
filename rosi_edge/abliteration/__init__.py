"""Holes that ablation leaves in the weights: found from the file alone, without running the model.

"Abliteration" takes a direction out of every matrix that writes to the residual stream
(``W ← W − u uᵀW``; Arditi et al., arXiv 2406.11717, section 2.4). What is left of the energy along u is
the rounding of the quantizer, and no ordinary direction is that empty.
"""

from __future__ import annotations

from rosi_edge.abliteration.finder import find_holes
from rosi_edge.abliteration.hole import Hole, Holes

__all__ = ["Hole", "Holes", "find_holes"]
