"""What filters, methods of the same names and ``%`` make of a length."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from jinja2 import nodes

from rosi_edge.policy.template_growth.bound import (
    Bound,
    amount,
    as_text,
    copied,
    either,
    plus,
    repeated,
    replaced,
    sum_of,
)
from rosi_edge.policy.template_growth.syntax import constant_text

_SHRINKS = frozenset({"length", "count", "int", "float", "abs", "round", "wordcount", "sum"})
_CHOOSES = frozenset({"default", "d", "get", "setdefault", "pop"})
_PADS = frozenset({"center", "ljust", "rjust", "zfill", "slice", "batch"})
_INDENTS = frozenset({"indent", "tojson", "expandtabs"})
_ESCAPES = frozenset({"tojson", "pprint", "urlize"})
"""Applied again and again, these double: an escaped quote is escaped anew with its backslash."""
_LONGEST_NUMBER = 18
"""Digits that are read of a number in a text; more make no difference."""
_NARROW = 16
"""An indent of fewer characters a line is that of real templates, and not counted."""


def filtered(name: str, value: Bound, node: nodes.Filter | nodes.Call, given: Sequence[Bound]) -> Bound:
    """A value after a filter or a method.

    Args:
        name: of the filter or method.
        node: where it is applied.
        given: how large each of its arguments is.
    """
    if name in _SHRINKS:
        return Bound.number(_measure(name, value, node))
    if name in _CHOOSES:
        return either([value, *given])
    if name == "replace" and len(given) >= 2:
        return replaced(value, given[0], given[1])
    if name == "join":
        return _joined(value, given, node)
    if name == "format":
        return sum_of([value, *given])
    width = max((amount(each) for each in given), default=0.0)
    if name in _PADS:
        return plus(value, Bound.text(width))
    if name in _INDENTS and width > _NARROW:
        value = repeated(value, width)
    if name == "wordwrap" and len(given) > 2:
        value = replaced(value, Bound.text(1.0), given[-1])
    if name in _ESCAPES:
        value = repeated(as_text(value), 2.0)
    if name == "string":
        value = escaped(node.node, value) if node.node is not None else as_text(value)
    return value


def formatted(pattern: nodes.Node, value: Bound, given: Bound) -> Bound:
    """``%`` with a text on its left puts things into it, padded; otherwise it is what is left over."""
    text = constant_text(pattern)
    if text is None:
        return value if value.is_number else plus(value, given)
    widths = sum(float(width[:_LONGEST_NUMBER]) for width in re.findall(r"\d{3,}", text))
    if "*" in text:
        widths += given.size
    return plus(plus(value, Bound.text(widths)), repeated(as_text(given), 2.0 if "%r" in text else 1.0))


def escaped(node: nodes.Node, value: Bound) -> Bound:
    """A list that is written out has its quotes escaped, again and again if that is repeated."""
    factor = 2.0 if isinstance(node, (nodes.List, nodes.Tuple, nodes.Dict)) else 1.0
    return repeated(as_text(value), factor)


def _joined(value: Bound, given: Sequence[Bound], node: nodes.Filter | nodes.Call) -> Bound:
    """As a filter the list comes first, as a method the separator."""
    if not given:
        return as_text(value)
    items, between = (given[0], value) if isinstance(node, nodes.Call) else (value, given[0])
    times = max(items.count, 1.0)
    return as_text(plus(items, repeated(copied(between), times)))


def _measure(name: str, value: Bound, node: nodes.Filter | nodes.Call) -> float:
    if name in ("length", "count"):
        return value.count
    if name == "int" and isinstance(node, nodes.Filter) and node.node is not None:
        digits = (constant_text(node.node) or "").strip()
        if digits.isdecimal():
            return float(digits[:_LONGEST_NUMBER])
    if name in ("int", "float") and not value.is_number and not value.uses and value.size > 1:
        return math.pow(10, min(value.size, _LONGEST_NUMBER))
    if name == "sum":
        return amount(value) * value.count
    return amount(value)
