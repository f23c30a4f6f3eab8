"""Groups of a directed graph whose members can reach each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def strongly_connected(graph: Mapping[str, Iterable[str]]) -> tuple[dict[str, int], list[str]]:
    """Kosaraju's method, without recursion.

    Returns:
        a number for each group whose members can reach each other, and an order in which a group comes after
        all others that any of its members reaches.
    """
    order: list[str] = []
    seen: set[str] = set()
    for start in graph:
        if start in seen:
            continue
        seen.add(start)
        path = [(start, iter(graph[start]))]
        while path:
            name, rest = path[-1]
            for reached in rest:
                if reached not in seen:
                    seen.add(reached)
                    path.append((reached, iter(graph[reached])))
                    break
            else:
                order.append(name)
                path.pop()
    backwards: dict[str, list[str]] = {name: [] for name in graph}
    for name, targets in graph.items():
        for reached in targets:
            backwards[reached].append(name)
    group: dict[str, int] = {}
    for number, start in enumerate(reversed(order)):
        waiting = [start]
        while waiting:
            name = waiting.pop()
            if name not in group:
                group[name] = number
                waiting += backwards[name]
    return group, sorted(order, key=lambda name: -group[name])
