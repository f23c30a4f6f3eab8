"""What tells a macro that counts down from one that goes down into data."""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import nodes

from rosi_edge.policy.template_growth.syntax import arguments_of, called_name, constant_text, is_literal, walk

_METHODS = frozenset(
    {"split", "strip", "lstrip", "rstrip", "replace", "join", "removeprefix", "removesuffix"}
)
_ARITHMETIC = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.Slice)
_COMPUTES = (*_ARITHMETIC, nodes.Filter, nodes.Call)
_COUNTS_BACK = (nodes.Sub, nodes.Div, nodes.FloorDiv, nodes.Slice)


@dataclass
class MacroBody:
    """The macro that is being read.

    Attributes:
        parts: names that stand for the items of what it is given.
        computed: names that are the result of arithmetic.
        counts_back: a namespace in it is made smaller.
    """

    name: str
    parameters: set[str]
    parts: set[str]
    computed: set[str]
    counts_back: bool

    @classmethod
    def of(cls, name: str, macro: nodes.Macro) -> MacroBody:
        inside = cls(name, {argument.name for argument in macro.args}, set(), set(), False)
        for node in walk(macro):
            if (
                isinstance(node, nodes.For)
                and called_name(node.iter) != "range"
                and not is_literal(node.iter)
            ):
                inside.parts |= {each.name for each in walk(node.target) if isinstance(each, nodes.Name)}
            elif isinstance(node, nodes.Assign) and any(
                isinstance(each, _COMPUTES) for each in walk(node.node)
            ):
                if isinstance(node.target, nodes.Name):
                    inside.computed.add(node.target.name)
                elif isinstance(node.target, nodes.NSRef):
                    # A counter that is not handed on must be set back, so that the next branch finds it.
                    inside.counts_back |= any(isinstance(each, _COUNTS_BACK) for each in walk(node.node))
        return inside

    def computes(self, node: nodes.Call) -> bool:
        """Whether a call goes on by arithmetic."""
        return self.counts_back or any(
            isinstance(part, _COMPUTES) or (isinstance(part, nodes.Name) and part.name in self.computed)
            for argument in arguments_of(node)
            for part in walk(argument)
        )

    def descends(self, node: nodes.Call) -> bool:
        """Whether a call goes on with a field or an item of data, which come to an end by themselves."""
        return any(self._is_part(argument) for argument in arguments_of(node))

    def _is_part(self, argument: nodes.Node) -> bool:
        within = list(walk(argument))
        if any(isinstance(each, _ARITHMETIC) for each in within):
            return False
        return any(
            (isinstance(each, nodes.Getattr) and each.attr not in _METHODS)
            or (isinstance(each, nodes.Getitem) and constant_text(each.arg) is not None)
            or (isinstance(each, nodes.Name) and each.name in self.parts)
            for each in within
        )

    def may_call_itself(self, target: nodes.Node) -> bool:
        """Macros can be handed on and called under another name."""
        return isinstance(target, nodes.Getitem) or (
            isinstance(target, nodes.Name) and target.name in self.parameters
        )
