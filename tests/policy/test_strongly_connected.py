"""Groups of a graph against SciPy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from rosi_edge.policy.template_growth.strongly_connected import strongly_connected


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    names = [f"m{i}" for i in range(draw(st.integers(1, 12)))]
    return {name: draw(st.lists(st.sampled_from(names), unique=True)) for name in names}


@given(graphs())
def test_the_groups_are_those_of_scipy(graph: dict[str, list[str]]) -> None:
    group, _ = strongly_connected(graph)

    names = list(graph)
    arcs = np.array([[float(to in graph[start]) for to in names] for start in names])
    number, labels = connected_components(csr_array(arcs), connection="strong")
    assert len(set(group.values())) == number
    assert len({(group[name], label) for name, label in zip(names, labels, strict=True)}) == number


@given(graphs())
def test_what_is_reached_comes_first(graph: dict[str, list[str]]) -> None:
    group, order = strongly_connected(graph)

    assert sorted(order) == sorted(graph)
    for name in graph:
        of_its_group = min(order.index(each) for each in graph if group[each] == group[name])
        for reached in graph[name]:
            assert group[reached] == group[name] or order.index(reached) < of_its_group


def test_a_chain_of_any_length_is_followed() -> None:
    size = 20_000
    graph = {str(i): [str(i + 1)] for i in range(size - 1)} | {str(size - 1): []}

    group, order = strongly_connected(graph)

    assert len(set(group.values())) == size
    assert order == [str(i) for i in reversed(range(size))]
