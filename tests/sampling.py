"""Which of many cases run in ``make test``; the others are ``long`` and run in ``make test-long``."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import pytest

Case = TypeVar("Case")


def draw(cases: Sequence[Case], count: int, always: Collection[Case] = ()) -> list[Case]:
    """``always`` and ``count`` others, the same ones every time, in the order of ``cases``."""
    others = [number for number, case in enumerate(cases) if case not in always]
    drawn = set(random.Random(0).sample(others, count))
    return [case for number, case in enumerate(cases) if case in always or number in drawn]


def mostly_long(cases: Sequence[Case], now: Collection[Case]) -> list[Any]:
    """For ``parametrize``: the cases in ``now`` first, then the others, marked ``long``."""
    return [
        *(case for case in cases if case in now),
        *(pytest.param(*_values(case), marks=pytest.mark.long) for case in cases if case not in now),
    ]


def _values(case: object) -> tuple[object, ...]:
    return case if isinstance(case, tuple) else (case,)
