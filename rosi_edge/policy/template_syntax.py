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
from rosi_edge.policy.template_constants import has_text, text_of
from rosi_edge.policy.template_size import Place, enormous, walk

KEY = "tokenizer.chat_template"

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
    for place in walk(tree):
        line = getattr(place.node, "lineno", None) or 1
        found += [Problem(line, words) for words in (*_leading_out(place), *enormous(place))]
    return sorted(set(found), key=lambda problem: (problem.line, problem.words))


def _leading_out(place: Place) -> Iterator[str]:
    """What of a node leads to other files or into Python."""
    node = place.node
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
    elif isinstance(node, (nodes.Const, nodes.TemplateData, nodes.Add, nodes.Concat)):
        # Names of internals can be handed on as texts, whole or in pieces.
        for name in () if place.piece else _DUNDER.findall(text_of(node) or ""):
            if name in _DUNDERS:
                yield f"it names {name[:40]}, an internal of Python"


def _attribute(name: str) -> Iterator[str]:
    if name.startswith("_") or name in _INTERNALS:
        yield f"it reaches for {name[:40]}, an internal of Python"
    elif name in _FORMATTERS:
        # str.format has read attributes behind the sandbox's back (CVE-2016-10745, CVE-2024-56326).
        yield f"it calls {name}, which can read attributes of what it is given"


def _item(key: nodes.Node) -> Iterator[str]:
    text = text_of(key)
    if text is None:
        if isinstance(key, (nodes.Concat, nodes.Filter, nodes.Call)) or (
            isinstance(key, nodes.BinExpr) and has_text(key)
        ):
            yield "it puts the name of an attribute together from pieces"
    else:
        yield from _attribute(text)


def _filter(node: nodes.Filter) -> Iterator[str]:
    if node.name == "attr":
        text = text_of(node.args[0]) if node.args else None
        if text is None:
            yield "it puts the name of an attribute together from pieces"
        else:
            yield from _attribute(text)
    elif node.name == "format":
        # Old-style formatting: harmless but for its widths, which can be put into the arguments too.
        text = text_of(node.node) if node.node is not None else None
        if text is None or "*" in text or re.search(r"\d{4}", text):
            yield "it formats with a pattern that may make an enormous text"
    elif node.name == "map":
        if node.args and text_of(node.args[0]) in ("attr", "format"):
            yield f"it maps {text_of(node.args[0])} over what it is given"
        for keyword in node.kwargs:
            if keyword.key == "attribute" and (name := text_of(keyword.value)):
                for part in name.split("."):
                    yield from _attribute(part)
