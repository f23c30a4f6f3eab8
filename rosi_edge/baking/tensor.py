"""One tensor, rounded: the edit put into its blocks, and what arrived of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import gguf
import numpy as np

from rosi_edge.baking.measure import Arrival, BakedTensor, Measure
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.basics.arrays import Bytes, Float32
from rosi_edge.basics.hashing import sha256_of_bytes
from rosi_edge.edits.rank_one import RankOneEdit, by_matrix, leading
from rosi_edge.errors import RosiEdgeError, UnsupportedModelError
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import TensorInfo
from rosi_edge.models.weights import tensor_and_expert
from rosi_edge.quantization.codec import dequantize_rows, quantize
from rosi_edge.quantization.grid import can_rescale, grid_of
from rosi_edge.quantization.promotion import AUTO, types_to_try

_CHUNK_VALUES = 1 << 21
"""Matrix elements handled at a time: 8 MiB as float32, whatever the model's size."""
_LEAST_AIM = 0.4
"""A first rounding that delivers less has lost the edit, and asking for more would not bring it back."""
_AIM_TOLERANCE = 0.005
_MOST_NOISE = 4.0
"""In parts of the edit. Whatever was delivered under more could not be told from nothing."""
_LARGE_CHANGE = 1 / 32
"""Of the range of codes, as root mean square over a matrix, and a step at least: a larger change runs into
the ends of the range. On the demo model new scales then leave two thirds to an eighth of the noise; below,
they bring nothing."""


class UndeliveredError(RosiEdgeError):
    """A tensor's type is too coarse to hold its edit."""


@dataclass(frozen=True)
class RoundedTensor:
    """One tensor, with its edits and what they became.

    Attributes:
        data: its new bytes, of ``type``.
        base_sha256, sha256: of its bytes before and after.
    """

    data: Bytes
    type: gguf.GGMLQuantizationType
    baked: tuple[BakedTensor, ...]
    base_sha256: str
    sha256: str


class _CancelledError(Exception):
    """The bake has ended; nobody waits for this tensor any more."""


def bake_tensor(
    file: GgufFile | Checkpoint, edits: Sequence[RankOneEdit], settings: BakeSettings
) -> RoundedTensor:
    tensor = file.tensors[edits[0].tensor]
    old = file.read_tensor(tensor.name)
    best: BakedTensor | None = None
    codebook: UnsupportedModelError | None = None
    most_noise = np.inf
    tried = 0
    for kind in _kinds(tensor, settings):
        try:
            work = _attempt(tensor, old, kind, edits, settings)
        except UnsupportedModelError as error:
            # A codebook has no room for the edit: only a promotion helps.
            codebook = codebook or error
            continue
        short = _short_of(work.baked, settings)
        noise = max(result.noise for result in work.baked)
        if short is None and not noise > most_noise:
            return work
        if kind == tensor.type and settings.promotion == AUTO:
            # Other weights than the edited ones are exact as they are; a larger type that rounds them anew
            # may bring more noise than it saves.
            most_noise = noise
        tried += 1
        if short is not None and (best is None or not short.noise >= best.noise):
            best = short
    if best is None:
        assert codebook is not None
        raise codebook
    found = (
        f"delivers only {best.delivered:.3f} of its edit"
        if len(tensor.shape) == 3 or best.noise <= _MOST_NOISE
        else f"would hold its edit under {best.noise:.0f} times as much noise"
    )
    also = "" if tried == 1 else f", and of {tried} types tried none serves better than {best.type}"
    raise UndeliveredError(
        f"{tensor.name} ({tensor.type.name}) {found}{also}",
        "Store such tensors in a larger type with --promote auto, or lower --min-delivered"
        if len(tensor.shape) == 2
        else "Use a file whose experts are stored in a larger type, or lower --min-delivered",
    )


def _kinds(tensor: TensorInfo, settings: BakeSettings) -> Iterator[gguf.GGMLQuantizationType]:
    """The types to try; whether a promotion is possible matters only when it is needed."""
    yield tensor.type
    yield from types_to_try(tensor, settings.promotion)


def _short_of(baked: Sequence[BakedTensor], settings: BakeSettings) -> BakedTensor | None:
    """The matrix that delivers least, if that is too little or drowned in noise. An edit without any push
    lacks nothing. Experts are measured on the few inputs that each gets, so of a stack of them the mean
    counts, of what is delivered alone. With a limit of 0 nothing is too little."""
    pushed = [result for result in baked if result.delivered != 0 or result.noise != 0]
    if not settings.min_delivered or not pushed:
        return None
    worst = min(pushed, key=lambda result: result.delivered)
    most_noise = _MOST_NOISE
    if tensor_and_expert(worst.name)[1] is not None:
        figures = [(result.delivered, result.noise) for result in pushed]
        delivered, noise = np.mean(figures, axis=0).tolist()
        worst, most_noise = replace(worst, delivered=delivered, noise=noise), np.inf
    return worst if worst.delivered < settings.min_delivered or worst.noise > most_noise else None


