"""Reading chat templates without running them: Jinja's own parser, then a walk over the tree.

A chat template is a program in somebody else's file. Nothing here compiles, optimises or renders it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rosi_edge.models.gguf_file import GgufFile

KEY = "tokenizer.chat_template"

_LARGEST_RANGE = 100_000
_LARGEST_REPEAT = 10_000
_LARGEST_NUMBER = 100_000_000
"""Above a date that is written as one number."""
_MOST_ROUNDS = 1_000_000
"""Of nested loops over ranges of known length."""
_DEEPEST_LOOPS = 4
_MOST_NESTING = 100_000
_LONGEST_CHAIN = 100
"""Filters and calls applied to each other's results."""

_INTERNALS = frozenset(
    {"mro", "func_globals", "func_code", "gi_frame", "gi_code", "cr_frame", "cr_code", "ag_frame", "tb_frame"}
    | {"f_globals", "f_builtins", "f_locals"}
)
_FORMATTERS = frozenset({"format", "format_map"})
_ENTRANCES = frozenset(
    {"lipsum", "cycler", "joiner", "self", "config", "request", "url_for", "get_flashed_messages"}
)
_DUNDERS = frozenset(
    name
    for kind in (object, type, str, dict, int, types.FunctionType, types.CodeType, types.ModuleType)
    for name in dir(kind)
    if name.startswith("__")
) | {"__globals__", "__builtins__", "__import__", "__self__", "__func__", "__wrapped__"}
_DUNDER = re.compile(r"__[a-z_]+?__")
_REPEATING = frozenset(
    {"center", "indent", "ljust", "rjust", "zfill", "expandtabs", "tojson", "batch", "slice", "wordwrap"}
)
_FOREIGN = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


@dataclass(frozen=True)
class Problem:
    """Something a chat template has no business doing."""

    line: int
    words: str


