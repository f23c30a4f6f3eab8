"""Probabilities of several continuations of one prompt, the prompt read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import Advance, count_done
from rosi_edge.errors import EngineError
from rosi_edge.runtime.batching import LARGER_CONTEXT
from rosi_edge.runtime.engine import Tokens
from rosi_edge.runtime.logits import log_softmax, log_sum_exp
from rosi_edge.runtime.memory import Memory

_SCORED_AT_A_TIME = 128
"""Continuation tokens decoded at once: each needs a row of logits, four bytes times the vocabulary."""

Group = tuple[Tokens, Sequence[Tokens]]
"""A context and its continuations."""

Gather = Callable[[int, int, Float32, Tokens], None]
"""Receives the numbers of a group and a branch, the logits before some tokens of the branch, (tokens,
vocabulary), and those tokens; called in order of position."""


def score(
    memory: Memory, groups: Sequence[Group], width: int, advance: Advance | None
) -> list[list[Float32]]:
    """See ``Engine.score_continuations``.

    Args:
        width: branches side by side.
    """
    scores: list[list[Float32]] = [
        [np.empty(0, dtype=np.float32) for _ in branches] for _, branches in groups
    ]

    def gather(group: int, branch: int, rows: Float32, tokens: Tokens) -> None:
        picked = rows[np.arange(len(tokens)), tokens] - log_sum_exp(rows)
        scores[group][branch] = np.concatenate([scores[group][branch], picked]).astype(np.float32)

    _decode(memory, groups, width, gather, advance)
    return scores


def logprobs(memory: Memory, groups: Sequence[tuple[Tokens, Tokens]], width: int) -> list[Float32]:
    """See ``Engine.continuation_logprobs``."""
    collected: list[list[Float32]] = [[] for _ in groups]

    def gather(group: int, branch: int, rows: Float32, tokens: Tokens) -> None:
        collected[group].append(log_softmax(rows))

    _decode(memory, [(prompt, [tokens]) for prompt, tokens in groups], width, gather, None)
    return [np.concatenate(rows) for rows in collected]


def _decode(
    memory: Memory, groups: Sequence[Group], width: int, gather: Gather, advance: Advance | None
) -> None:
    if any(not tokens for _, branches in groups for tokens in branches):
        raise EngineError("an empty continuation cannot be scored")
    prefix = memory.open_prefix([context for context, _ in groups])
    try:
        for members in _waves(groups, prefix, width, memory.context.size):
            _decode_wave(memory, groups, members, prefix, gather)
            count_done(advance, len(members))
    except BaseException:
        memory.forget()
        raise


def _waves(groups: Sequence[Group], prefix: int, width: int, size: int) -> Iterator[list[int]]:
    """Groups that fit into the context together, by number."""
    members: list[int] = []
    cells, used = prefix, 0
    for number, (context, branches) in enumerate(groups):
        need = len(context) - prefix + sum(len(tokens) for tokens in branches)
        if members and (cells + need > size or used + len(branches) > width):
            yield members
            members, cells, used = [], prefix, 0
        if cells + need > size or len(branches) > width:
            raise EngineError(
                f"a context of {len(context)} tokens with {len(branches)} continuations does not fit",
                LARGER_CONTEXT,
            )
        members.append(number)
        cells, used = cells + need, used + len(branches)
    if members:
        yield members


def _decode_wave(
    memory: Memory, groups: Sequence[Group], members: Sequence[int], prefix: int, gather: Gather
) -> None:
    context = memory.context
    sequences: list[tuple[int, int, int]] = []  # (group, branch, sequence)
    suffixes, first = [], []
    for group in members:
        first.append(len(sequences) + 1)
        suffixes.append(groups[group][0][prefix:])
        sequences += [(group, b, len(sequences) + 1 + b) for b in range(len(groups[group][1]))]
    logits = memory.prefill(suffixes, prefix, first)
    tokens: list[int] = []
    positions: list[int] = []
    owners: list[int] = []
    for group, branch, sequence in sequences:
        row = members.index(group)
        if sequence != first[row]:
            context.copy_sequence(first[row], sequence)
        continuation = groups[group][1][branch]
        gather(group, branch, logits[row : row + 1], continuation[:1])
        tokens += continuation[:-1]
        positions += range(len(groups[group][0]), len(groups[group][0]) + len(continuation) - 1)
        owners += [sequence] * (len(continuation) - 1)
    by_sequence = {sequence: (group, branch) for group, branch, sequence in sequences}
    done: dict[int, int] = dict.fromkeys(by_sequence, 1)
    step = min(context.batch_size, _SCORED_AT_A_TIME)
    for start in range(0, len(tokens), step):
        part = owners[start : start + step]
        context.decode(
            np.array(tokens[start : start + step], dtype=np.int32),
            np.array(positions[start : start + step], dtype=np.int32),
            np.array(part, dtype=np.int32),
            np.ones(len(part), dtype=np.int8),
        )
        rows = context.logits(len(part))
        for sequence in dict.fromkeys(part):
            group, branch = by_sequence[sequence]
            mine = np.array([owner == sequence for owner in part])
            at = done[sequence]
            done[sequence] = at + int(mine.sum())
            gather(group, branch, rows[mine], groups[group][1][branch][at : done[sequence]])
    for _, _, sequence in sequences:
        context.remove_sequence(sequence)
