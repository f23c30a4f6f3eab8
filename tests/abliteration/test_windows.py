"""Sliding windows: which there are, and that each is the sum of its layers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rosi_edge.abliteration.windows import SlidingWindows, Window


def layer(index: int) -> Window:
    return Window((index, index + 1), np.full((1, 1), 2.0**index, dtype=np.float32), np.array([1.0]), 1)


@given(st.integers(1, 23), st.sampled_from([None, 1, 2, 4]))
def test_every_window_is_the_sum_of_its_layers_and_comes_once(layers: int, largest: int | None) -> None:
    windows = SlidingWindows(largest)
    found = [window for index in range(layers) for window in windows.add(layer(index))]
    found += windows.close()
    for window in found:
        first, end = window.layers
        assert window.gram[0, 0] == sum(2.0**index for index in range(first, end))
        assert window.noise is not None
        assert window.noise[0] == window.matrices == end - first
    spans = [window.layers for window in found]
    assert len(set(spans)) == len(spans)
    expected = {(index, index + 1) for index in range(layers)}
    size = 2
    while size <= min(layers, largest or layers):
        half = size // 2
        expected |= {(start, start + size) for start in range(0, layers - size + 1, half)}
        size *= 2
    if largest is None:
        expected.add((0, layers))
    assert set(spans) == expected
