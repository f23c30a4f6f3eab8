"""Upper bounds of lengths and amounts, and how they are put together.

Functions that take bounds may change what they are given; ``copied`` is for what is used again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

ENDLESS = 1e18
"""Stands for everything above, so that no product becomes infinite."""
AMOUNT = "#"
"""Before the name of what is not known: its amount counts, not its digits."""

_DIGITS = 20
"""Characters of a number that is written out."""
_TIMES = "*"
_MOST_PRODUCTS = 1000
_MOST_FACTORS = 8


class TooInvolvedError(Exception):
    """A template takes too much to be followed."""


@dataclass
class Bound:
    """How long a text is at most, or how large a number.

    Attributes:
        size: characters, or of a number its amount.
        count: rounds of a loop over it; of a text its characters.
        uses: how often it holds each thing that is not known yet.
        total: how many such things it holds in any one case; less than the sum where only one of several is
            chosen.
        largest: of a list, the largest number in it.
    """

    size: float = 1.0
    count: float = 1.0
    is_number: bool = False
    uses: dict[str, float] = field(default_factory=dict)
    total: float = 0.0
    largest: float = 0.0

    @classmethod
    def text(cls, size: float) -> Bound:
        return cls(min(size, ENDLESS), min(size, ENDLESS))

    @classmethod
    def number(cls, size: float) -> Bound:
        return cls(min(abs(size), ENDLESS), 1.0, is_number=True)

    @classmethod
    def unknown(cls, key: str) -> Bound:
        return cls(0.0, 1.0, uses={key: 1.0}, total=1.0)


def copied(value: Bound) -> Bound:
    return Bound(value.size, value.count, value.is_number, dict(value.uses), value.total, value.largest)


def as_text(value: Bound) -> Bound:
    """The same as a text."""
    if value.is_number:
        # A number beyond all bounds has as many digits.
        value.size, value.is_number = min(value.size, _DIGITS) if value.size < ENDLESS else ENDLESS, False
    value.count, value.largest = value.size, 0.0
    return value


def repeated(value: Bound, factor: float) -> Bound:
    """So often, one after the other."""
    if factor == 1.0:
        return value
    value.size, value.count = min(value.size * factor, ENDLESS), min(value.count * factor, ENDLESS)
    value.uses = {key: min(often * factor, ENDLESS) for key, often in value.uses.items()}
    value.total = min(value.total * factor, ENDLESS)
    return value


def most(one: Bound, other: Bound) -> Bound:
    """Either of two."""
    one.size, one.count = max(one.size, other.size), max(one.count, other.count)
    one.is_number = one.is_number and other.is_number
    for key, often in other.uses.items():
        one.uses[key] = max(one.uses.get(key, 0.0), often)
    one.total, one.largest = max(one.total, other.total), max(one.largest, other.largest)
    return one


def plus(one: Bound, other: Bound) -> Bound:
    """Both, one after the other."""
    if len(one.uses) < len(other.uses):
        one, other = other, one
    one.size, one.count = min(one.size + other.size, ENDLESS), min(one.count + other.count, ENDLESS)
    one.is_number = one.is_number or other.is_number
    for key, often in other.uses.items():
        one.uses[key] = min(one.uses.get(key, 0.0) + often, ENDLESS)
    one.total, one.largest = min(one.total + other.total, ENDLESS), max(one.largest, other.largest)
    return one


def sum_of(values: Iterable[Bound]) -> Bound:
    """All of them as one text."""
    total = Bound.text(0.0)
    for value in values:
        total = plus(total, as_text(value))
    return total


def either(values: list[Bound]) -> Bound:
    """Any one of them."""
    result = values[0]
    for value in values[1:]:
        result = most(result, value)
    return result


def listed(values: list[Bound]) -> Bound:
    """A list of these."""
    largest = max((_reach(value) for value in values if value.is_number or value.largest), default=0.0)
    result = sum_of(values)
    result.largest = largest
    result.size += len(values)
    result.count = float(len(values))
    return result


def product(one: Bound, other: Bound) -> Bound:
    """Two numbers multiplied, or a text or list repeated.

    Raises:
        TooInvolvedError: too many unknown things would be multiplied with each other.
    """
    size = min(_reach(one) * _reach(other), ENDLESS)
    count = min(times_over(one) * times_over(other), ENDLESS)
    if len(one.uses) * len(other.uses) > _MOST_PRODUCTS:
        raise TooInvolvedError
    uses = {_amount_of(key): often * _reach(other) for key, often in one.uses.items()}
    for key, often in other.uses.items():
        uses[_amount_of(key)] = uses.get(_amount_of(key), 0.0) + often * _reach(one)
    for mine, often in one.uses.items():
        for theirs, again in other.uses.items():
            both = _TIMES.join(sorted((_amount_of(mine), _amount_of(theirs))))
            if both.count(_TIMES) > _MOST_FACTORS:
                raise TooInvolvedError
            uses[both] = uses.get(both, 0.0) + 2 * often * again
    uses = {key: min(often, ENDLESS) for key, often in uses.items() if often}
    return Bound(size, count, one.is_number and other.is_number, uses, min(sum(uses.values()), ENDLESS))


def power(base: Bound, exponent: Bound) -> Bound:
    """One number to the power of another.

    Raises:
        TooInvolvedError: as of ``product``.
    """
    if base.uses or exponent.uses:
        # Enough to see that it is multiplied with itself.
        return product(product(copied(base), base), exponent)
    digits = amount(exponent) * math.log10(max(amount(base), 2.0))
    return Bound.number(10.0**digits if digits < math.log10(ENDLESS) else ENDLESS)


def _reach(value: Bound) -> float:
    """Its size, or that of the largest number in it, where one of its items may be meant."""
    return max(value.size, value.largest)


def _amount_of(key: str) -> str:
    return key if key.startswith(AMOUNT) else AMOUNT + key


def names_in(key: str) -> list[str]:
    """What a use is of: one thing, or several that are multiplied."""
    return [each.removeprefix(AMOUNT) for each in key.split(_TIMES)]


def amount(value: Bound) -> float:
    """Of a number, or of the largest one in a list; what holds none counts as one."""
    return value.size if value.is_number else max(1.0, value.largest)


def times_over(value: Bound) -> float:
    """Rounds of a loop over it."""
    return value.size if value.is_number else value.count


def replaced(value: Bound, old: Bound, new: Bound) -> Bound:
    """Each ``old`` by ``new``; an empty ``old`` is found before each character."""
    factor = max(1.0, new.size / old.size) if old.size else 1.0 + new.size
    held = copied(new)
    held.size = held.count = 0.0
    return as_text(plus(repeated(value, factor), held))
