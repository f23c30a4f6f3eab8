"""Prompts kept in the cache but for their last tokens, so that a new set of edits costs only those."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.native import llama
from rosi_edge.runtime.engine import Tokens


class HeldPrompts:
    """Prompts side by side in one context, each a sequence of its own.

    Args:
        context: with at least one sequence more than there are prompts; sequence 0 holds what all share.
        shared: how many opening tokens all prompts share; decoded once.
        tail: how many last tokens of each prompt are decoded anew each time.
    """

    def __init__(self, context: llama.Context, prompts: Sequence[Tokens], *, shared: int, tail: int) -> None:
        self._context = context
        self._prompts = prompts
        # The last tokens have to follow something, and a short prompt may have hardly more.
        self._cuts = [max(shared, len(prompt) - tail) for prompt in prompts]
        tokens: Tokens = list(prompts[0][:shared])
        positions = list(range(shared))
        sequences = [0] * shared
        self._decode(tokens, positions, sequences)
        tokens, positions, sequences = [], [], []
        for sequence, (prompt, cut) in enumerate(zip(prompts, self._cuts, strict=True), start=1):
            if shared:
                context.copy_sequence(0, sequence)
            tokens += prompt[shared:cut]
            positions += range(shared, cut)
            sequences += [sequence] * (cut - shared)
        self._decode(tokens, positions, sequences)

    def _decode(self, tokens: Tokens, positions: Sequence[int], sequences: Sequence[int]) -> None:
        for start in range(0, len(tokens), self._context.batch_size):
            piece = slice(start, start + self._context.batch_size)
            self._context.decode(
                np.array(tokens[piece], dtype=np.int32),
                np.array(positions[piece], dtype=np.int32),
                np.array(sequences[piece], dtype=np.int32),
                np.zeros(len(tokens[piece]), dtype=np.int8),
            )

    def logits(self, vocabulary: int) -> Float32:
        """The logits after each prompt, (prompts, vocabulary), with the edits that are applied now."""
        rows = np.empty((len(self._prompts), vocabulary), dtype=np.float32)
        batch: list[int] = []
        size = 0
        for index, (prompt, cut) in enumerate(zip(self._prompts, self._cuts, strict=True)):
            length = len(prompt) - cut
            if batch and size + length > self._context.batch_size:
                self._decode_ends(batch, rows)
                batch, size = [], 0
            batch.append(index)
            size += length
        self._decode_ends(batch, rows)
        return rows

    def _decode_ends(self, batch: Sequence[int], rows: Float32) -> None:
        tokens: Tokens = []
        positions: list[int] = []
        sequences: list[int] = []
        wanted: list[int] = []
        for index in batch:
            prompt, cut = self._prompts[index], self._cuts[index]
            tokens += prompt[cut:]
            positions += range(cut, len(prompt))
            sequences += [index + 1] * (len(prompt) - cut)
            wanted += [0] * (len(prompt) - cut - 1) + [1]
        self._context.decode(
            np.array(tokens, dtype=np.int32),
            np.array(positions, dtype=np.int32),
            np.array(sequences, dtype=np.int32),
            np.array(wanted, dtype=np.int8),
        )
        rows[list(batch)] = self._context.logits(len(batch))
        for index in batch:
            self._context.remove_sequence(index + 1, self._cuts[index])
