"""What names stand for while a template is read."""

from __future__ import annotations

from collections.abc import Callable

from rosi_edge.policy.template_growth.bound import Bound, copied


class Scope:
    """What names stand for; ``unknown`` says of which ones only what is known inside counts."""

    def __init__(self, parent: Scope | None, unknown: Callable[[str], bool] | None = None) -> None:
        self.parent = parent
        self.unknown = unknown
        self.values: dict[str, Bound] = {}

    def find(self, key: str) -> Bound:
        scope: Scope | None = self
        while scope is not None:
            if (value := scope.values.get(key)) is not None:
                return copied(value)
            if scope.unknown is not None and scope.unknown(key):
                return Bound.unknown(key)
            scope = scope.parent
        return Bound()
