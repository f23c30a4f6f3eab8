"""Edits and a file in, a new file out: same types and tensors, the untouched copied byte for byte.

Each edited tensor is rounded on its own and measured on real inputs at once, a few tensors side by side. The
file declares what was done to it (``rosi_edge.declaration``), so that it can be checked later on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from rosi_edge.ahead import Ahead
from rosi_edge.cores import usable_cores
from rosi_edge.declaration import declare, declare_results, sha256_of_bytes
from rosi_edge.errors import RosiEdgeError, UnsupportedModelError
from rosi_edge.evaluation.statistics import Estimate, ratio_of_sums
from rosi_edge.injection.edits import (
    MOST_DIRECTIONS,
    RankOneEdit,
    by_matrix,
    leading,
    tensor_and_expert,
)
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile, TensorInfo
from rosi_edge.models.inspect import OWN_PREFIX
from rosi_edge.models.rewrite import NewValue, Retyped, rewrite
from rosi_edge.progress import SILENT, Progress
from rosi_edge.quantization.codec import dequantize_rows, quantize
from rosi_edge.quantization.grid import can_rescale, grid_of, supported_grids
from rosi_edge.quantization.promotion import AUTO, NEVER, Promotion, types_to_try
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

_MOST_NOISE = 4.0
"""In parts of the edit. Whatever was delivered under more could not be told from nothing."""

_LARGE_CHANGE = 1 / 32
"""Of the range of codes, as root mean square over a matrix, and a step at least: a larger change runs into
the ends of the range. On the demo model new scales then leave two thirds to an eighth of the noise; below,
they bring nothing."""


def ignore_rounded(result: BakedTensor) -> None:
    """For whoever does not want to hear of single matrices."""


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
        estimate: what was delivered, with its interval over the probe inputs; None for too few of them.
    """

    delivered: float
    noise: float
    estimate: Estimate | None = None


@dataclass(frozen=True)
class BakedTensor:
    """What became of the edits of one matrix.

    Attributes:
        name: the tensor's, and of an expert also its number.
        type: the type it has in the new file.
        delivered: see ``Figures``.
        noise: see ``Figures``.
        promoted_from: the type it had, if that could not hold the edit.
        rescaled: whether its blocks got other scales, because the edit is larger than their steps.
        aim: how much of the edit was asked for, so that all of it arrives.
        compared: figures of the rounding that was asked for as a comparison.
        estimate: see ``Figures``.
    """

    name: str
    type: str
    delivered: float
    noise: float
    promoted_from: str | None = None
    aim: float = 1.0
    compared: Figures | None = None
    rescaled: bool = False
    estimate: Estimate | None = None


@dataclass(frozen=True)
class Settings:
    """What is the same for all tensors of a bake; see ``bake``."""

    rounding: Rounding
    probes: Mapping[str, Float32]
    aims: Mapping[str, Float32]
    min_delivered: float | None = None
    promotion: Promotion = NEVER
    compare: Rounding | None = None
    stop: threading.Event = field(default_factory=threading.Event)


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
    declared: Sequence[RankOneEdit] | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
    rounded: Callable[[BakedTensor], None] = ignore_rounded,
) -> list[BakedTensor]:
    """Write ``file`` with every edit (at its full strength) rounded into its tensor.

    The new file also holds the declaration of its edits and a seal. Whatever ``progress`` raises cancels the
    bake, and nothing is left behind.

    Args:
        target: the new file, or the name that its parts get if the model is split.
        edits: their strength folded in (``RankOneEdit.scaled``); several of one matrix are added up.
        rounding: how changed rows become blocks.
        probes: for each edited matrix (``RankOneEdit.matrix``) real inputs, (n, columns), to measure what
            arrived; others than the rounding was fitted to.
        metadata: keys to add.
        min_delivered: the share of its push that each edit must deliver; None for any.
        promotion: which larger types a tensor may get that does not deliver it.
        compare: another rounding to measure on the same edits; nothing of it is written.
        aims: for each edited matrix further real inputs, neither the rounding's nor the probes: what the
            first rounding delivers too little or too much on them is made good in a second one.
        declared: what the edits are a corrected form of, one for each and with its output; where they differ
            the file declares both. None for the edits themselves.
        workers: tensors rounded side by side; None for one a core, up to four.
        rounded: called with what became of each matrix, in the order of the file, while the rest is still
            being rounded; raising from it ends the bake as raising from ``progress`` does.

    Returns:
        what became of each matrix, in the order of their first edits.

    Raises:
        OutputError: the target cannot be written; nothing is left behind.
        UnsupportedModelError: a tensor's type cannot be read or written.
        UndeliveredError: a tensor cannot hold its edit, and may not be promoted to a type that can.
        ValueError: more than ``MOST_DIRECTIONS`` edits of one matrix, or one that does not fit its tensor.
    """
    by_tensor = edits_by_tensor(file, edits)
    settings = Settings(rounding, probes, aims or {}, min_delivered, promotion, compare)
    done: dict[str, RoundedTensor] = {}
    names = list(by_tensor)
    asked = _in_order(by_tensor)
    exact = asked if declared is None else _in_order(edits_by_tensor(file, declared))
    declaration = declare(rounding.name, names, exact, asked)

    def results() -> dict[str, NewValue]:
        if not names:
            return {}
        works = [done[name] for name in names]
        baked = {result.name: result for work in works for result in work.baked}
        return declare_results(
            (work.base_sha256 for work in works),
            (work.sha256 for work in works),
            (baked[edit.matrix].aim for edit in asked),
            (baked[edit.matrix].rescaled for edit in asked),
        )

    with rounding_ahead(
        file, by_tensor, settings, workers=workers, progress=progress, rounded=rounded
    ) as following:

        def make(name: str) -> Callable[[], Retyped]:
            def wait() -> Retyped:
                work = following()
                done[name] = replace(work, data=np.empty(0, dtype=np.uint8))
                return Retyped(work.type, work.data)

            return wait

        rewrite(
            file,
            target,
            tensors={name: make(name) for name in names},
            metadata={**metadata, **declaration},
            later=results,
            # What an earlier hardening said of itself is no longer so.
            dropped=[key for key in file.fields if key.startswith(OWN_PREFIX)],
            sealed=True,
            progress=progress,
        )
    baked = {result.name: result for work in done.values() for result in work.baked}
    return [baked[name] for name in by_matrix(edits)]


