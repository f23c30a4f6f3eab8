"""Hooks that capture and change a torch model's streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.runtime.taps import Reducer, TapRequest, Visit, reducer

try:
    import torch
except ImportError:
    torch = None


def add(inward: Any, outward: Any) -> Callable[..., Any]:
    """A hook that adds (x·a) b to a Linear module's output, for all edits of it, in float32."""

    def hook(_module: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        pushes = inputs[0].float() @ inward.T
        return output + (pushes @ outward).to(output.dtype)

    return hook


class Taps:
    """Gathers rows from hooks. In every forward pass the caller first says which rows are wanted."""

    def __init__(self, request: TapRequest) -> None:
        keys: list[int | str] = [*request.blocks, *request.inputs]
        self._reducers: dict[int | str, Reducer] = {key: reducer(request) for key in keys}
        self._prompts: list[int] = []
        self._wanted: list[tuple[int, int]] = []

    def expect(self, prompts: list[int], taken: list[int]) -> None:
        """The next pass holds these prompts; of each so many of the last positions are read."""
        self._prompts = prompts
        self._wanted = [(member, count) for member, count in enumerate(taken) if count > 0]

    def expect_next(self, members: list[int]) -> None:
        """The next pass holds a single token of each; those of these members are read."""
        self._wanted = [(member, 1) for member in members]

    def on_block(self, block: int) -> Callable[..., None]:
        return lambda _module, _inputs, output: self._take(
            block, output[0] if isinstance(output, tuple) else output
        )

    def on_input(self, name: str) -> Callable[..., None]:
        return lambda _module, inputs: self._take(name, inputs[0])

    def _take(self, key: int | str, values: Any) -> None:
        rows = [values[member, -count:] for member, count in self._wanted]
        if rows:
            owners = np.repeat(
                np.array([self._prompts[member] for member, _ in self._wanted], dtype=np.int32),
                [count for _, count in self._wanted],
            )
            self._reducers[key].add(to_numpy(torch.cat(rows).float()), owners)

    def deliver(self, visit: Visit) -> None:
        for key in list(self._reducers):
            visit(key, self._reducers.pop(key).result())


def to_numpy(values: Any) -> Float32:
    found: Float32 = values.detach().to("cpu", torch.float32).numpy()
    return found
