"""Edits and a file in, a new file out: same types and tensors, the untouched copied byte for byte.

Each edited tensor is rounded on its own and measured on real inputs at once, a few tensors side by side. The
file declares what was done to it (``rosi_edge.declaration``), so that it can be checked later on.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from rosi_edge.declaration import declare, declare_results, sha256_of_bytes
from rosi_edge.errors import RosiEdgeError, UnsupportedModelError
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.models.gguf_file import GgufFile, TensorInfo
from rosi_edge.models.rewrite import NewValue, Retyped, rewrite
from rosi_edge.progress import SILENT, Advance, Progress
from rosi_edge.quantization.codec import dequantize_rows, quantize
from rosi_edge.quantization.promotion import NEVER, Promotion, types_to_try
from rosi_edge.quantization.rounding import Rounding

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_CHUNK_VALUES = 1 << 21
"""Matrix elements handled at a time: 8 MiB as float32, whatever the model's size."""

_MOST_WORKERS = 4
"""Tensors rounded side by side, at most: each takes memory."""

_LEAST_AIM = 0.4
"""A first rounding that delivers less has lost the edit, and asking for more would not bring it back."""

_AIM_TOLERANCE = 0.005

_PATIENCE = 0.1
"""Seconds between two looks at whether the listener wants to cancel."""


class UndeliveredError(RosiEdgeError):
    """A tensor's type is too coarse to hold its edit."""


@dataclass(frozen=True)
class Figures:
    """How an edit arrived.

    Attributes:
        delivered: share of the wanted push that the file's weights give: the slope of the delivered push
            along the edit's output against the wanted one, over probe inputs. 1 is all of it.
        noise: what came out differently from what was wanted, as root mean square over the probe inputs, in
            parts of the wanted change. 0 is none; an edit that was lost whole leaves 1.
    """

    delivered: float
    noise: float


@dataclass(frozen=True)
class BakedTensor:
    """What became of one edit.

    Attributes:
        name: the tensor's, and of an expert also its number.
        type: the type it has in the new file.
        delivered: see ``Figures``.
        noise: see ``Figures``.
        promoted_from: the type it had, if that could not hold the edit.
        aim: how much of the edit was asked for, so that all of it arrives.
        compared: figures of the rounding that was asked for as a comparison.
    """

    name: str
    type: str
    delivered: float
    noise: float
    promoted_from: str | None = None
    aim: float = 1.0
    compared: Figures | None = None


@dataclass(frozen=True)
class _Settings:
    """What is the same for all tensors of a bake."""

    rounding: Rounding
    compare: Rounding | None
    min_delivered: float | None
    promotion: Promotion
    probes: Mapping[str, Float32]
    aims: Mapping[str, Float32]
    stop: threading.Event


@dataclass(frozen=True)
class _Work:
    """One tensor, with its edits and what they became."""

    data: Bytes
    type: gguf.GGMLQuantizationType
    baked: tuple[BakedTensor, ...]
    base_sha256: str
    sha256: str


