"""What the constants of a template come to: texts in pieces, products of numbers."""

from __future__ import annotations

from jinja2 import nodes

_MOST_NESTING = 100_000


def text_of(node: nodes.Node) -> str | None:
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


def has_text(node: nodes.Node) -> bool:
    waiting: list[nodes.Node] = [node]
    while waiting:
        current = waiting.pop()
        if isinstance(current, nodes.Const) and isinstance(current.value, str):
            return True
        waiting += current.iter_child_nodes()
    return False


def number(node: nodes.Node) -> float:
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


def numbers(node: nodes.Filter | nodes.Call) -> list[float]:
    """Those among a call's arguments, named ones too."""
    return [number(each) for each in (*node.args, *(keyword.value for keyword in node.kwargs))]
