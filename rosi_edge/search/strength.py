"""How strong: which strength is tried next, after first tokens and after real answers.

Strengths matter by their ratio. The divergence grows about with the square of the strength.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rosi_edge.basics.statistics import Estimate
from rosi_edge.edits.profile import Setting
from rosi_edge.search.options import ConditionalOptions
from rosi_edge.search.result import Point

MOST_DOUBLINGS = 6
VISIBLE = 0.025
"""Nats of divergence from which on a strength is one to start from, however much more is allowed."""
_STRONGER = 1.12
"""Next strength to ask for real answers, after one that kept the constraints with little divergence left."""
_MOST_STRONGER = 2.0
_LEAST_STEP = 1.03


# --- by first tokens ---------------------------------------------------------------------------------------


def next_strength(point: Point, options: ConditionalOptions) -> float:
    """Where the divergence should be nine tenths of what is allowed."""
    if options.strength:
        return options.strength
    ratio = 0.9 * options.max_kl / max(point.score.kl, 1e-6)
    return point.setting.strength * float(np.clip(np.sqrt(ratio), 0.4, 2.0))


def at_first_strength(
    setting: Setting, score: Callable[[Setting], Point], options: ConditionalOptions
) -> Setting:
    """The setting at the strength that a search starts from.

    Keys that are silent on benign prompts cost little divergence there, however strong they are in a model
    with weak refusals. Nothing has been tried before the divergence can be seen.
    """
    point = score(setting)
    for _ in range(MOST_DOUBLINGS):
        following = next_strength(point, options)
        if point.score.kl > VISIBLE or following < 1.99 * point.setting.strength:
            break
        point = score(setting.at(following))
    return setting.at(next_strength(point, options))


# --- by real answers ---------------------------------------------------------------------------------------


def weaker(setting: Setting, kl: Estimate | None, max_kl: float) -> Setting | None:
    """The setting at the strength whose divergence is allowed; None when it is already."""
    if kl is None or kl.value <= max_kl:
        return None
    return setting.at(setting.strength * float(np.sqrt(0.93 * max_kl / kl.value)))


@dataclass
class Climb:
    """One setting asked at growing strengths until it breaks a constraint, then in between.

    Attributes:
        max_kl: nats of divergence that are allowed.
        kept: the highest strength that kept all constraints; 0 before any did.
        step: by how much that one may be multiplied.
        broke: the lowest strength above it that broke one.
    """

    max_kl: float
    kept: float = 0.0
    step: float = 1.0
    broke: float = float("inf")

    def after_keeping(self, setting: Setting, kl: Estimate | None) -> Setting | None:
        """The next one to ask; None when there is none worth asking.

        Args:
            kl: what the setting cost.
        """
        self.kept, self.step = setting.strength, self._step(kl)
        return self._next(setting)

    def after_breaking(self, setting: Setting) -> Setting | None:
        """As ``after_keeping``; None when no strength has kept the constraints."""
        self.broke = setting.strength
        return self._next(setting)

    def _step(self, kl: Estimate | None) -> float:
        """Half the way (in the logarithm) to the divergence that is allowed, but no less than a small step
        where that is allowed."""
        if kl is None:
            return _STRONGER
        allowed = float(np.sqrt(0.97 * self.max_kl / max(kl.value, 1e-9)))
        return min(max(_STRONGER, float(np.sqrt(allowed))), allowed, _MOST_STRONGER)

    def _next(self, setting: Setting) -> Setting | None:
        if not self.kept or self.step <= _LEAST_STEP or self.broke <= self.kept * _STRONGER * (1 + 1e-6):
            return None
        return setting.at(self.kept * min(self.step, float(np.sqrt(self.broke / self.kept))))


# --- of the paper's method ---------------------------------------------------------------------------------


def comparable_strength(divergence: Callable[[float], float], wanted: float) -> float:
    """A strength that costs about ``wanted`` nats: one measurement nearly gives it, the second corrects it.

    Args:
        divergence: measures what a strength costs.
    """
    strength = 1.0
    for _ in range(8):
        ratio = wanted / max(divergence(strength), 1e-9)
        if 0.5 < ratio < 2:
            break
        strength *= float(np.clip(np.sqrt(ratio), 1 / 32, 32))
    return strength


@dataclass
class Bisection:
    """Upwards by doubling until a constraint is broken, then between the two sides.

    Attributes:
        kept: the highest strength that kept all constraints; 0 before any did.
        broke: the lowest strength that broke one.
    """

    kept: float = 0.0
    broke: float = float("inf")

    def after(self, strength: float, *, kept: bool) -> float | None:
        """The next strength to try; None when the two sides are near each other."""
        if kept:
            self.kept = strength
        else:
            self.broke = strength
        if np.isinf(self.broke):
            return self.kept * 2
        if self.kept == 0:
            return self.broke / 2
        if self.broke / self.kept < 1.1:
            return None
        return float(np.sqrt(self.kept * self.broke))
