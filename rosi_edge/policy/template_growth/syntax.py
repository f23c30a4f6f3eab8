"""Small questions about the nodes of a template's syntax tree."""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes


def walk(node: nodes.Node) -> Iterator[nodes.Node]:
    """Every node, without recursion."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield current
        waiting += current.iter_child_nodes()


def parts_of(node: nodes.Node) -> list[nodes.Node]:
    """Of an expression, in the order in which they are written."""
    return [each for each in node.iter_child_nodes() if isinstance(each, (nodes.Expr, nodes.Helper))]


def arguments_of(node: nodes.Call | nodes.Filter) -> list[nodes.Node]:
    """Those by place first, then those by name."""
    return [*node.args, *(keyword.value for keyword in node.kwargs)]


def called_name(node: nodes.Node) -> str | None:
    """Of a function that is called by its name."""
    return node.node.name if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) else None


def namespace_made(node: nodes.Node) -> tuple[str, nodes.Call] | None:
    """The name of a new namespace and what is put into it, where a statement makes one."""
    if (
        isinstance(node, nodes.Assign)
        and isinstance(node.target, nodes.Name)
        and isinstance(node.node, nodes.Call)
        and called_name(node.node) == "namespace"
    ):
        return node.target.name, node.node
    return None


def constant_text(node: nodes.Node) -> str | None:
    """The text that is written in the template at this place, if one is."""
    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else None


def is_number(node: nodes.Const) -> bool:
    return isinstance(node.value, (int, float)) and not isinstance(node.value, bool)


def is_literal(node: nodes.Node) -> bool:
    return isinstance(node, (nodes.List, nodes.Tuple, nodes.Const, nodes.BinExpr))
