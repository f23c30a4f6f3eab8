"""What stands in a llama.cpp context between two calls, so that nothing is decoded twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosi_edge.basics.arrays import Float32, Int32
from rosi_edge.errors import EngineError
from rosi_edge.native import llama
from rosi_edge.runtime.batching import LARGER_CONTEXT, common_prefix
from rosi_edge.runtime.engine import SESSION_OPENING, Tokens
from rosi_edge.runtime.held import HeldPrompts

_FIRST = 0
"""The sequence that holds a shared prefix or a session. Prompts take those from 1 on."""


class Memory:
    """One thing at a time: what the last prompts shared, a long session, or held prompts.

    Args:
        vocabulary: how many tokens the model knows.

    Attributes:
        session: how many tokens the session has; None without one.
    """

    def __init__(self, context: llama.Context, vocabulary: int) -> None:
        self.context = context
        self.session: int | None = None
        self.held: HeldPrompts | None = None
        self._vocabulary = vocabulary
        self._prefix: Tokens = []

    def forget(self) -> None:
        self.context.clear()
        self._prefix = []
        self.session = self.held = None

    def open_prefix(self, prompts: Sequence[Tokens]) -> int:
        """Decode what all prompts begin with, unless it is there already; returns its length."""
        if any(not prompt for prompt in prompts):
            raise EngineError("an empty prompt cannot be decoded")
        shared = common_prefix(prompts)
        if not shared or shared != self._prefix:
            self.forget()
            for start in range(0, len(shared), self.context.batch_size):
                self._read(shared[start : start + self.context.batch_size], start)
            self._prefix = shared
        return len(shared)

    def continue_in(self, sequence: int) -> None:
        """Let a sequence begin with the prefix, or the session."""
        self.context.copy_sequence(_FIRST, sequence)

    def _read(self, tokens: Tokens, position: int) -> None:
        self.context.decode(
            np.array(tokens, dtype=np.int32),
            np.arange(position, position + len(tokens), dtype=np.int32),
            np.full(len(tokens), _FIRST, dtype=np.int32),
            np.zeros(len(tokens), dtype=np.int8),
        )

    def extend_session(self, tokens: Tokens, *, window: int) -> None:
        """See ``Engine.extend_session``."""
        if self.session is None:
            self.forget()
            self.session = 0
        if window > self.context.size:
            raise EngineError(
                f"a window of {window} tokens does not fit into a context of {self.context.size}",
                LARGER_CONTEXT,
            )
        for start in range(0, len(tokens), self.context.batch_size):
            piece = tokens[start : start + self.context.batch_size]
            if self.session + len(piece) > window:
                # As llama.cpp's own context shift does: keep the opening, drop the older half of the rest.
                keep = min(SESSION_OPENING, self.session)
                dropped = max((self.session - keep) // 2, self.session + len(piece) - window)
                self.context.shift_sequence(_FIRST, keep, keep + dropped)
                self.session -= dropped
            self._read(piece, self.session)
            self.session += len(piece)

    def prefill(self, suffixes: Sequence[Tokens], prefix: int, sequences: Sequence[int]) -> Float32:
        """Decode what follows the prefix into sequences of its own.

        Returns:
            the logits after each one's last token, (suffixes, vocabulary).
        """
        numbers = np.array(sequences, dtype=np.int32)
        if prefix:
            for number in sequences:
                self.continue_in(number)
        lengths = np.array([len(suffix) for suffix in suffixes])
        owner: Int32 = np.repeat(np.arange(len(suffixes), dtype=np.int32), lengths)
        tokens = np.concatenate([np.array(suffix, dtype=np.int32) for suffix in suffixes])
        positions = np.concatenate([np.arange(prefix, prefix + n, dtype=np.int32) for n in lengths])
        ends = np.zeros(len(tokens), dtype=bool)
        ends[np.cumsum(lengths) - 1] = True
        logits = np.empty((len(suffixes), self._vocabulary), dtype=np.float32)
        for start in range(0, len(tokens), self.context.batch_size):
            piece = slice(start, start + self.context.batch_size)
            wanted = ends[piece]
            self.context.decode(
                tokens[piece], positions[piece], numbers[owner[piece]], wanted.astype(np.int8)
            )
            if wanted.any():
                logits[owner[piece][wanted]] = self.context.logits(int(wanted.sum()))
        return logits
