"""Hooks on a torch model's modules: taps, which read what passes, and edits, which change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import EngineError
from rosi_edge.runtime.engine import EditHandle
from rosi_edge.runtime.taps import Reducer, TapRequest, Visit, reducer

try:
    import torch
except ImportError:
    torch = None


class Taps:
    """Gathers rows from hooks. In every forward pass the caller first says which rows are wanted."""

    def __init__(self, request: TapRequest) -> None:
        keys: list[int | str] = [*request.blocks, *request.inputs]
        self._reducers: dict[int | str, Reducer] = {key: reducer(request) for key in keys}
        self._prompts: list[int] = []
        self._wanted: list[tuple[int, int]] = []
        self._written = 0

    def expect(self, prompts: list[int], taken: list[int]) -> None:
        """The next pass holds these prompts; of each so many of the last positions are read."""
        self._prompts = prompts
        self._wanted = [(member, count) for member, count in enumerate(taken) if count > 0]
        self._written = 0

    def expect_next(self, members: list[int]) -> None:
        """The next pass holds the next token of each answer; those of these members are read."""
        self._wanted = [(member, 1) for member in members]
        self._written += 1

    def on_block(self, block: int) -> Callable[..., None]:
        return lambda _module, _inputs, output: self._take(
            block, output[0] if isinstance(output, tuple) else output
        )

    def on_input(self, name: str) -> Callable[..., None]:
        return lambda _module, inputs: self._take(name, inputs[0])

    def _take(self, key: int | str, values: Any) -> None:
        if not self._wanted:
            return
        rows = [values[member, -count:] for member, count in self._wanted]
        counts = [count for _, count in self._wanted]
        owners = np.array([self._prompts[member] for member, _ in self._wanted], dtype=np.int32)
        from_end = np.concatenate([np.arange(count, dtype=np.int32)[::-1] for count in counts])
        self._reducers[key].add(
            to_numpy(torch.cat(rows).float()), np.repeat(owners, counts), from_end - np.int32(self._written)
        )

    def deliver(self, visit: Visit) -> None:
        for key in list(self._reducers):
            visit(key, self._reducers.pop(key).result())


@contextmanager
def tapping(request: TapRequest, blocks: Mapping[int, Any], matrices: Mapping[str, Any]) -> Iterator[Taps]:
    """Hooks for what is asked of these modules, blocks by number and write matrices by name.

    Raises:
        EngineError: the model has no such block or matrix.
    """
    for block in request.blocks:
        if block not in blocks:
            raise EngineError(f"the model has no block {block}")
    for name in request.inputs:
        if name not in matrices:
            raise EngineError(f"{name} is not a write matrix of this model")
    taps = Taps(request)
    hooks = [blocks[block].register_forward_hook(taps.on_block(block)) for block in request.blocks]
    hooks += [matrices[name].register_forward_pre_hook(taps.on_input(name)) for name in request.inputs]
    try:
        yield taps
    finally:
        for hook in hooks:
            hook.remove()


class EditHooks:
    """Edits held ready, and the hooks of those that are applied.

    Args:
        matrices: the modules of the write matrices, by name.
        shapes: (outputs, inputs) of each.
    """

    def __init__(self, matrices: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._matrices = matrices
        self._shapes = shapes
        self._edits: dict[EditHandle, list[RankOneEdit]] = {}
        self._next_handle = 1
        self._hooks: list[Any] = []

    def load(self, edits: Sequence[RankOneEdit]) -> EditHandle:
        for edit in edits:
            if self._shapes.get(edit.tensor) != (len(edit.output), len(edit.input)):
                raise EngineError(f"an edit of {edit.tensor} does not fit this model")
        handle = self._next_handle
        self._edits[handle] = list(edits)
        self._next_handle += 1
        return handle

    def unload(self, handle: EditHandle) -> None:
        del self._edits[handle]

    def apply(self, strengths: Mapping[EditHandle, float]) -> None:
        self._remove()
        by_tensor: dict[str, list[RankOneEdit]] = {}
        for handle, strength in strengths.items():
            for edit in self._edits[handle]:
                if strength:
                    by_tensor.setdefault(edit.tensor, []).append(edit.scaled(strength))
        for name, edits in by_tensor.items():
            module = self._matrices[name]
            device = next(module.parameters()).device
            inward = torch.tensor(np.stack([edit.input for edit in edits]), device=device)
            outward = torch.tensor(np.stack([edit.output for edit in edits]), device=device)
            self._hooks.append(module.register_forward_hook(_pushing(inward, outward)))

    def _remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def close(self) -> None:
        self._remove()
        self._edits.clear()


def _pushing(inward: Any, outward: Any) -> Callable[..., Any]:
    """A hook that adds (x·a) b to a Linear module's output, for all edits of it, in float32."""

    def hook(_module: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        pushes = inputs[0].float() @ inward.T
        return output + (pushes @ outward).to(output.dtype)

    return hook


def to_numpy(values: Any) -> Float32:
    found: Float32 = values.detach().to("cpu", torch.float32).numpy()
    return found