def _attempt(
    tensor: TensorInfo,
    old: Bytes,
    kind: gguf.GGMLQuantizationType,
    edits: Sequence[RankOneEdit],
    settings: BakeSettings,
) -> RoundedTensor:
    """Round a tensor's edits into blocks of one type."""
    rows, columns = tensor.shape[-2:]
    matrices = _matrices(tensor, old)
    if kind == tensor.type:
        new = matrices.copy()
    else:
        weights, size = gguf.GGML_QUANT_SIZES[kind]
        new = np.empty((len(matrices), rows, columns // weights * size), dtype=np.uint8)
    baked = []
    for name, its in by_matrix(edits).items():
        number = its[0].expert or 0
        blocks = _Blocks(tensor.type, matrices[number], kind, new[number], its, settings)
        rescaled = kind == tensor.type and blocks.large_change()
        blocks = replace(blocks, new_scales=rescaled or kind != tensor.type)
        figures, aim = blocks.round()
        baked.append(
            BakedTensor(
                name,
                kind.name,
                figures.delivered,
                figures.noise,
                None if kind == tensor.type else tensor.type.name,
                aim,
                rescaled=rescaled,
                estimate=figures.estimate,
            )
        )
    data = new.reshape(-1)
    return RoundedTensor(data, kind, tuple(baked), sha256_of_bytes(old), sha256_of_bytes(data))


def _matrices(tensor: TensorInfo, data: Bytes) -> Bytes:
    """A tensor's bytes as (matrices, rows, bytes a row): one matrix, or one an expert."""
    rows, columns = tensor.shape[-2:]
    return data.reshape(-1, rows, data.size // (tensor.elements // columns))


@dataclass(frozen=True)
class _Blocks:
    """One matrix on its way into new blocks: rows of bytes as they are, and the rows to fill."""

    kind: gguf.GGMLQuantizationType
    old: Bytes
    new_kind: gguf.GGMLQuantizationType
    new: Bytes
    edits: tuple[RankOneEdit, ...]
    settings: BakeSettings
    new_scales: bool = False

    def large_change(self) -> bool:
        """Whether the edits ask for more than the scales have room for, and the type can have other ones."""
        if not self.settings.rounding.aims or not can_rescale(self.kind):
            return False
        columns = len(self.edits[0].input)
        # As many rows as a chunk holds say enough of all.
        some = slice(None, None, -(-len(self.old) * columns // _CHUNK_VALUES))
        grid = grid_of(self.kind).read(np.ascontiguousarray(self.old[some]), columns)
        change = self._change(some, 1.0).reshape(len(grid.step), -1, grid.width)
        least = np.float64(max(grid.values.gap, _LARGE_CHANGE * grid.values.range))
        usable = np.isfinite(grid.step) & (grid.step != 0)
        moves = np.square(change, dtype=np.float64).mean(axis=2)[usable]
        moves /= np.square(grid.step[usable] * least)
        # A block next to nothing is not more than full: it must not speak for all the others.
        np.minimum(moves, _LARGE_CHANGE**-2, out=moves)
        return bool(len(moves)) and float(moves.mean()) > 1

    def _change(self, part: slice, strength: float) -> Float32:
        return reduce(
            np.add, (replace(edit, output=edit.output[part]).delta(strength) for edit in self.edits)
        )

    def round(self) -> tuple[Arrival, float]:
        """Fill the new rows; returns what arrived on the probes, and how much was asked for."""
        name = self.edits[0].matrix
        probe = Measure(self.edits, self.settings.probes[name])
        aim = self.settings.aims.get(name)
        if aim is None:
            self._fill(1.0, [probe])
            return probe.figures(), 1.0
        found = Measure(self.edits, aim)
        self._fill(1.0, [probe, found])
        delivered = found.figures().delivered
        if self.settings.rounding.aims and delivered > _LEAST_AIM and abs(delivered - 1) > _AIM_TOLERANCE:
            probe = Measure(self.edits, self.settings.probes[name])
            self._fill(1.0 / delivered, [probe])
            return probe.figures(), 1.0 / delivered
        return probe.figures(), 1.0

    def _fill(self, strength: float, measures: Sequence[Measure]) -> None:
        name, columns = self.edits[0].matrix, len(self.edits[0].input)
        rounding = self.settings.rounding
        # What a rounding is told of a change that is no longer of rank one, or holds more than the edits.
        main = leading(self.edits).scaled(strength)
        for part in _row_chunks(len(self.old), columns):
            if self.settings.stop.is_set():
                raise _CancelledError
            weights = dequantize_rows(self.old[part], columns, self.kind)
            change = self._change(part, strength)
            output = main.output[part]
            if not self.new_scales:
                told = (main.input, output) if len(self.edits) > 1 else ()
                self.new[part] = rounding.round(name, self.kind, self.old[part], weights, change, *told)
            else:
                start = quantize(weights + change, self.new_kind).reshape(len(weights), -1)
                from_start = dequantize_rows(start, columns, self.new_kind)
                change += weights - from_start
                self.new[part] = rounding.round(
                    name, self.new_kind, start, from_start, change, main.input, output
                )
            moved = dequantize_rows(self.new[part], columns, self.new_kind) - weights
            for measure in measures:
                measure.add(part, moved)


def _row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Parts of about the same size, each of as few values as a chunk may have, or of one row."""
    count = -(-rows // max(1, _CHUNK_VALUES // columns))
    step = -(-rows // count)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