class _Generation(Extension):
    """``{% generation %}``, by which trainers mark the assistant's words; llama.cpp knows it too."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> jinja2.Environment:
    # The flags of the environment that renders them, so that both read the same program.
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )


def chat_templates(file: GgufFile) -> dict[str, Any]:
    """The value of every key that holds a chat template, named ones too. Not all need be text."""
    return {
        key: value
        for key, value in file.metadata.items()
        if (key == KEY or key.startswith(KEY + ".")) and not (isinstance(value, str) and not value.strip())
    }


def unsafe_constructs(template: Any, *, largest: int) -> list[Problem]:
    """What is wrong with a template, in the order of its lines; empty for an ordinary one.

    Args:
        largest: characters it may have.
    """
    if not isinstance(template, str):
        return [Problem(1, "it is not text")]
    if len(template) > largest:
        return [Problem(1, f"it has {len(template)} characters, more than the {largest} allowed")]
    try:
        tree = _environment().parse(template)
    except RecursionError:
        return [Problem(1, "it is nested too deep to be read")]
    except jinja2.TemplateSyntaxError as error:
        return [Problem(error.lineno or 1, "it is not a template that can be read")]
    except (ValueError, OverflowError, MemoryError):
        return [Problem(1, "it holds a number that is too long")]
    found: list[Problem] = []
    known = _numbers_by_name(tree)
    for place in _walk(tree, known):
        line = getattr(place.node, "lineno", None) or 1
        found += [Problem(line, words) for words in _problems(place)]
    return sorted(set(found), key=lambda problem: (problem.line, problem.words))


@dataclass(frozen=True)
class _Place:
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


def _walk(tree: nodes.Node, known: dict[str, float]) -> Iterator[_Place]:
    """Every node; without recursion."""
    waiting = [_Place(tree)]
    while waiting:
        place = waiting.pop()
        node, rounds = place.node, place.rounds
        if isinstance(node, nodes.For):
            rounds *= _length(node.iter, known)
        yield _Place(node, place.loops, rounds, place.piece)
        inside = place.loops + isinstance(node, nodes.For)
        waiting += [
            _Place(child, inside, rounds, _continues(node, child)) for child in node.iter_child_nodes()
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
            known[name] = max(known.get(name, 0.0), abs(_number(node.node)))
    return known


def _length(iterated: nodes.Node, known: dict[str, float]) -> float:
    """How many rounds a loop takes, where that is a range of known length; 1 for anything else."""
    if not (
        isinstance(iterated, nodes.Call)
        and isinstance(iterated.node, nodes.Name)
        and iterated.node.name == "range"
    ):
        return 1.0
    numbers = [
        known.get(each.name, 0.0) if isinstance(each, nodes.Name) else abs(_number(each))
        for each in iterated.args
    ]
    return max(1.0, *numbers) if numbers else 1.0


def _problems(place: _Place) -> Iterator[str]:
    node, loops = place.node, place.loops
    if isinstance(node, _FOREIGN):
        yield "it reads another file"
    elif isinstance(node, nodes.Getattr):
        yield from _attribute(node.attr)
    elif isinstance(node, nodes.Getitem):
        yield from _item(node.arg)
    elif isinstance(node, nodes.Name) and node.ctx == "load":
        if node.name in _ENTRANCES or node.name.startswith("__"):
            yield f"it uses {node.name[:40]}, which leads into Python"
    elif isinstance(node, nodes.Filter):
        yield from _filter(node)
    elif isinstance(node, nodes.Call):
        yield from _call(node)
    elif isinstance(node, nodes.Pow):
        if _number(node.right) > 64 or _number(node.left) > 1e6 or not isinstance(node.right, nodes.Const):
            yield "it computes an enormous power"
    elif isinstance(node, nodes.Mul):
        if not place.piece:
            yield from _repetition(node)
    elif isinstance(node, (nodes.Const, nodes.TemplateData)):
        yield from _constant(node)
    elif isinstance(node, (nodes.Add, nodes.Concat)):
        if not place.piece:
            yield from _constant(node)
    elif isinstance(node, nodes.Assign):
        yield from _doubling(node, loops)
    elif isinstance(node, nodes.For):
        if node.recursive:
            yield "it loops recursively"
        if loops + 1 > _DEEPEST_LOOPS:
            yield f"its loops are nested {loops + 1} deep"
        if place.rounds > _MOST_ROUNDS:
            yield "its loops go round more than a million times"
    elif isinstance(node, (nodes.CallBlock, nodes.ExprStmt)) and _names_internals(node):
        yield "it leads into Python's internals"


def _constant(node: nodes.Node) -> Iterator[str]:
    """Names of internals can be handed on as texts, whole or in pieces; some numbers are only there to
    exhaust."""
    if isinstance(node, nodes.Const) and isinstance(node.value, (int, float)):
        if abs(_number(node)) > _LARGEST_NUMBER:
            yield "it holds an enormous number"
        return
    for name in _DUNDER.findall(_text(node) or ""):
        if name in _DUNDERS:
            yield f"it names {name[:40]}, an internal of Python"


def _doubling(node: nodes.Assign, loops: int) -> Iterator[str]:
    """A text that is set to itself twice over in a loop grows without bounds."""
    if not loops:
        return
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


def _attribute(name: str) -> Iterator[str]:
    if name.startswith("_") or name in _INTERNALS:
        yield f"it reaches for {name[:40]}, an internal of Python"
    elif name in _FORMATTERS:
        # str.format has read attributes behind the sandbox's back (CVE-2016-10745, CVE-2024-56326).
        yield f"it calls {name}, which can read attributes of what it is given"


def _item(key: nodes.Node) -> Iterator[str]:
    text = _text(key)
    if text is None:
        if isinstance(key, (nodes.Concat, nodes.Filter, nodes.Call)) or (
            isinstance(key, nodes.BinExpr) and _has_text(key)
        ):
            yield "it puts the name of an attribute together from pieces"
    else:
        yield from _attribute(text)


def _filter(node: nodes.Filter) -> Iterator[str]:
    if node.name == "attr":
        text = _text(node.args[0]) if node.args else None
        if text is None:
            yield "it puts the name of an attribute together from pieces"
        else:
            yield from _attribute(text)
    elif node.name == "format":
        # Old-style formatting: harmless but for its widths, which can be put into the arguments too.
        text = _text(node.node) if node.node is not None else None
        if text is None or "*" in text or re.search(r"\d{4}", text):
            yield "it formats with a pattern that may make an enormous text"
    elif node.name == "map":
        if node.args and _text(node.args[0]) in ("attr", "format"):
            yield f"it maps {_text(node.args[0])} over what it is given"
        for keyword in node.kwargs:
            if keyword.key == "attribute" and (name := _text(keyword.value)):
                for part in name.split("."):
                    yield from _attribute(part)
    elif node.name in _REPEATING and any(number > _LARGEST_REPEAT for number in _numbers(node)):
        yield "it makes an enormous text"
    elif node.name == "replace" and _replaced(node) > _LARGEST_REPEAT:
        yield "it makes an enormous text by replacing"


def _numbers(node: nodes.Filter | nodes.Call) -> list[float]:
    """Those among a call's arguments, named ones too."""
    return [_number(each) for each in (*node.args, *(keyword.value for keyword in node.kwargs))]


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
            old, new = _text(arguments[0]), _text(arguments[1])
            if old is not None and new is not None:
                factor *= max(1.0, len(new) / max(len(old), 1))
    return float("inf")


