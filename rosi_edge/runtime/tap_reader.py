"""Reads tapped graph nodes while llama.cpp computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32, Int32
from rosi_edge.errors import EngineError
from rosi_edge.models.weights import matrix_name
from rosi_edge.native import ggml
from rosi_edge.runtime.batching import Batch
from rosi_edge.runtime.taps import Reducer, TapRequest, Visit, reducer


class TapReader:
    """Receives graph nodes from the eval callback and hands their rows to reducers."""

    def __init__(self, layers: int, stream_name: Callable[[int], str]) -> None:
        self._stream_names = {stream_name(block).encode(): block for block in range(layers)}
        self._reducers: dict[bytes, Reducer] = {}
        # Of taps that turned out to be stacks of experts: one reducer for each expert that had a token.
        self._experts: dict[bytes, dict[int, Reducer]] = {}
        self._request: TapRequest | None = None
        self._seen: set[bytes] = set()
        self._tokens = 0
        self._owners: Int32 = np.empty(0, dtype=np.int32)
        self._wanted = np.empty(0, dtype=bool)
        self._from_end: Int32 = np.empty(0, dtype=np.int32)

    @property
    def needs_logits(self) -> bool:
        """Whether the graph is computed to its end: always, unless all that is wanted are activations."""
        return self._request is None or self._request.answer > 0

    @contextmanager
    def reading(self, request: TapRequest) -> Iterator[None]:
        names = {block: name for name, block in self._stream_names.items()}
        unknown = [block for block in request.blocks if block not in names]
        if unknown:
            raise EngineError(f"the model has no block {unknown[0]}")
        self._keys: dict[bytes, int | str] = {names[block]: block for block in request.blocks}
        self._keys |= {weight.encode(): weight for weight in request.inputs}
        self._reducers = {key: reducer(request) for key in self._keys}
        self._request = request
        try:
            yield
        finally:
            self._request = None
            self._reducers = {}
            self._experts = {}
            self._seen = set()

    def expect(self, batch: Batch) -> None:
        """The next micro-batch; its outputs are what is read."""
        self._tokens, self._wanted = len(batch.owners), batch.outputs
        self._owners, self._from_end = batch.owners[batch.outputs], batch.from_end[batch.outputs]
        self._seen = set()

    def on_node(self, node: ggml.Node, asked: bool) -> bool:
        if self._request is None:
            return False
        key = self._key(node)
        if asked:
            return key is not None
        if key is not None:
            if node.name in self._reducers:
                self._take(key, node.rows())
            elif node.op == ggml.OP_MUL_MAT_ID:
                self._take_experts(key, node.source(1), node.source(2))
            else:
                self._take(key, node.source(1).rows())
        # With everything read there is no use for the rest of the graph (the vocabulary projection, mostly).
        return self.needs_logits or len(self._seen) < len(self._reducers)

    def _key(self, node: ggml.Node) -> bytes | None:
        if node.op in (ggml.OP_MUL_MAT, ggml.OP_MUL_MAT_ID):
            name = node.source(0).name
            if b"#" in name:
                # A weight copied to another backend is called "<backend>#<tensor>#<copy>".
                name = name.split(b"#")[1]
        else:
            name = node.name
        return name if name in self._reducers and name not in self._seen else None

    def _take(self, key: bytes, rows: Float32) -> None:
        assert self._request is not None
        self._seen.add(key)
        rows = rows[self._of_interest(key, len(rows))]
        if len(rows):
            self._reducers[key].add(np.ascontiguousarray(rows), self._owners, self._from_end)

    def _take_experts(self, key: bytes, inputs: ggml.Node, chosen: ggml.Node) -> None:
        """The rows of a stack of experts, each to the expert that the router sent it to.

        Args:
            inputs: (columns, slots, tokens) in ggml's order; a single slot is for all experts of a token.
            chosen: (used, tokens) in ggml's order, the numbers of the experts.
        """
        assert self._request is not None
        self._seen.add(key)
        numbers = chosen.integers()
        slots = inputs.shape[1]
        rows = inputs.rows()
        if len(rows) != slots * len(numbers) or slots not in (1, numbers.shape[1]):
            raise EngineError(f"{key.decode()} has {len(rows)} inputs for {numbers.size} choices of experts")
        rows = rows.reshape(len(numbers), slots, rows.shape[1])
        wanted = self._of_interest(key, len(numbers))
        rows, numbers = rows[wanted], numbers[wanted]
        stack = self._experts.setdefault(key, {})
        for expert in np.unique(numbers):
            tokens, slot = np.nonzero(numbers == expert)
            gathered = stack.setdefault(int(expert), reducer(self._request))
            gathered.add(rows[tokens, slot % slots], self._owners[tokens], self._from_end[tokens])

    def _of_interest(self, key: bytes, tokens: int) -> npt.NDArray[np.bool_] | slice:
        """Which of a node's tokens are read."""
        if tokens == self._tokens:
            return self._wanted
        if tokens != len(self._owners):
            # The last block computes output rows only; any other number is a graph we do not understand.
            raise EngineError(f"{key.decode()} has {tokens} rows for {self._tokens} tokens")
        return slice(None)

    def check_complete(self) -> None:
        """Raises EngineError when something asked for did not come by in the last micro-batch."""
        missing = [key for key in self._reducers if key not in self._seen]
        # A micro-batch without outputs may skip the last block altogether; its rows come with a later one.
        if missing and self._wanted.any():
            raise EngineError(f"llama.cpp did not compute {missing[0].decode()} for this architecture")

    def deliver(self, visit: Visit) -> None:
        """Hand over each tap's result and let go of it, so that only one exists twice."""
        for key in list(self._reducers):
            gathered, name = self._reducers.pop(key), self._keys[key]
            if key not in self._experts:
                visit(name, gathered.result())
                continue
            stack = self._experts.pop(key)
            for expert in sorted(stack):
                visit(matrix_name(str(name), expert), stack.pop(expert).result())
