"""Well-known jailbreak framings, as transforms on a request.

They exist to measure whether a model still refuses when a harmful request is dressed up, as HarmBench
(arXiv 2402.04249), garak and WildGuard (arXiv 2406.18495) do. Every text is written for this project and
generic: a frame around a request that comes from elsewhere, with nothing in it about any subject.

Adding one means adding a module to this package with a tuple ``ATTACKS``.
"""

from __future__ import annotations

from rosi_edge.evaluation.attacks.attack import Attack, compose
from rosi_edge.evaluation.attacks.registry import built_in, select

__all__ = ["Attack", "built_in", "compose", "select"]
