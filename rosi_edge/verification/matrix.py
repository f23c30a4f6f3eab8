"""One edited matrix against its base: is the difference the declared edit and rounding?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Bytes, Codes, Float32
from rosi_edge.edits.rank_one import RankOneEdit, cosine
from rosi_edge.errors import UnsupportedModelError
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import TensorInfo
from rosi_edge.quantization.codec import dequantize_bytes, quantize
from rosi_edge.quantization.grid import grid_of, supported_grids
from rosi_edge.quantization.grid_rounding import REACH
from rosi_edge.quantization.grids.base import Grid
from rosi_edge.quantization.grids.floats import FloatGrid
from rosi_edge.quantization.promotion import types_to_try
from rosi_edge.quantization.spanning_grid import spanning_grid
from rosi_edge.verification.result import Scales, TensorCheck
from rosi_edge.verification.structure import Remainder, Structure

_CHUNK_VALUES = 1 << 21
_FURTHEST = REACH + 0.51
"""Steps. Half a step more than rounding reaches: a float off the steps of its row is rounded once more."""
_ROUNDING_NOISE = 1.0
"""Root mean square of what rounding leaves, in steps, at most. A code chosen at random among the nearest two
leaves 0.58, and making good others' errors adds to that."""
_MOST_REMOVED = 0.15
"""Share of a direction that what rounding leaves may take out of a matrix, beyond chance."""
_MOST_OUTSIDE = 6.0
"""Leading singular value of what rounding leaves, beyond functions of the declared outputs, in edges of a
random matrix."""
_MOST_NOISE = 1.6
"""What rounding without a grid leaves, in parts of what the quantizer leaves of the same weights."""
_REMOVES = 0.9
"""Cosine between an edit's input and −Wᵀu from which on the edit takes u out of W."""
LEAST_ALONG, MOST_ALONG = 0.1, 1.5
"""The change's share along the edit. Rounding that follows inputs brings the whole push on these inputs with
changes that need not be along the edit everywhere: 0.4 and more was measured on real tensors."""
DEVIATIONS = 6.0
_COARSEST = 2.5
"""New scales' mean square, in parts of what just spans the wanted weights: limits that are counted in steps
do not see them grow. The quantizer's own came to 2.2 at most, over all types and kinds of weights."""
_OUTSIDE = 0.5
"""Root mean square of how far the weights of a row lie outside the range of its codes, in steps, at most. The
quantizer's own scales left 0.41 at most."""
_NO_STEP = 0.125
"""A step of zero is right for weights that need less than this share of their row's largest step."""
_COARSEST_REQUANTIZED = 8.0
"""New scales' mean square in parts of the quantizer's own, under an importance matrix, of which nothing is
known here."""
_MORE_OUTSIDE = 0.25
"""Share of a row's weights that may lie outside the range of its codes, above that of a quantizer without an
importance matrix. Matrices with columns up to 100,000 times as important as others brought 0.13 more."""
Edits = tuple[tuple[RankOneEdit, ...], float, bool]
"""The edits of one matrix, how much of them was asked for, and whether it was given other scales."""


