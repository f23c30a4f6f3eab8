"""Reading chat templates without running them: Jinja's own parser, then a walk over the tree.

A chat template is a program in somebody else's file. Nothing here compiles, optimises or renders it.
"""

from __future__ import annotations

import re
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
_DEEPEST_LOOPS = 4
_MOST_NESTING = 100_000

_INTERNALS = frozenset(
    {"mro", "func_globals", "func_code", "gi_frame", "gi_code", "cr_frame", "cr_code", "ag_frame", "tb_frame"}
    | {"f_globals", "f_builtins", "f_locals"}
)
_FORMATTERS = frozenset({"format", "format_map"})
_ENTRANCES = frozenset(
    {"lipsum", "cycler", "joiner", "self", "config", "request", "url_for", "get_flashed_messages"}
)
_REPEATING = frozenset({"center", "indent", "ljust", "rjust", "zfill", "expandtabs"})
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
    for node, loops in _walk(tree):
        found += [Problem(getattr(node, "lineno", None) or 1, words) for words in _problems(node, loops)]
    return sorted(set(found), key=lambda problem: (problem.line, problem.words))


def _walk(tree: nodes.Node) -> Iterator[tuple[nodes.Node, int]]:
    """Every node with the number of loops around it; without recursion."""
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while waiting:
        node, loops = waiting.pop()
        yield node, loops
        inside = loops + isinstance(node, nodes.For)
        waiting += [(child, inside) for child in node.iter_child_nodes()]


def _problems(node: nodes.Node, loops: int) -> Iterator[str]:
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
    elif isinstance(node, (nodes.Mul, nodes.Pow)):
        yield from _growth(node)
    elif isinstance(node, nodes.For):
        if node.recursive:
            yield "it loops recursively"
        if loops + 1 > _DEEPEST_LOOPS:
            yield f"its loops are nested {loops + 1} deep"
    elif isinstance(node, (nodes.CallBlock, nodes.ExprStmt)) and _names_internals(node):
        yield "it leads into Python's internals"


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
    elif text.startswith("_") or text in _INTERNALS:
        yield f"it reaches for {text[:40]}, an internal of Python"


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
        for keyword in node.kwargs:
            if keyword.key == "attribute" and (name := _text(keyword.value)):
                for part in name.split("."):
                    yield from _attribute(part)
    elif node.name in _REPEATING and any(_number(argument) > _LARGEST_REPEAT for argument in node.args):
        yield "it makes an enormous text"


def _call(node: nodes.Call) -> Iterator[str]:
    target = node.node
    is_range = isinstance(target, nodes.Name) and target.name == "range"
    if is_range and any(abs(_number(argument)) > _LARGEST_RANGE for argument in node.args):
        yield "it counts through an enormous range"
    repeats = isinstance(target, nodes.Getattr) and target.attr in _REPEATING
    if repeats and any(_number(argument) > _LARGEST_REPEAT for argument in node.args):
        yield "it makes an enormous text"


def _growth(node: nodes.BinExpr) -> Iterator[str]:
    left, right = _number(node.left), _number(node.right)
    if isinstance(node, nodes.Pow):
        if right > 64 or left > 1e6 or not isinstance(node.right, nodes.Const):
            yield "it computes an enormous power"
    elif (_has_text(node) or _is_list(node)) and max(left, right) > _LARGEST_REPEAT:
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


def _is_list(node: nodes.BinExpr) -> bool:
    return isinstance(node.left, (nodes.List, nodes.Tuple)) or isinstance(
        node.right, (nodes.List, nodes.Tuple)
    )


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
