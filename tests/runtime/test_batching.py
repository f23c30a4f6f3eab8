"""Lining prompts up: everything is decoded once, in order, within the limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosi_edge.runtime.batching import Batching, Member, common_prefix

PREFIX = [7, 7, 7]


def numbered(lengths: list[int]) -> list[list[int]]:
    """Prompts behind the prefix, a token telling its prompt and place."""
    return [PREFIX + [1000 * (i + 1) + place for place in range(n)] for i, n in enumerate(lengths)]


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    answers=st.lists(st.integers(0, 5), min_size=12, max_size=12),
    width=st.integers(1, 5),
    batch_size=st.integers(1, 40),
    tail=st.integers(1, 4),
    spare=st.integers(0, 60),
    refill=st.booleans(),
)
def test_every_token_is_decoded_once_and_in_order(
    lengths: list[int],
    answers: list[int],
    width: int,
    batch_size: int,
    tail: int,
    spare: int,
    refill: bool,
) -> None:
    prompts = numbered(lengths)
    reserve = 5
    cells = max(lengths) + reserve + spare
    batching = Batching(
        prompts,
        len(PREFIX),
        reserve=reserve,
        cells=cells,
        width=width,
        batch_size=batch_size,
        tail=tail,
        refill=refill,
    )
    seen: dict[int, list[int]] = {}
    outputs: dict[int, list[int]] = {}
    inside: set[int] = set()
    used: dict[int, int] = {}
    while batching.busy or batching.next_in_line is not None:
        alone = not batching.busy
        admitted = batching.admit()
        assert not admitted or alone or refill
        for member in admitted:
            assert 1 <= member.sequence <= width
            assert member.sequence not in inside
            inside.add(member.sequence)
            used[member.prompt] = member.cells
        assert batching.busy  # whatever waits fits into an empty memory
        assert sum(used.values()) <= cells
        batch = batching.next_batch()
        assert 1 <= len(batch.tokens) <= batch_size
        assert len({len(batch.tokens), len(batch.positions), len(batch.sequences), len(batch.outputs)}) == 1
        for token, position, owner, from_end, wanted in zip(
            batch.tokens, batch.positions, batch.owners, batch.from_end, batch.outputs, strict=True
        ):
            so_far = seen.setdefault(int(owner), [])
            assert position == len(PREFIX) + len(so_far)
            so_far.append(int(token))
            # Of the prompt's tokens the last is 0; an answer's are -1, -2, …
            assert from_end == (lengths[owner] - len(so_far) if token > 0 else token)
            if wanted:
                outputs.setdefault(int(owner), []).append(int(position) - len(PREFIX))
        rows = np.flatnonzero(batch.outputs)
        for member, row in zip(batch.ends, batch.end_rows, strict=True):
            assert batch.owners[rows[row]] == member.prompt
            assert batch.tokens[rows[row]] == seen[member.prompt][-1]
            if len(member.written) < answers[member.prompt]:
                member.written.append(-len(member.written) - 1)
                member.pending = [member.written[-1]]
            else:
                batching.leave(member)
                inside.remove(member.sequence)
                del used[member.prompt]
    for index, length in enumerate(lengths):
        expected = prompts[index][len(PREFIX) :] + [-n - 1 for n in range(answers[index])]
        assert seen[index] == expected
        first = max(0, length - tail)
        assert outputs[index] == list(range(first, length + answers[index]))


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), max_size=5))
def test_what_all_prompts_begin_with_is_shared_if_it_is_long_enough(prompts: list[list[int]]) -> None:
    prompts = [[7, 7, *prompt] for prompt in prompts]
    longest: list[int] = []
    for length in range(min((len(prompt) for prompt in prompts), default=0)):
        if all(prompt[:length] == prompts[0][:length] for prompt in prompts):
            longest = prompts[0][:length]
    assert common_prefix(prompts) == (longest if len(longest) >= 4 else [])


def line_up(refill: bool) -> tuple[Batching, list[Member]]:
    batching = Batching(
        numbered([4, 4, 3]), len(PREFIX), reserve=2, cells=12, width=2, batch_size=32, refill=refill
    )
    first = batching.admit()
    assert [member.prompt for member in first] == [0, 1]
    for member in batching.next_batch().ends:
        member.pending = [1]
    return batching, first


def test_with_refill_a_prompt_starts_where_another_ended() -> None:
    batching, first = line_up(refill=True)
    batching.leave(first[0])
    (late,) = batching.admit()
    assert (late.prompt, late.sequence) == (2, first[0].sequence)
    batch = batching.next_batch()
    # The other one's answer and the new prompt share the batch.
    assert batch.owners.tolist() == [1, 2, 2, 2]


def test_without_refill_a_prompts_batch_does_not_depend_on_other_answers() -> None:
    batching, first = line_up(refill=False)
    batching.leave(first[0])
    assert batching.admit() == []
    assert batching.next_batch().owners.tolist() == [1]
    batching.leave(first[1])
    assert [member.prompt for member in batching.admit()] == [2]


@pytest.mark.parametrize("refill", [False, True])
def test_a_prompt_larger_than_the_memory_is_never_admitted(refill: bool) -> None:
    batching = Batching(
        numbered([9]), len(PREFIX), reserve=4, cells=12, width=2, batch_size=32, refill=refill
    )
    assert batching.admit() == []
    assert not batching.busy
    assert batching.next_in_line == 0