def _call(node: nodes.Call) -> Iterator[str]:
    target = node.node
    is_range = isinstance(target, nodes.Name) and target.name == "range"
    if is_range and any(abs(_number(argument)) > _LARGEST_RANGE for argument in node.args):
        yield "it counts through an enormous range"
    repeats = isinstance(target, nodes.Getattr) and target.attr in _REPEATING
    if repeats and any(number > _LARGEST_REPEAT for number in _numbers(node)):
        yield "it makes an enormous text"
    if isinstance(target, nodes.Getattr) and target.attr == "replace" and _replaced(node) > _LARGEST_REPEAT:
        yield "it makes an enormous text by replacing"


def _repetition(node: nodes.Mul) -> Iterator[str]:
    """A text or list times numbers, whatever else is in the chain of multiplications."""
    times, repeats, waiting = 1.0, False, [node.left, node.right]
    while waiting:
        factor = waiting.pop()
        if isinstance(factor, nodes.Mul):
            waiting += [factor.left, factor.right]
        else:
            times *= max(1.0, abs(_number(factor)))
            repeats = repeats or isinstance(factor, (nodes.List, nodes.Tuple)) or _has_text(factor)
    if repeats and times > _LARGEST_REPEAT:
        yield "it makes an enormous text"


def _names_internals(node: nodes.Node) -> bool:
    return any(
        isinstance(child, nodes.Getattr) and child.attr.startswith("_") for child in node.iter_child_nodes()
    )


def _text(node: nodes.Node) -> str | None:
    """The text that an expression of constants stands for; None when it is none."""
    pieces: list[str] = []
    waiting = [node]
    steps = 0
    while waiting:
        steps += 1
        current = waiting.pop()
        if steps > _MOST_NESTING:
            return None
        if isinstance(current, nodes.Const) and isinstance(current.value, str):
            pieces.append(current.value)
        elif isinstance(current, nodes.TemplateData):
            pieces.append(current.data)
        elif isinstance(current, nodes.Add):
            waiting += [current.right, current.left]
        elif isinstance(current, nodes.Concat):
            waiting += reversed(current.nodes)
        else:
            return None
    return "".join(pieces)


def _has_text(node: nodes.Node) -> bool:
    waiting: list[nodes.Node] = [node]
    while waiting:
        current = waiting.pop()
        if isinstance(current, nodes.Const) and isinstance(current.value, str):
            return True
        waiting += current.iter_child_nodes()
    return False


def _number(node: nodes.Node) -> float:
    """The number of a constant, products and powers of constants included; 0 for anything else."""
    sign = 1.0
    while isinstance(node, (nodes.Neg, nodes.Pos)):
        sign = -sign if isinstance(node, nodes.Neg) else sign
        node = node.node
    if isinstance(node, nodes.Const) and isinstance(node.value, (int, float)):
        try:
            return sign * float(node.value)
        except OverflowError:
            return float("inf")
    if isinstance(node, nodes.Pow):
        return float("inf")
    if isinstance(node, nodes.Mul):
        product, waiting = 1.0, [node.left, node.right]
        while waiting:
            current = waiting.pop()
            if isinstance(current, nodes.Mul):
                waiting += [current.left, current.right]
            elif isinstance(current, nodes.Const) and isinstance(current.value, (int, float)):
                try:
                    product *= float(current.value)
                except OverflowError:
                    return float("inf")
            else:
                return 0.0
        return sign * product
    return 0.0