def bake(
    file: GgufFile,
    target: Path,
    edits: Sequence[RankOneEdit],
    *,
    rounding: Rounding,
    probes: Mapping[str, Float32],
    metadata: Mapping[str, NewValue],
    min_delivered: float | None = None,
    promotion: Promotion = NEVER,
    compare: Rounding | None = None,
    aims: Mapping[str, Float32] | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> list[BakedTensor]:
    """Write ``file`` with every edit (at its full strength) rounded into its tensor.

    The new file also holds the declaration of its edits and a seal. Whatever ``progress`` raises cancels the
    bake, and nothing is left behind.

    Args:
        target: the new file, or the name that its parts get if the model is split.
        edits: at most one a matrix, their strength folded in (``RankOneEdit.scaled``).
        rounding: how changed rows become blocks.
        probes: for each edited matrix (``RankOneEdit.matrix``) real inputs, (n, columns), to measure what
            arrived; others than the rounding was fitted to.
        metadata: keys to add.
        min_delivered: the share of its push that each edit must deliver; None for any.
        promotion: which larger types a tensor may get that does not deliver it.
        compare: another rounding to measure on the same edits; nothing of it is written.
        aims: for each edited matrix further real inputs, neither the rounding's nor the probes: what the
            first rounding delivers too little or too much on them is made good in a second one.
        workers: tensors rounded side by side; None for one a core, up to four.

    Returns:
        what became of each edit, in their order.

    Raises:
        OutputError: the target cannot be written; nothing is left behind.
        UnsupportedModelError: a tensor's type cannot be read or written.
        UndeliveredError: a tensor cannot hold its edit, and may not be promoted to a type that can.
        ValueError: two edits of one matrix, or an edit that does not fit its tensor.
    """
    by_tensor = _by_tensor(file, edits)
    stop = threading.Event()
    settings = _Settings(rounding, compare, min_delivered, promotion, probes, aims or {}, stop)
    workers = workers or min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
    done: dict[str, _Work] = {}
    names = list(by_tensor)

    def results() -> dict[str, NewValue]:
        if not names:
            return {}
        works = [done[name] for name in names]
        return declare_results(
            (work.base_sha256 for work in works),
            (work.sha256 for work in works),
            (result.aim for work in works for result in work.baked),
        )

    with (
        progress.stage("Rounding tensors", len(names)) as advance,
        # Each thread multiplies on its own: a library's threads would wait for each other.
        threadpool_limits(1, "blas"),
        ThreadPoolExecutor(workers, "rounding") as pool,
    ):
        ahead = _Ahead(
            pool, [partial(_bake_tensor, file, by_tensor[name], settings) for name in names], workers
        )

        def make(name: str) -> Callable[[], Bytes | Retyped]:
            def wait() -> Bytes | Retyped:
                work = ahead.next(advance)
                done[name] = replace(work, data=np.empty(0, dtype=np.uint8))
                advance(1)
                return Retyped(work.type, work.data)

            return wait

        try:
            rewrite(
                file,
                target,
                tensors={name: make(name) for name in names},
                metadata={**metadata, **declare(rounding.name, names, _in_order(by_tensor))},
                later=results,
                sealed=True,
                progress=progress,
            )
        except BaseException:
            stop.set()
            ahead.cancel()
            raise
    baked = {result.name: result for work in done.values() for result in work.baked}
    return [baked[edit.matrix] for edit in edits]


def _by_tensor(file: GgufFile, edits: Sequence[RankOneEdit]) -> dict[str, list[RankOneEdit]]:
    """The edits of each tensor, tensors in the order they are written in."""
    grouped: dict[str, list[RankOneEdit]] = {}
    for edit in edits:
        tensor = file.tensors.get(edit.tensor)
        experts = 0 if edit.expert is None else edit.expert + 1
        if tensor is None:
            raise ValueError(f"no such tensor: {edit.tensor}")
        if (
            len(tensor.shape) != (2 if edit.expert is None else 3)
            or tensor.shape[-2:] != (len(edit.output), len(edit.input))
            or experts > tensor.shape[0]
        ):
            raise ValueError(f"the edit of {edit.matrix} does not fit its shape, {tensor.shape}")
        grouped.setdefault(edit.tensor, []).append(edit)
    if len({edit.matrix for edit in edits}) != len(edits):
        raise ValueError("two edits of one matrix")
    ordered = sorted(grouped, key=lambda name: (file.tensors[name].part, file.tensors[name].offset))
    return {name: sorted(grouped[name], key=lambda edit: edit.expert or 0) for name in ordered}


def _in_order(by_tensor: Mapping[str, list[RankOneEdit]]) -> list[RankOneEdit]:
    return [edit for edits in by_tensor.values() for edit in edits]


class _Ahead:
    """Work done in the order it is asked for, a few pieces ahead of the asking.

    No more than ``depth`` results are in memory, however slow the reader is.
    """

    def __init__(self, pool: ThreadPoolExecutor, work: Sequence[Callable[[], _Work]], depth: int) -> None:
        self._pool = pool
        self._waiting = deque(work)
        self._running: deque[Future[_Work]] = deque()
        for _ in range(depth):
            self._start()

    def _start(self) -> None:
        if self._waiting:
            self._running.append(self._pool.submit(self._waiting.popleft()))

    def next(self, advance: Advance) -> _Work:
        future = self._running.popleft()
        while True:
            try:
                work = future.result(timeout=_PATIENCE)
                break
            except TimeoutError:
                if future.done():
                    raise
                advance(0)  # lets the listener cancel
        self._start()
        return work

    def cancel(self) -> None:
        self._waiting.clear()
        for future in self._running:
            future.cancel()


class _CancelledError(Exception):
    """The bake has ended; nobody waits for this tensor any more."""


def _bake_tensor(file: GgufFile, edits: Sequence[RankOneEdit], settings: _Settings) -> _Work:
    tensor = file.tensors[edits[0].tensor]
    old = file.read_tensor(tensor.name)
    best: tuple[float, str] | None = None
    codebook: UnsupportedModelError | None = None
    tried = 0
    for kind in _kinds(tensor, settings):
        try:
            work = _attempt(tensor, old, kind, edits, settings)
        except UnsupportedModelError as error:
            # A codebook has no room for the edit: only a promotion helps.
            codebook = codebook or error
            continue
        short = _short_of(work.baked, settings)
        if short is None:
            return work
        tried += 1
        if best is None or short.delivered > best[0]:
            best = (short.delivered, short.type)
    if best is None:
        assert codebook is not None
        raise codebook
    also = "" if tried == 1 else f", and of {tried} types tried none delivers more than {best[1]}"
    raise UndeliveredError(
        f"{tensor.name} ({tensor.type.name}) delivers only {best[0]:.3f} of its edit{also}",
        "Store such tensors in a larger type with --promote auto, or lower --min-delivered",
    )


def _kinds(tensor: TensorInfo, settings: _Settings) -> Iterator[gguf.GGMLQuantizationType]:
    """The types to try; whether a promotion is possible matters only when it is needed."""
    yield tensor.type
    yield from types_to_try(tensor, settings.promotion)


def _short_of(baked: Sequence[BakedTensor], settings: _Settings) -> BakedTensor | None:
    """The tensor that delivers least, if that is too little. An edit without any push lacks nothing."""
    if settings.min_delivered is None:
        return None
    worst = min(baked, key=lambda result: result.delivered)
    nothing_wanted = worst.delivered == 0 and worst.noise == 0
    return worst if worst.delivered < settings.min_delivered and not nothing_wanted else None


def _attempt(
    tensor: TensorInfo,
    old: Bytes,
    kind: gguf.GGMLQuantizationType,
    edits: Sequence[RankOneEdit],
    settings: _Settings,
) -> _Work:
    """Round a tensor's edits into blocks of one type."""
    rows, columns = tensor.shape[-2:]
    # (matrices, rows, bytes a row): one matrix, or one an expert.
    matrices = old.reshape(-1, rows, old.size // (tensor.elements // columns))
    if kind == tensor.type:
        new = matrices.copy()
    else:
        weights, size = gguf.GGML_QUANT_SIZES[kind]
        new = np.empty((len(matrices), rows, columns // weights * size), dtype=np.uint8)
    baked = []
    for edit in edits:
        number = edit.expert or 0
        blocks = _Blocks(tensor.type, matrices[number], kind, new[number], edit, settings)
        figures, aim = blocks.round(settings.rounding)
        compared = None
        if settings.compare is not None and kind == tensor.type:
            other = replace(blocks, new=np.empty_like(blocks.new))
            compared, _ = other.round(settings.compare)
        baked.append(
            BakedTensor(
                edit.matrix,
                kind.name,
                figures.delivered,
                figures.noise,
                None if kind == tensor.type else tensor.type.name,
                aim,
                compared,
            )
        )
    data = new.reshape(-1)
    return _Work(data, kind, tuple(baked), sha256_of_bytes(old), sha256_of_bytes(data))


@dataclass(frozen=True)
class _Blocks:
    """One matrix on its way into new blocks: rows of bytes as they are, and the rows to fill."""

    kind: gguf.GGMLQuantizationType
    old: Bytes
    new_kind: gguf.GGMLQuantizationType
    new: Bytes
    edit: RankOneEdit
    settings: _Settings

    def round(self, rounding: Rounding) -> tuple[Figures, float]:
        """Fill the new rows; returns what arrived on the probes, and how much was asked for."""
        probe = _Measure(self.edit, self.settings.probes[self.edit.matrix])
        aim = self.settings.aims.get(self.edit.matrix)
        if aim is None:
            self._fill(rounding, 1.0, [probe])
            return probe.figures(), 1.0
        found = _Measure(self.edit, aim)
        self._fill(rounding, 1.0, [probe, found])
        delivered = found.figures().delivered
        if rounding.aims and delivered > _LEAST_AIM and abs(delivered - 1) > _AIM_TOLERANCE:
            probe = _Measure(self.edit, self.settings.probes[self.edit.matrix])
            self._fill(rounding, 1.0 / delivered, [probe])
            return probe.figures(), 1.0 / delivered
        return probe.figures(), 1.0

    def _fill(self, rounding: Rounding, strength: float, measures: Sequence[_Measure]) -> None:
        columns = len(self.edit.input)
        for part in _row_chunks(len(self.old), columns):
            if self.settings.stop.is_set():
                raise _CancelledError
            rows = replace(self.edit, output=self.edit.output[part]).scaled(strength)
            weights = dequantize_rows(self.old[part], columns, self.kind)
            change = rows.delta(1.0)
            name = self.edit.matrix
            if self.new_kind == self.kind:
                self.new[part] = rounding.round(name, self.kind, self.old[part], weights, change)
            else:
                start = quantize(weights, self.new_kind).reshape(len(weights), -1)
                from_start = dequantize_rows(start, columns, self.new_kind)
                change += weights - from_start
                self.new[part] = rounding.round(name, self.new_kind, start, from_start, change, rows)
            moved = dequantize_rows(self.new[part], columns, self.new_kind) - weights
            for measure in measures:
                measure.add(part, moved)


class _Measure:
    """Adds up, rows by rows, what a changed matrix does to probe inputs."""

    def __init__(self, edit: RankOneEdit, probe: Float32) -> None:
        self._edit = edit
        self._probe = probe
        self._wanted = probe @ edit.input  # (n,): what aᵀx should add along the output vector
        self._projected = np.zeros(len(probe))
        self._squared_change = 0.0

    def add(self, part: slice, moved: Float32) -> None:
        outputs = self._probe @ moved.T  # (n, rows of this part)
        self._projected += outputs @ self._edit.output[part]
        self._squared_change += float(np.square(outputs, dtype=np.float64).sum())

    def figures(self) -> Figures:
        wanted, projected = self._wanted, self._projected
        length = float(np.square(self._edit.output, dtype=np.float64).sum())
        wanted_square = float(np.square(wanted, dtype=np.float64).sum())
        if not wanted_square or not length:
            return Figures(0.0, 0.0)
        slope = float(projected @ wanted) / (length * wanted_square)
        # ‖Δx − s·aᵀx‖² summed over the probes, expanded so that no (n, rows) array of all rows is needed.
        noise_square = self._squared_change - 2 * float(projected @ wanted) + length * wanted_square
        return Figures(slope, float(np.sqrt(max(noise_square, 0.0) / (length * wanted_square))))


def _row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Parts of about the same size, each of as few values as a chunk may have, or of one row."""
    count = -(-rows // max(1, _CHUNK_VALUES // columns))
    step = -(-rows // count)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
