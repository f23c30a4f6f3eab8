"""Taps: which activations to read while a model decodes, and what to keep of them.

A tap names either a block (its output, the residual stream after it) or a weight matrix (the input that
the matrix is multiplied with). What is read arrives a micro-batch at a time as rows; a reducer keeps every
row, their mean, or their second moment, so that memory is that of the result and not of the data.

The tap of a stack of experts gives a result for each expert that any token was sent to, under the name that
``matrix_name`` makes: of the positions read, the inputs that the router sent to this expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32, Int32


class Positions(StrEnum):
    """Which token positions of a prompt are read: the last ones (``TapRequest.last`` many), or all."""

    LAST = "last"
    ALL = "all"


class Keep(StrEnum):
    """What is kept of the rows: all of them, their mean, or the sum of their outer products."""

    ROWS = "rows"
    MEAN = "mean"
    SECOND_MOMENT = "second_moment"


@dataclass(frozen=True)
class TapRequest:
    """What to read.

    Args:
        blocks: blocks whose output (the residual stream after them) is read.
        inputs: names of weight matrices, or stacks of experts, whose input is read.
        last: how many positions ``Positions.LAST`` means, counted from the prompt's end. Positions of a
            prefix that is shared are never read.
        answer: also read this many opening positions of the model's own greedy answer.
        half: keep rows as float16 (clipped to its range), half the memory.
    """

    blocks: tuple[int, ...] = ()
    inputs: tuple[str, ...] = ()
    positions: Positions = Positions.LAST
    keep: Keep = Keep.ROWS
    last: int = 1
    answer: int = 0
    half: bool = False


@dataclass
class Tapped:
    """What one tap gathered.

    Attributes:
        count: rows seen.
        rows: (count, width), with ``Keep.ROWS``; ``prompts`` (count,) says whose row it is, in prompt order,
            and ``from_end`` (count,) how far before its prompt's last token it lies: 0 is that token, and
            -1 the first token of the answer. An expert has rows of some positions only.
        mean: (width,), float64, with ``Keep.MEAN``.
        second_moment: (width, width), XᵀX summed (not averaged), float32, with ``Keep.SECOND_MOMENT``;
            ``mean`` is then there too.
    """

    count: int = 0
    rows: Float32 | None = None
    prompts: Int32 | None = None
    from_end: Int32 | None = None
    mean: npt.NDArray[np.float64] | None = None
    second_moment: Float32 | None = None


Visit = Callable[[int | str, Tapped], None]
"""Receives a block's number or a matrix's name, and what its tap gathered."""


@dataclass
class Capture:
    """Result of a capture: by block, and by matrix name."""

    streams: dict[int, Tapped] = field(default_factory=dict)
    inputs: dict[str, Tapped] = field(default_factory=dict)

    def keep(self, name: int | str, tapped: Tapped) -> None:
        """Take in what was read of one place, as ``Engine.capture_each`` hands it out."""
        if isinstance(name, int):
            self.streams[name] = tapped
        else:
            self.inputs[name] = tapped

    def stream_rows(self, block: int) -> Float32:
        """(rows, hidden) of the stream after ``block``; the capture must have kept rows."""
        rows = self.streams[block].rows
        if rows is None:
            raise ValueError("this capture did not keep rows")
        return rows


class Reducer(Protocol):
    def add(self, rows: Float32, prompts: Int32, from_end: Int32) -> None:
        """Take in rows, (n, width), the prompt of each, and how far before its last token it lies."""
        ...

    def result(self) -> Tapped: ...


_HALF_MAX = float(np.finfo(np.float16).max)


class _KeepRows:
    def __init__(self, half: bool) -> None:
        self._half = half
        self._rows: list[npt.NDArray[np.floating]] = []
        self._prompts: list[Int32] = []
        self._from_end: list[Int32] = []

    def add(self, rows: Float32, prompts: Int32, from_end: Int32) -> None:
        kept: npt.NDArray[np.floating] = rows
        if self._half:
            kept = np.clip(rows, -_HALF_MAX, _HALF_MAX).astype(np.float16)
        self._rows.append(kept)
        self._prompts.append(prompts)
        self._from_end.append(from_end)

    def result(self) -> Tapped:
        rows, prompts, from_end = (
            np.concatenate(parts) for parts in (self._rows, self._prompts, self._from_end)
        )
        # Batches are filled by length; hand the rows back in the caller's order.
        order = np.argsort(prompts, kind="stable")
        return Tapped(
            len(rows), rows=rows[order].astype(np.float32), prompts=prompts[order], from_end=from_end[order]
        )


class _Mean:
    def __init__(self) -> None:
        self._count = 0
        self._sum: npt.NDArray[np.float64] | None = None

    def add(self, rows: Float32, prompts: Int32, from_end: Int32) -> None:
        total = rows.sum(axis=0, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(rows)

    def result(self) -> Tapped:
        assert self._sum is not None
        return Tapped(self._count, mean=self._sum / self._count)


class _SecondMoment(_Mean):
    def __init__(self) -> None:
        super().__init__()
        self._products: Float32 | None = None

    def add(self, rows: Float32, prompts: Int32, from_end: Int32) -> None:
        super().add(rows, prompts, from_end)
        if self._products is None:
            self._products = np.zeros((rows.shape[1], rows.shape[1]), dtype=np.float32)
        self._products += rows.T @ rows

    def result(self) -> Tapped:
        tapped = super().result()
        tapped.second_moment = self._products
        return tapped


def reducer(request: TapRequest) -> Reducer:
    """What gathers the rows of one tap of this request."""
    if request.keep is Keep.ROWS:
        return _KeepRows(request.half)
    return _Mean() if request.keep is Keep.MEAN else _SecondMoment()
