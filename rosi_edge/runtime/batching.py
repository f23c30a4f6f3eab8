"""Which tokens of which prompts are decoded next, when many prompts share one context."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Int32
from rosi_edge.errors import EngineError
from rosi_edge.runtime.engine import Tokens

LARGER_CONTEXT = "Use a larger -c"

_SHORTEST_SHARED_PREFIX = 4
"""Fewer tokens are not worth a copy of them in every sequence."""


@dataclass(eq=False)
class Member:
    """A prompt that is being decoded.

    Attributes:
        prompt: its place among the prompts.
        sequence: where it stands in the context's memory.
        cells: what is set aside for it there, the shared prefix apart.
        pending: tokens to decode next: what is left of the prompt, later the last token of the answer.
        position: of the first of those.
        written: the answer so far.
    """

    prompt: int
    sequence: int
    cells: int
    pending: Tokens
    position: int
    written: Tokens = field(default_factory=list)
    reading: bool = True
    """Its prompt is not decoded to the end yet."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch, a row a token.

    Attributes:
        owners: the place of each token's prompt among the prompts.
        from_end: (tokens,), how far before its prompt's last token each lies; negative in the answer.
        outputs: (tokens,), which tokens are outputs.
        ends: members whose next token this batch decides, and ``end_rows``, their rows among the outputs.
    """

    tokens: Int32
    positions: Int32
    sequences: Int32
    owners: Int32
    from_end: Int32
    outputs: npt.NDArray[np.bool_]
    ends: tuple[Member, ...]
    end_rows: Int32


class Batching:
    """Lines prompts up for decoding: longest first, so that those that start together end together.

    Args:
        prompts: all with the same first ``prefix`` tokens, which are in the memory already, and more.
        reserve: tokens that each may write.
        cells: tokens that the memory holds beyond the prefix.
        width: prompts side by side; they take the sequences 1 to ``width``.
        batch_size: tokens of a micro-batch.
        tail: how many of each prompt's last tokens are outputs.
        refill: whether the next prompt starts as soon as another one ends. That keeps batches full, but then
            which tokens share a batch depends on when answers end, and with it the last digits of each row.
            Without, a prompt's rows do not depend on the answers to others.
    """

    def __init__(
        self,
        prompts: Sequence[Tokens],
        prefix: int,
        *,
        reserve: int,
        cells: int,
        width: int,
        batch_size: int,
        tail: int = 1,
        refill: bool = False,
    ) -> None:
        self._prompts = prompts
        self._prefix = prefix
        self._reserve = reserve
        self._cells = cells
        self._batch_size = batch_size
        self._tail = tail
        self._refill = refill
        self._waiting = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index])))
        self._free = list(range(width, 0, -1))
        self._members: list[Member] = []

    @property
    def next_in_line(self) -> int | None:
        """The prompt that waits for room; None when all have been admitted."""
        return self._waiting[0] if self._waiting else None

    @property
    def busy(self) -> bool:
        return bool(self._members)

    def admit(self) -> list[Member]:
        """Those that start now. When nobody is there and nobody comes, the next in line does not fit."""
        if self._members and not self._refill:
            return []
        admitted = []
        while self._waiting and self._free:
            index = self._waiting[0]
            need = len(self._prompts[index]) - self._prefix + self._reserve
            if need > self._cells:
                break
            self._waiting.popleft()
            self._cells -= need
            unread = list(self._prompts[index][self._prefix :])
            admitted.append(Member(index, self._free.pop(), need, unread, self._prefix))
        self._members += admitted
        return admitted

    def leave(self, member: Member) -> None:
        """It has ended; its sequence must have been removed from the memory."""
        self._members.remove(member)
        self._cells += member.cells
        self._free.append(member.sequence)

    def next_batch(self) -> Batch:
        """The next micro-batch of the members; their state is that after it."""
        chosen: list[tuple[Member, int]] = []
        room = self._batch_size
        reading = [member for member in self._members if member.reading]
        if self._refill or not reading:
            # Answers first: a token each, so that nobody waits for a long prompt.
            chosen = [(member, 1) for member in self._members if not member.reading][:room]
            room -= len(chosen)
        for member in reading:
            count = min(room, len(member.pending))
            if count:
                chosen.append((member, count))
            room -= count
        tokens: Tokens = []
        outputs: list[npt.NDArray[np.bool_]] = []
        ends: list[Member] = []
        end_rows: list[int] = []
        rows = 0
        for member, count in chosen:
            left = len(member.pending) - count
            tokens += member.pending[:count]
            # Counted from the end of what is pending, the last tokens are outputs.
            wanted = np.arange(left + count, left, -1) <= (self._tail if member.reading else 1)
            outputs.append(wanted)
            rows += int(wanted.sum())
            if left == 0:
                ends.append(member)
                end_rows.append(rows - 1)
        counts = [count for _, count in chosen]
        offsets = [np.arange(count, dtype=np.int32) for count in counts]
        starts = np.array([member.position for member, _ in chosen], dtype=np.int32)
        positions = np.repeat(starts, counts) + np.concatenate(offsets)
        lengths = np.array([len(self._prompts[member.prompt]) for member, _ in chosen], dtype=np.int32)
        batch = Batch(
            tokens=np.array(tokens, dtype=np.int32),
            positions=positions,
            sequences=np.repeat(np.array([m.sequence for m, _ in chosen], dtype=np.int32), counts),
            owners=np.repeat(np.array([m.prompt for m, _ in chosen], dtype=np.int32), counts),
            from_end=np.repeat(lengths - 1, counts) - positions,
            outputs=np.concatenate(outputs),
            ends=tuple(ends),
            end_rows=np.array(end_rows, dtype=np.int32),
        )
        for member, count in chosen:
            member.pending = member.pending[count:]
            member.position += count
            member.reading = bool(member.pending)
        return batch


def common_prefix(prompts: Sequence[Tokens]) -> Tokens:
    """The opening that all prompts share: it is decoded once for all of them, and never captured.

    Each prompt keeps at least one token of its own. Empty when it is too short to be worth it.
    """
    own = [prompt[:-1] for prompt in prompts]
    # What the first and the last of a sorted list share, all of it share.
    pairs = zip(min(own, default=[]), max(own, default=[]), strict=False)
    shared = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return shared if len(shared) >= _SHORTEST_SHARED_PREFIX else []


def does_not_fit(prompt: Tokens, reserve: int, context: int, remedy: str = LARGER_CONTEXT) -> EngineError:
    """The error for a prompt that is too long for a context of so many tokens."""
    return EngineError(
        f"a prompt of {len(prompt)} tokens with {reserve} tokens of answer does not fit into a context of "
        f"{context}",
        remedy,
    )