class EditedMatrix:
    """One edited matrix, read a few rows at a time."""

    def __init__(
        self,
        base: GgufFile | Checkpoint,
        file: GgufFile | Checkpoint,
        old: TensorInfo,
        new: TensorInfo,
        number: int,
        edits: Edits | None,
        rounding: str,
    ) -> None:
        self._base, self._file = base, file
        self._old, self._new = old, new
        self._number = number
        self._edits, self._aim, self._rescaled = edits or ((), 1.0, False)
        self._requantized = rounding == "requantize"
        self._promoted = old.type != new.type
        self._rows, self._columns = old.shape[-2:]
        self._scales: Scales = "untouched"
        if self._promoted:
            self._scales = "promoted"
        elif self._requantized:
            self._scales = "requantized"
        elif self._rescaled:
            self._scales = "rescaled"
        elif old.type in supported_grids() and isinstance(grid_of(old.type), FloatGrid):
            self._scales = "none"
        self._problems: list[str] = []
        self._changed = 0
        self._proven = self._requantized
        self._largest: float | None = None
        self._squares = self._counted = 0.0
        self._along = self._wanted = self._spread = 0.0
        self._remainder = Remainder(self._rows, self._columns)
        self._written = [np.zeros(self._columns) for _ in self._edits]

    @property
    def stacked(self) -> bool:
        """Whether it is an expert. Each is rounded by few inputs, and how much of an edit much smaller than a
        step lies along the edit itself scatters widely: that is asked of all edited experts together."""
        return len(self._old.shape) == 3

    @property
    def along(self) -> tuple[float, float, float]:
        """After ``check``, to be added up: the change along the edit, that of the edit itself, and the
        squared deviation of the first; nothing where more was proven."""
        return (0.0, 0.0, 0.0) if self._proven else (self._along, self._wanted, self._spread)

    def differs(self) -> bool:
        return any(old.tobytes() != new.tobytes() for _, old, new in self._parts())

    def _parts(self) -> Iterator[tuple[slice, Bytes, Bytes]]:
        """Rows of both files, (rows, bytes a row)."""
        step = max(1, _CHUNK_VALUES // self._columns)
        matrices = self._old.elements // (self._rows * self._columns)
        for start in range(0, self._rows, step):
            part = slice(start, min(start + step, self._rows))
            pair = []
            for file, tensor in ((self._base, self._old), (self._file, self._new)):
                row = tensor.size // (matrices * self._rows)
                at = (self._number * self._rows + start) * row
                count = part.stop - part.start
                pair.append(file.read_tensor(tensor.name, at, count * row).reshape(count, row))
            yield part, pair[0], pair[1]

    def check(self, *, again: bool = False) -> TensorCheck:
        """
        Args:
            again: the base holds an edit already, so that what it writes and what rounding leaves have much
                in common: whether a direction was taken out cannot be told.
        """
        assert self._edits
        for part, old, new in self._parts():
            with np.errstate(all="ignore"):
                self._look(part, old, new)
        along = noise_along = None
        if self._wanted > 0:
            along = self._along / self._wanted
            # By what rounding leaves, if it were independent of the edit.
            noise_along = DEVIATIONS * float(np.sqrt(self._spread)) / self._wanted
            least, most = LEAST_ALONG + noise_along, MOST_ALONG + noise_along
            if self.stacked:
                # Of one expert, whatever chance cannot explain.
                least = LEAST_ALONG - noise_along
            if not self._proven and not least <= along <= most:
                self._problems.append(f"holds {along:.3f} of the declared edit itself")
        elif self._changed:
            self._problems.append("differs, though the declared edit is nothing")
        for edit, written in zip(self._edits, self._written, strict=True):
            if -cosine(edit.input, written) >= _REMOVES:
                self._problems.append(
                    "is declared to get an edit that takes a direction out of what it writes, as "
                    "abliteration does: that is no hardening"
                )
        noise = float(np.sqrt(self._squares / self._counted)) if self._counted else None
        if noise is not None and not noise <= _ROUNDING_NOISE:
            self._problems.append(
                f"lies {noise:.2f} steps from the declared edit, more than rounding explains"
            )
        if self._promoted and not self._may_be_promoted():
            self._problems.append("has a type that a bake never gives it")
        structure = None
        if not self._proven:
            edits = self._edits
            structure = self._remainder.structure([e.output for e in edits], [e.input for e in edits])
        if structure is not None:
            self._judge(structure, again)
        # A quantizer that chooses scales anew may let outliers go.
        if self._largest is not None and not self._requantized and not self._largest <= _FURTHEST:
            self._problems.append(f"holds a weight that is {self._largest:.1f} steps from the declared edit")
        return TensorCheck(
            name=self._edits[0].matrix,
            type=self._new.type.name,
            base_type=self._old.type.name,
            passed=not self._problems,
            problems=self._problems,
            changed=self._changed,
            scales=self._scales,
            largest_step=self._largest,
            noise_steps=noise,
            along_edit=along,
            along_edit_by_chance=noise_along,
        )

    def _may_be_promoted(self) -> bool:
        if self._new.type not in supported_grids():
            return False
        with suppress(UnsupportedModelError):
            return bool(types_to_try(self._old, self._new.type))
        return False

    def _judge(self, structure: Structure, again: bool) -> None:
        most = _MOST_REMOVED + structure.removed_by_chance
        if not (again or structure.removed <= most):
            self._problems.append(
                f"takes {structure.removed:.0%} of a direction out of what the matrix writes, or adds it, "
                "beside the declared edit"
            )
        elif not structure.outside <= _MOST_OUTSIDE:
            self._problems.append(
                f"holds another edit beside the declared one: what rounding should leave has structure "
                f"({structure.outside:.1f} times what noise has)"
            )

    def _look(self, part: slice, old: Bytes, new: Bytes) -> None:
        before = dequantize_bytes(old, (len(old), self._columns), self._old.type)
        after = dequantize_bytes(new, (len(new), self._columns), self._new.type)
        wanted = np.zeros_like(before)
        for edit, written in zip(self._edits, self._written, strict=True):
            wanted += np.outer(edit.output[part], edit.input)
            written += edit.output[part].astype(np.float64) @ before
        if self._requantized and not self._promoted and self._quantized_again(new, before + wanted):
            # The very bytes that quantizing again gives: there is nothing left to ask.
            self._changed += int(np.count_nonzero(before != after))
            self._add_along(after - before, wanted, 0.0)
            return
        self._proven = False
        differs = before != after
        differs &= ~(np.isnan(before) & np.isnan(after))
        self._changed += int(np.count_nonzero(differs))
        rest = after - before - wanted
        finite = np.isfinite(rest)
        rest[~finite] = 0
        self._add_along(np.where(finite, after - before, 0), np.where(finite, wanted, 0), rest)
        asked = (before + self._aim * wanted).astype(np.float32)
        beyond = np.where(finite, after - asked, 0)
        reachable = self._reachable(old, new, before, asked)
        if reachable is None:
            self._look_without_grid(part, before, beyond, asked)
            return
        nearest, steps = reachable
        usable = np.isfinite(steps) & (steps > 0) & finite
        if np.any(differs & ~usable):
            self._complain("holds weights that no code can change, and that are not the base's")
        signed = np.divide(after - nearest, steps, out=np.zeros_like(rest), where=usable)
        self._remainder.add(part, before, after - nearest, signed)
        distance = np.abs(signed)
        self._largest = max(self._largest or 0.0, float(distance.max(initial=0)))
        self._squares += float(np.square(distance, dtype=np.float64).sum())
        self._counted += distance.size

    def _look_without_grid(self, part: slice, before: Float32, beyond: Float32, asked: Float32) -> None:
        """Of codebooks there are no steps; the quantizer says how much noise they leave."""
        kind = self._new.type
        again = quantize(asked, kind, np.ones(self._columns, np.float32)).reshape(len(asked), -1)
        left = dequantize_bytes(again, asked.shape, kind) - asked
        usual = np.sqrt(np.mean(np.square(left)))
        step = np.float32(usual) if usual > 0 else np.float32(np.finfo(np.float32).tiny)
        self._remainder.add(part, before, beyond, beyond / step)
        if not np.sqrt(np.mean(np.square(beyond / step, dtype=np.float64))) <= _MOST_NOISE:
            self._complain("lies further from the declared edit than its type explains")

    def _add_along(self, change: Float32, wanted: Float32, rest: Float32 | float) -> None:
        self._along += float(np.einsum("rc,rc->", change, wanted, dtype=np.float64))
        self._wanted += float(np.square(wanted, dtype=np.float64).sum())
        self._spread += float(np.square(rest * wanted, dtype=np.float64).sum())

    def _quantized_again(self, new: Bytes, wanted: Float32) -> bool:
        try:
            return quantize(wanted.astype(np.float32), self._new.type).tobytes() == new.tobytes()
        except UnsupportedModelError:
            return False  # a type that the quantizer cannot write

    def _reachable(
        self, old: Bytes, new: Bytes, before: Float32, wanted: Float32
    ) -> tuple[Float32, Float32] | None:
        """The wanted weights as far as the range of codes goes, and how far a weight's neighbours on the grid
        lie, (rows, columns) each; None where there is no grid."""
        kind = self._new.type
        if kind not in supported_grids():
            return None
        blocks = grid_of(kind)
        keeps_scales = not (self._promoted or self._requantized or self._rescaled)
        grid = blocks.read(new, self._columns)
        if isinstance(blocks, FloatGrid):
            # A promoted tensor starts from the wanted weights in the new type.
            start = quantize(wanted, kind).reshape(new.shape) if self._promoted else old
            return wanted, _float_steps(blocks, grid, start, self._columns)
        codes = grid.codes
        unheld = np.zeros(grid.step.shape, dtype=bool)
        chosen: Grid | None = None
        if keeps_scales:
            if not np.array_equal(blocks.write(old, codes), new):
                self._scales = "changed"
                self._complain("has other scales than the base")
            grid = blocks.read(old, self._columns)
        else:
            # Its scales were chosen for the wanted weights.
            if self._requantized:
                chosen = blocks.read(quantize(wanted, kind).reshape(new.shape), self._columns)
                fine = _squares(grid.step) <= _COARSEST_REQUANTIZED * _squares(chosen.step)
                unheld = (grid.step == 0) & (chosen.step == 0)
            else:
                chosen = spanning_grid(wanted, kind)
                needed, finest = np.abs(chosen.step), _finest(chosen, kind)
                fine = _squares(grid.step) <= _COARSEST * _squares(np.maximum(needed, finest))
                unheld = needed <= np.maximum(_NO_STEP * needed.max(axis=1, keepdims=True), finest)
                unheld &= grid.step == 0
            if not fine.all():
                self._complain("has coarser scales than the declared edit needs")
        # A code may already be out of the range that is written to, and stay there.
        low, high = (
            np.where(codes == grid.codes, limit(codes, end), end)
            for limit, end in ((np.minimum, grid.values.low), (np.maximum, grid.values.high))
        )
        nearest = _within(grid, low, high, wanted)
        if chosen is not None and not self._covers(wanted, nearest, chosen):
            self._complain("has finer scales, or other minima, than the declared edit needs")
        steps = np.abs(grid.step) * np.float32(grid.values.gap)
        # What is too small for any scale beside its neighbours is as near as it can be: no steps away.
        steps[unheld] = 1.0
        return nearest, np.repeat(steps, grid.width, axis=1)

    def _covers(self, wanted: Float32, nearest: Float32, chosen: Grid) -> bool:
        """Whether in every row the weights lie in the range of the file's codes. Distances are measured from
        what the range reaches, so a range of next to nothing would let any weight pass."""
        if self._requantized:
            # An importance matrix lets single weights go as far as it likes, but not many more of them.
            low, high = (np.full_like(chosen.codes, end) for end in (chosen.values.low, chosen.values.high))
            by_quantizer = _within(chosen, low, high, wanted)
            outside, usual = ((wanted != reached).mean(axis=1) for reached in (nearest, by_quantizer))
            return bool((outside <= usual + _MORE_OUTSIDE).all())
        outside = np.sqrt(np.square(wanted - nearest, dtype=np.float64).mean(axis=1))
        step = np.sqrt(_squares(chosen.step) / chosen.step.shape[1]) * chosen.values.gap
        lost = _finest(chosen, self._new.type) * chosen.values.range
        return bool((outside <= _OUTSIDE * step + lost).all())

    def _complain(self, problem: str) -> None:
        if problem not in self._problems:
            self._problems.append(problem)


def _within(grid: Grid, low: Codes, high: Codes, wanted: Float32) -> Float32:
    """The wanted weights, no further than the weights that two ends of the range of codes stand for."""
    ends = [replace(grid, codes=end.astype(grid.codes.dtype)).weights() for end in (low, high)]
    return np.clip(wanted, np.minimum(*ends), np.maximum(*ends))


def _finest(grid: Grid, kind: gguf.GGMLQuantizationType) -> float:
    """Steps below this are lost in the 16 bits of a block's scale, of which steps of a k-quant are parts."""
    in_parts = gguf.GGML_QUANT_SIZES[kind][0] > grid.width
    return 2.0**-24 * (128 if in_parts else 1)


def _squares(steps: Float32) -> npt.NDArray[np.float64]:
    """Summed up in every row."""
    return np.asarray(np.square(steps, dtype=np.float64).sum(axis=1))


def _float_steps(blocks: FloatGrid, grid: Grid, old: Bytes, columns: int) -> Float32:
    if not blocks.free:
        # A weight that grows comes to where floats lie further apart.
        return np.maximum(np.abs(blocks.read(old, columns).step), np.abs(grid.step))
    # Full precision: a few units in the last place of the sum.
    assert grid.offset is not None
    return np.asarray(4 * np.spacing(np.abs(grid.offset)) + np.float32(1e-12), dtype=np.float32)
