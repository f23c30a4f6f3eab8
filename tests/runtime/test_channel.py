"""Objects across a pipe: equal on the other side, whatever their size, and an end in the middle is an end."""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rosi_edge.runtime.channel import receive, send

SHAPES = arrays.array_shapes(max_dims=3, max_side=200)
TYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.uint8, np.bool_])


@dataclass
class Message:
    words: str
    values: Any


def across(value: object) -> Any:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        # A pipe holds little: sending waits for receiving.
        thread = threading.Thread(target=send, args=(theirs, value))
        thread.start()
        received = receive(ours)
        thread.join()
        assert not ours.poll(0), "something of the message was left in the pipe"
    return received


@settings(deadline=None, max_examples=60)
@given(
    words=st.text(),
    shape=SHAPES,
    kind=TYPES,
    order=st.sampled_from("CF"),
    step=st.integers(1, 3),
    rest=st.lists(st.integers() | st.none() | st.binary(max_size=40)),
)
def test_what_arrives_is_what_was_sent(
    words: str, shape: tuple[int, ...], kind: type, order: Any, step: int, rest: list[object]
) -> None:
    numbers = np.random.default_rng(len(words)).integers(0, 2, shape).astype(kind, order=order)[::step]
    message = across((Message(words, numbers), rest, numbers))
    (received, other, again) = message
    assert received.words == words and other == rest
    for array in (received.values, again):
        assert array.dtype == numbers.dtype and array.flags.writeable
        np.testing.assert_array_equal(array, numbers)


def test_large_arrays_come_in_pieces() -> None:
    sizes = (0, 1, 1 << 16, (1 << 20) - 1, 1 << 20, (5 << 20) + 3)
    sent = {size: np.random.default_rng(size).integers(0, 256, size).astype(np.uint8) for size in sizes}
    received = across(sent)
    assert list(received) == list(sizes)
    for size, array in received.items():
        np.testing.assert_array_equal(array, sent[size])
        array[:] = 0  # Nobody else holds it.
    assert sent[1 << 20].any()


def test_a_read_only_array_stays_whole() -> None:
    array = np.arange(100_000.0)
    array.flags.writeable = False
    np.testing.assert_array_equal(across(array), array)


@pytest.mark.parametrize("size", [10, 4 << 20], ids=["between objects", "within an object"])
def test_the_other_side_goes_away(size: int) -> None:
    ours, theirs = multiprocessing.Pipe()

    def send_and_go() -> None:
        with theirs:
            theirs.send_bytes((4 << 20).to_bytes(8, "little"))
            theirs.send_bytes(b"what is packed")
            theirs.send_bytes(bytes(1 << 20))

    with ours:
        if size == 10:
            theirs.close()
        else:
            thread = threading.Thread(target=send_and_go)
            thread.start()
        with pytest.raises(EOFError):
            receive(ours)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send(ours, np.zeros(1 << 20))
