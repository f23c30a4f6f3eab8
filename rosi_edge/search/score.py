"""The cheap score of a setting: first answer tokens, without any real answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rosi_edge.direction.calibration import Keys
from rosi_edge.edits.profile import Setting
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.runtime.engine import EditHandle, Engine, edits_applied
from rosi_edge.search.candidates import Editable
from rosi_edge.search.constraints import SOUNDS_HARMFUL_MARGIN
from rosi_edge.search.first_token import FirstTokenScore, FirstTokenScorer
from rosi_edge.search.options import ConditionalOptions
from rosi_edge.search.result import Point
from rosi_edge.search.strength import next_strength

_CAUTION = 0.015
"""Share of first tokens by which benign refusals should fall for real answers to keep their compliance."""
_BENIGN_PRICE = 6.0
"""Share of harmful refusals that a share of benign ones is worth, beyond what is allowed. High, because the
floor of benign compliance is a constraint: what breaks it is not taken, however much it refuses."""
_SAME_STRENGTH = 0.08
"""Strengths that differ by a smaller share are not worth another score."""


@dataclass(frozen=True)
class Applied:
    """Edits that the engine has active, and what it calls them."""

    handle: EditHandle
    edits: tuple[RankOneEdit, ...]


@dataclass(frozen=True)
class SettingScorer:
    """Makes a setting's edits, applies them and reads first tokens."""

    engine: Engine
    editable: Editable
    keys: Keys
    first_tokens: FirstTokenScorer
    options: ConditionalOptions

    def edits(self, setting: Setting) -> tuple[RankOneEdit, ...]:
        """At strength one."""
        return self.editable.edits(setting, self.keys)

    @contextmanager
    def applied(self, setting: Setting) -> Iterator[Applied]:
        """The setting's edits, active at its strength until the end."""
        edits = self.edits(setting)
        with edits_applied(self.engine, edits, setting.strength) as handle:
            yield Applied(handle, edits)

    def score(self, setting: Setting) -> Point:
        with self.applied(setting):
            return Point(setting, self.first_tokens.score())

    def score_twice(self, setting: Setting) -> list[Point]:
        """At the setting's strength and, unless that is about the same, at the one where the divergence
        should be nine tenths of what is allowed."""
        with self.applied(setting) as applied:
            first = Point(setting, self.first_tokens.score())
            second = setting.at(next_strength(first, self.options))
            if abs(second.strength / setting.strength - 1) < _SAME_STRENGTH:
                return [first]
            self.engine.apply({applied.handle: second.strength})
            return [first, Point(second, self.first_tokens.score())]

    def value(self, score: FirstTokenScore, failures: int = 0) -> float:
        """Refusals gained, less what breaks a constraint.

        Args:
            failures: points whose real answers broke a constraint although their first tokens looked well:
                each is a reason to want fewer benign refusals in what is asked next.
        """
        before = self.first_tokens.original
        wanted = before.refused[1] - _CAUTION
        value = score.refused[0] - _BENIGN_PRICE * (failures + 1) * max(0.0, score.refused[1] - wanted)
        for share, original in zip(score.refused[2:], before.refused[2:], strict=True):
            value -= max(0.0, share - original - SOUNDS_HARMFUL_MARGIN)
        return value - 0.5 * max(0.0, score.kl / self.options.max_kl - 1.0)