@contextmanager
def rounding_ahead(
    file: GgufFile | Checkpoint,
    by_tensor: Mapping[str, Sequence[RankOneEdit]],
    settings: Settings,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
    rounded: Callable[[BakedTensor], None] = ignore_rounded,
) -> Iterator[Callable[[], RoundedTensor]]:
    """Round tensors side by side, a few ahead of the asking.

    Args:
        by_tensor: what ``edits_by_tensor`` gives.
        workers: tensors rounded side by side; None for one a core, up to four.
        rounded: called with what became of each matrix, as its tensor is handed out.

    Yields:
        a function that waits for the next tensor, in the order of ``by_tensor``.
    """
    workers = workers or min(usable_cores(), _MOST_WORKERS)
    with (
        progress.stage("Rounding tensors", len(by_tensor)) as advance,
        # Each thread multiplies on its own: a library's threads would wait for each other.
        threadpool_limits(1, "blas"),
        Ahead(
            "rounding",
            workers,
            [partial(_bake_tensor, file, edits, settings) for edits in by_tensor.values()],
        ) as ahead,
    ):

        def following() -> RoundedTensor:
            work = ahead.next(advance)
            advance(1)
            for result in work.baked:
                rounded(result)
            return work

        try:
            yield following
        except BaseException:
            settings.stop.set()
            raise


def edits_by_tensor(
    file: GgufFile | Checkpoint, edits: Sequence[RankOneEdit]
) -> dict[str, list[RankOneEdit]]:
    """The edits of each tensor, tensors in the order they are written in.

    Raises:
        ValueError: more than ``MOST_DIRECTIONS`` edits of one matrix, or one that does not fit its tensor.
    """
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
    for name, its in by_matrix(edits).items():
        if len(its) > MOST_DIRECTIONS:
            raise ValueError(f"{len(its)} edits of {name}")
    ordered = sorted(grouped, key=lambda name: (file.tensors[name].part, file.tensors[name].offset))
    return {name: sorted(grouped[name], key=lambda edit: edit.expert or 0) for name in ordered}


def _in_order(by_tensor: Mapping[str, list[RankOneEdit]]) -> list[RankOneEdit]:
    return [edit for edits in by_tensor.values() for edit in edits]


class _CancelledError(Exception):
    """The bake has ended; nobody waits for this tensor any more."""


