"""Sums over sliding windows of layers, made on the way, with only a handful of matrices in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rosi_edge.basics.arrays import Float32, Float64


@dataclass(frozen=True)
class Window:
    """What the write matrices of some consecutive layers do together.

    Attributes:
        layers: first and past-the-last.
        gram: the weighted sum of their Gram matrices, (d, d).
        noise: the same for the energy that rounding alone leaves in each channel, (d,); None if not known.
        matrices: how many were summed.
    """

    layers: tuple[int, int]
    gram: Float32
    noise: Float64 | None
    matrices: int

    def __add__(self, later: Window) -> Window:
        noise = None if self.noise is None or later.noise is None else self.noise + later.noise
        return Window(
            (self.layers[0], later.layers[1]), self.gram + later.gram, noise, self.matrices + later.matrices
        )

    def take_in(self, later: Window) -> Window:
        """Their sum in the place of this one's matrix, which is used up: these are large."""
        noise = None if self.noise is None or later.noise is None else self.noise + later.noise
        np.add(self.gram, later.gram, out=self.gram)
        return Window((self.layers[0], later.layers[1]), self.gram, noise, self.matrices + later.matrices)


class SlidingWindows:
    """Windows of 1, 2, 4, … groups of layers, each half a window after the last, and one of all layers.

    A window is the sum of the two halves that were completed last, so a level keeps one matrix: the memory
    grows with the logarithm of the number of layers.

    Args:
        largest: groups in a window at most, a power of two; None for all sizes and the window of all layers.
    """

    def __init__(self, largest: int | None = None) -> None:
        self._largest = largest
        self._last: list[Window | None] = []
        self._counts: list[int] = []

    def add(self, group: Window) -> Iterator[Window]:
        """Take in the next group; yields every window that it completes, the group itself first."""
        yield from self._complete(0, group)

    def close(self) -> Iterator[Window]:
        """The window of all layers, unless it is one that ``add`` has yielded."""
        if self._largest is not None:
            return
        # What was not summed further, the widest and earliest first: together these are all layers.
        left = [
            window
            for window, count in zip(self._last, self._counts, strict=True)
            if window is not None and count % 2
        ]
        if len(left) > 1:
            total = left.pop()
            while left:
                total = total + left.pop()
            yield total

    def _complete(self, level: int, window: Window) -> Iterator[Window]:
        yield window
        if self._largest is not None and 1 << level >= self._largest:
            return
        if level == len(self._last):
            self._last.append(None)
            self._counts.append(0)
        previous, self._last[level] = self._last[level], window
        self._counts[level] += 1
        if previous is None:
            return
        joined = previous + window
        if self._counts[level] % 2 == 0:
            yield from self._complete(level + 1, joined)
        else:
            # Straddles two windows of the next level: looked at, not summed further.
            yield joined
