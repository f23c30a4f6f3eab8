"""Which names of a template are macros, which are namespaces, and which mean the same."""

from __future__ import annotations

from jinja2 import nodes

from rosi_edge.policy.template_growth.syntax import called_name, namespace_made, parts_of, walk

_MOST_ALIASES = 20
"""Of one thing, in a row; more are taken for a circle."""


class Names:
    """Those of one template.

    Attributes:
        macros: by name; several can have the same one.
        namespaces: what they are called.
        shared: a namespace may have several names: what any of them sets, all of them see.
        set_by_macros: keys of what macros leave in namespaces that are not their own.
    """

    def __init__(self, tree: nodes.Template) -> None:
        self.macros: dict[str, list[nodes.Macro]] = {}
        self.namespaces: set[str] = set()
        self._aliases: dict[str, str] = {}
        bare = set()
        for node in walk(tree):
            if isinstance(node, nodes.Macro):
                self.macros.setdefault(node.name, []).append(node)
            elif isinstance(node, nodes.NSRef):
                self.namespaces.add(node.name)
            elif isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name):
                if isinstance(node.node, nodes.Name):
                    self._aliases[node.target.name] = node.node.name
                    bare.add(node.node.name)
                elif namespace_made(node):
                    self.namespaces.add(node.target.name)
            elif isinstance(node, (nodes.Call, nodes.List, nodes.Tuple, nodes.Dict, nodes.For)):
                bare.update(each.name for each in parts_of(node) if isinstance(each, nodes.Name))
        self.shared = bool(bare & self.namespaces)
        self.namespaces |= {name for name in self._aliases if self.meant_by(name) in self.namespaces}
        self.set_by_macros = {
            key
            for bodies in self.macros.values()
            for body in bodies
            for key in self.set_in(body)
            if not self.is_own(body, key)
        }

    def meant_by(self, name: str) -> str:
        """The name that this is another one for."""
        for _ in range(_MOST_ALIASES):
            if name in self.macros or name not in self._aliases:
                break
            name = self._aliases[name]
        return name

    def key(self, namespace: str, attribute: str) -> str:
        """What an attribute of a namespace is kept under; other names have no point in their key."""
        return f"{'' if self.shared else namespace}.{attribute}"

    def set_in(self, node: nodes.Node) -> set[str]:
        """Keys of what is set anywhere inside."""
        return {self.key(each.name, each.attr) for each in walk(node) if isinstance(each, nodes.NSRef)}

    def is_own(self, macro: nodes.Macro, key: str) -> bool:
        """Whether a namespace is made by the macro anew, so that nothing is left in it for the next call."""
        name = key.partition(".")[0]
        return any((made := namespace_made(each)) and made[0] == name for each in macro.body)

    def calls_of(self, macro: str) -> list[str]:
        """The macros that are called by those of this name."""
        found = set()
        for node in (each for body in self.macros[macro] for each in walk(body)):
            called = self.meant_by(called_name(node) or "")
            if called in self.macros:
                found.add(called)
        return sorted(found)
