"""What a template writes out that would take endless time or memory: long loops, and texts multiplied.

What grows only while it is rendered is stopped by the limits of rendering.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import nodes

from rosi_edge.policy.template_constants import has_text, number, numbers, text_of

_LARGEST_RANGE = 100_000
_LARGEST_REPEAT = 10_000
_LARGEST_NUMBER = 100_000_000
"""Above a date that is written as one number."""
_MOST_ROUNDS = 1_000_000
"""Of nested loops over ranges of known length."""
_DEEPEST_LOOPS = 4
_LONGEST_CHAIN = 100
"""Filters and calls applied to each other's results."""
_REPEATING = frozenset(
    {"center", "indent", "ljust", "rjust", "zfill", "expandtabs", "tojson", "batch", "slice", "wordwrap"}
)


@dataclass(frozen=True)
class Place:
    """A node and what is around it.

    Attributes:
        loops: how many loops it is in.
        rounds: how often it runs at most, as far as the ranges of these loops tell; of a loop, its body.
        piece: it continues a chain of sums or of products, which is looked at once, as a whole.
    """

    node: nodes.Node
    loops: int = 0
    rounds: float = 1.0
    piece: bool = False


def walk(tree: nodes.Node) -> Iterator[Place]:
    """Every node; without recursion."""
    known = _numbers_by_name(tree)
    waiting = [Place(tree)]
    while waiting:
        place = waiting.pop()
        node, rounds = place.node, place.rounds
        if isinstance(node, nodes.For):
            rounds *= _length(node.iter, known)
        yield Place(node, place.loops, rounds, place.piece)
        inside = place.loops + isinstance(node, nodes.For)
        waiting += [
            Place(child, inside, rounds, _continues(node, child)) for child in node.iter_child_nodes()
        ]


def _continues(node: nodes.Node, child: nodes.Node) -> bool:
    sums = (nodes.Add, nodes.Concat)
    return (isinstance(node, sums) and isinstance(child, sums)) or (
        isinstance(node, nodes.Mul) and isinstance(child, nodes.Mul)
    )


def _numbers_by_name(tree: nodes.Node) -> dict[str, float]:
    """The largest number that each name is set to."""
    known: dict[str, float] = {}
    waiting: list[nodes.Node] = [tree]
    while waiting:
        node = waiting.pop()
        waiting += node.iter_child_nodes()
        if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name):
            name = node.target.name
            known[name] = max(known.get(name, 0.0), abs(number(node.node)))
    return known


def _length(iterated: nodes.Node, known: dict[str, float]) -> float:
    """How many rounds a loop takes, where that is a range of known length; 1 for anything else."""
    if not (
        isinstance(iterated, nodes.Call)
        and isinstance(iterated.node, nodes.Name)
        and iterated.node.name == "range"
    ):
        return 1.0
    ends = [
        known.get(each.name, 0.0) if isinstance(each, nodes.Name) else abs(number(each))
        for each in iterated.args
    ]
    return max([1.0, *ends])


def enormous(place: Place) -> Iterator[str]:
    """What is too large of a node, or too long."""
    node = place.node
    if isinstance(node, nodes.For):
        if node.recursive:
            yield "it loops recursively"
        if place.loops + 1 > _DEEPEST_LOOPS:
            yield f"its loops are nested {place.loops + 1} deep"
        if place.rounds > _MOST_ROUNDS:
            yield "its loops go round more than a million times"
    elif isinstance(node, nodes.Assign) and place.loops:
        yield from _doubling(node)
    elif isinstance(node, nodes.Pow):
        if number(node.right) > 64 or number(node.left) > 1e6 or not isinstance(node.right, nodes.Const):
            yield "it computes an enormous power"
    elif isinstance(node, nodes.Mul) and not place.piece:
        yield from _repetition(node)
    elif isinstance(node, nodes.Const) and isinstance(node.value, (int, float)):
        if abs(number(node)) > _LARGEST_NUMBER:
            yield "it holds an enormous number"
    elif isinstance(node, nodes.Filter):
        yield from _repeating(node, node.name)
    elif isinstance(node, nodes.Call):
        target = node.node
        if isinstance(target, nodes.Name) and target.name == "range":
            if any(abs(number(argument)) > _LARGEST_RANGE for argument in node.args):
                yield "it counts through an enormous range"
        elif isinstance(target, nodes.Getattr):
            yield from _repeating(node, target.attr)


def _repeating(node: nodes.Filter | nodes.Call, name: str) -> Iterator[str]:
    """A filter or method that makes a text longer."""
    if name in _REPEATING and any(each > _LARGEST_REPEAT for each in numbers(node)):
        yield "it makes an enormous text"
    elif name == "replace" and _replaced(node) > _LARGEST_REPEAT:
        yield "it makes an enormous text by replacing"


def _doubling(node: nodes.Assign) -> Iterator[str]:
    """A text that is set to itself twice over in a loop grows without bounds."""
    target, count, waiting = node.target, 0, [node.node]
    while waiting:
        current = waiting.pop()
        if isinstance(current, (nodes.Add, nodes.Mul)):
            waiting += [current.left, current.right]
        elif isinstance(current, nodes.Concat):
            waiting += current.nodes
        elif isinstance(target, nodes.Name) and isinstance(current, nodes.Name):
            count += current.name == target.name
        elif isinstance(target, nodes.NSRef) and isinstance(current, nodes.Getattr):
            same = isinstance(current.node, nodes.Name) and current.node.name == target.name
            count += same and current.attr == target.attr
    if count > 1:
        yield "it doubles a text in a loop"


def _replaced(node: nodes.Node | None) -> float:
    """How many times longer a chain of replacements can make a text."""
    factor = 1.0
    for _ in range(_LONGEST_CHAIN):
        if isinstance(node, nodes.Filter):
            name, arguments, node = node.name, node.args, node.node
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            name, arguments, node = node.node.attr, node.args, node.node.node
        else:
            return factor
        if name == "replace" and len(arguments) >= 2:
            old, new = text_of(arguments[0]), text_of(arguments[1])
            if old is not None and new is not None:
                factor *= max(1.0, len(new) / max(len(old), 1))
    return float("inf")


def _repetition(node: nodes.Mul) -> Iterator[str]:
    """A text or list times numbers, whatever else is in the chain of multiplications."""
    times, repeats, waiting = 1.0, False, [node.left, node.right]
    while waiting:
        factor = waiting.pop()
        if isinstance(factor, nodes.Mul):
            waiting += [factor.left, factor.right]
        else:
            times *= max(1.0, abs(number(factor)))
            repeats = repeats or isinstance(factor, (nodes.List, nodes.Tuple)) or has_text(factor)
    if repeats and times > _LARGEST_REPEAT:
        yield "it makes an enormous text"
