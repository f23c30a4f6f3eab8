"""Real answers for the settings that scored best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rosi_edge.edits.profile import Setting
from rosi_edge.search.result import FrontierPoint, Tried

SCREENED = 3
"""Points asked the harmless prompts for each that may be asked everything."""
SHOWN = 2
"""Points asked everything even when all break the floor."""
STRONGER = 1.12
"""Next strength to ask for real answers, after one that kept the constraints with little divergence left."""
MOST_STRONGER = 2.0
_LEAST_STEP = 1.03


@dataclass
class Climb:
    """One setting asked at growing strengths until it breaks a constraint, then in between.

    Attributes:
        kept: the highest strength that kept all constraints; 0 before any did.
        step: by how much that one may be multiplied.
        broke: the lowest strength above it that broke one.
    """

    kept: float = 0.0
    step: float = 1.0
    broke: float = float("inf")

    def after_keeping(self, setting: Setting, step: float) -> Setting | None:
        """The next one to ask; None when there is none worth asking."""
        self.kept, self.step = setting.strength, step
        return self._next(setting)

    def after_breaking(self, setting: Setting) -> Setting | None:
        """As ``after_keeping``; None when no strength has kept the constraints."""
        self.broke = setting.strength
        return self._next(setting)

    def _next(self, setting: Setting) -> Setting | None:
        if not self.kept or self.step <= _LEAST_STEP or self.broke <= self.kept * STRONGER * (1 + 1e-6):
            return None
        return setting.at(self.kept * min(self.step, float(np.sqrt(self.broke / self.kept))))


def as_tried(point: FrontierPoint) -> Tried:
    behaviour = point.behaviour
    return Tried(
        point.setting,
        point.layer,
        point.strength,
        behaviour.refusal.value,
        behaviour.compliance.value,
        behaviour.kl.value if behaviour.kl else None,
        answered=True,
    )