def _bake_tensor(
    file: GgufFile | Checkpoint, edits: Sequence[RankOneEdit], settings: Settings
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
            return _with_comparison(work, tensor, old, edits, settings)
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


def _kinds(tensor: TensorInfo, settings: Settings) -> Iterator[gguf.GGMLQuantizationType]:
    """The types to try; whether a promotion is possible matters only when it is needed."""
    yield tensor.type
    yield from types_to_try(tensor, settings.promotion)


def _short_of(baked: Sequence[BakedTensor], settings: Settings) -> BakedTensor | None:
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
    settings: Settings,
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
        figures, aim = blocks.round(settings.rounding)
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


def _with_comparison(
    work: RoundedTensor,
    tensor: TensorInfo,
    old: Bytes,
    edits: Sequence[RankOneEdit],
    settings: Settings,
) -> RoundedTensor:
    """With the figures of the other rounding, in the tensor's own type, whatever it has got."""
    if settings.compare is None or tensor.type not in supported_grids():
        return work
    matrices = _matrices(tensor, old)
    baked = []
    for result, its in zip(work.baked, by_matrix(edits).values(), strict=True):
        own = matrices[its[0].expert or 0]
        blocks = _Blocks(tensor.type, own, tensor.type, np.empty_like(own), its, settings)
        baked.append(replace(result, compared=blocks.round(settings.compare)[0]))
    return replace(work, baked=tuple(baked))


@dataclass(frozen=True)
class _Blocks:
    """One matrix on its way into new blocks: rows of bytes as they are, and the rows to fill."""

    kind: gguf.GGMLQuantizationType
    old: Bytes
    new_kind: gguf.GGMLQuantizationType
    new: Bytes
    edits: tuple[RankOneEdit, ...]
    settings: Settings
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

    def round(self, rounding: Rounding) -> tuple[Figures, float]:
        """Fill the new rows; returns what arrived on the probes, and how much was asked for."""
        name = self.edits[0].matrix
        probe = _Measure(self.edits, self.settings.probes[name])
        aim = self.settings.aims.get(name)
        if aim is None:
            self._fill(rounding, 1.0, [probe])
            return probe.figures(), 1.0
        found = _Measure(self.edits, aim)
        self._fill(rounding, 1.0, [probe, found])
        delivered = found.figures().delivered
        if rounding.aims and delivered > _LEAST_AIM and abs(delivered - 1) > _AIM_TOLERANCE:
            probe = _Measure(self.edits, self.settings.probes[name])
            self._fill(rounding, 1.0 / delivered, [probe])
            return probe.figures(), 1.0 / delivered
        return probe.figures(), 1.0

    def _fill(self, rounding: Rounding, strength: float, measures: Sequence[_Measure]) -> None:
        name, columns = self.edits[0].matrix, len(self.edits[0].input)
        # What a rounding is told of a change that is no longer of rank one, or holds more than the edits.
        main = leading(self.edits).scaled(strength)
        for part in _row_chunks(len(self.old), columns):
            if self.settings.stop.is_set():
                raise _CancelledError
            weights = dequantize_rows(self.old[part], columns, self.kind)
            change = self._change(part, strength)
            rows = replace(main, output=main.output[part])
            if not self.new_scales:
                told = rows if len(self.edits) > 1 else None
                self.new[part] = rounding.round(name, self.kind, self.old[part], weights, change, told)
            else:
                start = quantize(weights + change, self.new_kind).reshape(len(weights), -1)
                from_start = dequantize_rows(start, columns, self.new_kind)
                change += weights - from_start
                self.new[part] = rounding.round(name, self.new_kind, start, from_start, change, rows)
            moved = dequantize_rows(self.new[part], columns, self.new_kind) - weights
            for measure in measures:
                measure.add(part, moved)


class _Measure:
    """Adds up, rows by rows, what a changed matrix does to probe inputs."""

    def __init__(self, edits: Sequence[RankOneEdit], probe: Float32) -> None:
        self._probe = probe
        self._outputs = np.stack([edit.output for edit in edits], axis=1)  # (rows, k)
        # (n, k): what each aᵀx should add along its output vector.
        self._wanted = probe @ np.stack([edit.input for edit in edits], axis=1)
        self._projected = np.zeros(self._wanted.shape)
        self._squared_change = 0.0

    def add(self, part: slice, moved: Float32) -> None:
        outputs = self._probe @ moved.T  # (n, rows of this part)
        self._projected += outputs @ self._outputs[part]
        self._squared_change += float(np.square(outputs, dtype=np.float64).sum())

    def figures(self) -> Figures:
        wanted = self._wanted.astype(np.float64)
        outputs = self._outputs.astype(np.float64)
        each_along = np.einsum("nk,nk->n", self._projected, wanted)
        each_square = np.einsum("nk,kj,nj->n", wanted, outputs.T @ outputs, wanted, optimize=True)
        along, square = float(each_along.sum()), float(each_square.sum())
        if not square > 0:
            return Figures(0.0, 0.0)
        # ‖Δx − Σ s·aᵀx‖² summed over the probes, expanded so that no (n, rows) array of all rows is needed.
        noise_square = self._squared_change - 2 * along + square
        return Figures(
            along / square,
            float(np.sqrt(max(noise_square, 0.0) / square)),
            ratio_of_sums(each_along, each_square),
        )


def _row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Parts of about the same size, each of as few values as a chunk may have, or of one row."""
    count = -(-rows // max(1, _CHUNK_VALUES // columns))
    step = -(-rows // count)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
