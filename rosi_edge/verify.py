"""Whether a file is its base with the declared edit, and nothing else: found out from the files alone.

What is proven, and how:

- the header is the one that was written: a hash of it, the seal, lies within it;
- all other metadata, the tensor table and every other tensor are the base's: compared byte by byte;
- an edited tensor's bytes are those that were written, from those that were there: two hashes;
- it differs from its base only along the declared edit, as far as its grid allows: scales are the base's to
  the bit (but for tensors declared to have got a larger type, or other scales, since the edit is larger than
  their steps, and those scales are no coarser than the edit needs), no weight lies further than two steps
  from what the exact edit would make of it, all of them together not more than rounding explains, and the
  change has its share along the edit.

Which of its nearest codes a weight got depends on the inputs that the rounding saw, which are not in the
files; the hashes stand for that choice.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from rosi_edge.declaration import Declaration, DeclaredTensor, near, read_declaration, sha256_of_bytes
from rosi_edge.errors import RosiEdgeError
from rosi_edge.injection.adapter import read_adapter
from rosi_edge.injection.edits import RankOneEdit, by_matrix
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.digest import sha256_of_model
from rosi_edge.models.gguf_file import GgufFile, TensorInfo, align, printable
from rosi_edge.models.inspect import OWN_PREFIX
from rosi_edge.models.layout import runs, tensor_table
from rosi_edge.models.seal import BLANK, SEAL_KEY, seal_of
from rosi_edge.progress import SILENT, Advance, Progress
from rosi_edge.quantization.codec import dequantize_rows, quantize
from rosi_edge.quantization.grid import grid_of, supported_grids
from rosi_edge.quantization.grid_rounding import REACH
from rosi_edge.quantization.grids.base import Grid
from rosi_edge.quantization.grids.floats import FloatGrid

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.signedinteger[Any]]

Outcome = Literal["passed", "failed", "not checked"]
Scales = Literal["untouched", "changed", "requantized", "promoted", "rescaled", "none"]

_STEP = 1 << 22
_CHUNK_VALUES = 1 << 21
_FURTHEST = REACH + 0.51
"""Steps. Half a step more than rounding reaches: a float off the steps of its row is rounded once more."""
_ROUNDING_NOISE = 1.0
"""Root mean square of what rounding leaves, in steps, at most. A code chosen at random among the nearest two
leaves 0.58, and making good others' errors adds to that."""
_LEAST_ALONG, _MOST_ALONG = 0.1, 1.5
"""The change's share along the edit. Rounding that follows inputs brings the whole push on these inputs with
changes that need not be along the edit everywhere: 0.4 and more was measured on real tensors."""
_DEVIATIONS = 6.0
_COARSEST = 1.5
"""New scales' mean square, in parts of what the quantizer gives the wanted weights: limits that are counted
in steps do not see them grow."""
_COARSEST_REQUANTIZED = 8.0
"""The same under an importance matrix, of which nothing is known here."""

_MORE_OUTSIDE = 0.25
"""Share of a row's weights that may lie outside the range of its codes, above that of a quantizer without an
importance matrix. Matrices with columns up to 100,000 times as important as others brought 0.13 more."""

_Edits = tuple[tuple[RankOneEdit, ...], float, bool]
"""The edits of one matrix, how much of them was asked for, and whether it was given other scales."""


class TensorCheck(BaseModel):
    """What was found in one edited matrix.

    Attributes:
        changed: weights that differ from the base.
        scales: ``untouched`` are the base's, ``changed`` are not and should be; ``requantized``, ``promoted``
            and ``rescaled`` ones are others, as declared; plain floats have ``none``.
        largest_step: how far the weight that is furthest from its wanted value lies from it, in steps.
        noise_steps: the same as root mean square over all weights.
        along_edit: the change's projection onto the declared edit, in parts of the edit. What inputs see of
            the edit is more, as rounding follows them. A file that is not quantized has all of it.
        along_edit_by_chance: what that could be, at most, if the change had nothing to do with the edit.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    type: str
    base_type: str
    passed: bool
    problems: list[str]
    changed: int
    scales: Scales
    largest_step: float | None
    noise_steps: float | None
    along_edit: float | None
    along_edit_by_chance: float | None


class Verification(BaseModel):
    """``passed`` is true exactly when ``problems`` is empty. ``notes`` say what could not be checked."""

    model_config = ConfigDict(frozen=True)
    file: str
    base: str
    adapter: str | None
    passed: bool
    checks: dict[str, Outcome]
    problems: list[str]
    notes: list[str]
    rounding: str | None
    tensors: list[TensorCheck]


def verify(
    path: str | os.PathLike[str],
    base: GgufFile,
    *,
    adapter: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> Verification:
    """Compare a hardened file with its base and with the edit it declares.

    Args:
        adapter: a LoRA of the edit; it must be the declared one, and stands in for a missing declaration.

    Raises:
        ModelFileError: the file or the adapter does not exist or may not be read, or the adapter is none. A
            hardened file that is damaged is no error but a finding.
        UnsupportedModelError: the adapter's rank is more than edits may have.
    """
    given = None
    if adapter is not None:
        with GgufFile.open(adapter) as opened:
            given = read_adapter(opened)
    run = _Verifier(Path(path), base, None if adapter is None else Path(adapter), given, progress)
    try:
        file = GgufFile.open(path)
    except RosiEdgeError as error:
        if not Path(path).is_file() or not os.access(path, os.R_OK):
            raise
        run.fail("readable", error.message)
        return run.result()
    with file:
        run.check(file)
        file.check_unchanged()
        base.check_unchanged()
    return run.result()


class Findings:
    """What a comparison with the base has found so far.

    Args:
        path: what is checked.
        base: what it is compared with.
        adapter: an adapter it is compared with as well.
        names: of the checks; none has been made yet.
    """

    def __init__(self, path: Path, base: Path, adapter: Path | None, names: Sequence[str]) -> None:
        self._files = (path, base, adapter)
        self._checks: dict[str, Outcome] = dict.fromkeys(names, "not checked")
        if adapter is not None:
            self._checks["adapter"] = "not checked"
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._rounding: str | None = None
        self._tensors: list[TensorCheck] = []

    def fail(self, check: str, problem: str) -> None:
        self._checks[check] = "failed"
        self._problems.append(printable(problem))

    def _passed(self, check: str) -> None:
        """Unless it has failed."""
        if self._checks[check] == "not checked":
            self._checks[check] = "passed"

    def _compare_with_adapter(self, declared: Sequence[RankOneEdit], given: Sequence[RankOneEdit]) -> None:
        problem = same_edits(declared, given)
        if problem is not None:
            self.fail("adapter", problem)
        self._passed("adapter")

    def result(self) -> Verification:
        path, base, adapter = self._files
        return Verification(
            file=str(path),
            base=str(base),
            adapter=None if adapter is None else str(adapter),
            passed=not self._problems,
            checks=self._checks,
            problems=self._problems,
            notes=self._notes,
            rounding=self._rounding,
            tensors=self._tensors,
        )


class _Verifier(Findings):
    def __init__(
        self,
        path: Path,
        base: GgufFile,
        adapter: Path | None,
        given: list[RankOneEdit] | None,
        progress: Progress,
    ) -> None:
        super().__init__(
            path,
            base.path,
            adapter,
            ("readable", "seal", "metadata", "tensor_table", "other_tensors", "hashes", "source", "edit"),
        )
        self._base = base
        self._given = given
        self._progress = progress

    def check(self, file: GgufFile) -> None:
        self._passed("readable")
        declaration = self._declaration(file)
        if declaration is None:
            return
        self._rounding = declaration.rounding
        self._check_source(file)  # First: of another base nothing else is as it should be.
        self._check_seal(file)
        self._check_metadata(file)
        edited = {tensor.name for tensor in declaration.tensors}
        if not self._check_tables(file, edited):
            return
        self._check_other_tensors(file, edited)
        self._check_edited(file, declaration)

    # --- the declaration -------------------------------------------------------------------------------

    def _declaration(self, file: GgufFile) -> Declaration | None:
        try:
            declared = read_declaration(file)
        except RosiEdgeError as error:
            self.fail("edit", error.message)
            return None
        if declared is None and self._given is None:
            remedy = (
                "but its base does: name the hardened file first and the original as --base"
                if any(_own(key) for key in self._base.fields)
                else "add its --adapter"
            )
            self.fail("edit", f"{file.path.name} does not declare what was done to it; {remedy}")
            return None
        if self._given is None:
            return declared
        if declared is None:
            self._passed("adapter")
            self._notes.append(
                "the file declares no edit, so the adapter's was taken; there are no hashes and no seal to "
                "tell a single flipped code by"
            )
            names = dict.fromkeys(edit.tensor for edit in self._given)
            if missing := [name for name in names if name not in file.tensors]:
                self.fail("adapter", f"the adapter edits {missing[0]}, which the file does not have")
                return None
            tensors = tuple(DeclaredTensor(name, "", "") for name in names)
            given, count = tuple(self._given), len(self._given)
            return Declaration("", tensors, given, (1.0,) * count, given, (False,) * count)
        self._compare_with_adapter(declared.edits, self._given)
        return declared

    # --- everything but the edited tensors -------------------------------------------------------------

    def _check_seal(self, file: GgufFile) -> None:
        if SEAL_KEY not in file.fields and self._given is not None and not self._rounding:
            return
        if problem := seal_problem(file):
            self.fail("seal", problem)
        self._passed("seal")

    def _check_metadata(self, file: GgufFile) -> None:
        for number, (old, new) in enumerate(zip(self._base.parts, file.parts, strict=False)):
            if old.version != new.version:
                self.fail("metadata", f"the format version is {new.version} and was {old.version}")
            before = [field for field in old.fields.values() if number or not _own(field.key)]
            after = [field for field in new.fields.values() if number or not _own(field.key)]
            mine = {field.key: new.raw(field.start, field.end) for field in after}
            theirs = {field.key: old.raw(field.start, field.end) for field in before}
            for key in theirs:
                if key not in mine:
                    self.fail("metadata", f"the metadata key {key} is missing")
                elif mine[key] != theirs[key]:
                    self.fail("metadata", f"the metadata key {key} has another value")
            for key in mine:
                if key not in theirs:
                    self.fail("metadata", f"the metadata key {key} was added")
            if list(mine) != list(theirs) and set(mine) == set(theirs):
                self.fail("metadata", "the metadata keys have another order")
        self._passed("metadata")

    def _check_tables(self, file: GgufFile, edited: Collection[str]) -> bool:
        """Names, shapes, types and places of the tensors; what follows rests on them."""
        if len(file.parts) != len(self._base.parts):
            self.fail("tensor_table", f"it has {len(file.parts)} parts and its base {len(self._base.parts)}")
            return False
        if missing := [name for name in edited if name not in self._base.tensors]:
            self.fail("tensor_table", f"the base has no tensor {missing[0]}")
            return False
        types = self._new_types(file, edited)
        for old, new in zip(self._base.parts, file.parts, strict=True):
            try:
                expected = tensor_table(old, types)
            except ValueError:
                expected = b""
            if new.raw(*new.tensor_table) != expected:
                self.fail(
                    "tensor_table",
                    f"the tensors of {new.path.name} are not named, shaped and laid out as the base's",
                )
                return False
            if new is not file and new.raw(new.tensor_table[1], new.data_offset).strip(b"\0"):
                self.fail("tensor_table", f"{new.path.name} has been written to between its tensors")
        self._passed("tensor_table")
        return True

    def _new_types(self, file: GgufFile, edited: Collection[str]) -> dict[str, gguf.GGMLQuantizationType]:
        return {
            name: file.tensors[name].type
            for name in edited
            if name in file.tensors and file.tensors[name].type != self._base.tensors[name].type
        }

    def _check_other_tensors(self, file: GgufFile, edited: Collection[str]) -> None:
        types = self._new_types(file, edited)
        total = sum(part.size for part in self._base.parts)
        with self._progress.stage("Comparing tensors", total) as advance:
            for old, new in zip(self._base.parts, file.parts, strict=True):
                self._compare_part(old, new, edited, types, advance)
        self._passed("other_tensors")

    def _compare_part(
        self,
        old: GgufFile,
        new: GgufFile,
        edited: Collection[str],
        types: Mapping[str, gguf.GGMLQuantizationType],
        advance: Advance,
    ) -> None:
        position = new.data_offset
        for run in runs(old, edited):
            start = run.start
            if run.tensor is not None:
                mine = new.own_tensors[run.tensor.name]
                position, start = mine.end, run.tensor.end
                if run.tensor.name in types:
                    end = align(position, new.alignment)
                    if new.raw(position, end).strip(b"\0") or end > new.size:
                        self.fail("other_tensors", f"the padding after {mine.name} is not empty")
                    position = end
                    continue
            length = run.end - start
            at = _first_difference(old, start, new, position, length, advance)
            if at is not None:
                self.fail("other_tensors", f"{_place(old, start + at)} is not the base's")
            position += length
        if position != max(new.size, new.data_offset):
            self.fail("other_tensors", f"{new.path.name} goes on after its last tensor")

    def _check_source(self, file: GgufFile) -> None:
        expected = file.metadata.get(f"{OWN_PREFIX}source.sha256")
        if not isinstance(expected, str) or not expected:
            return
        if sha256_of_model(self._base, self._progress) != expected:
            self.fail(
                "source",
                f"{self._base.path.name} is not the file that was hardened: its SHA-256 is another",
            )
        self._passed("source")

    # --- the edited tensors ----------------------------------------------------------------------------

    def _check_edited(self, file: GgufFile, declaration: Declaration) -> None:
        edits: dict[str, dict[int, _Edits]] = {}
        for edit, asked in zip(declaration.edits, declaration.asked, strict=True):
            if not near(edit, asked):
                self.fail("edit", f"{edit.matrix} was asked to hold another edit than the declared one")
                return
        for edit, aim, rescaled in zip(
            declaration.asked, declaration.aims, declaration.rescaled, strict=True
        ):
            tensor = self._base.tensors[edit.tensor]
            fits = len(tensor.shape) == (2 if edit.expert is None else 3)
            if not fits or tensor.shape[-2:] != (len(edit.output), len(edit.input)):
                self.fail("edit", f"the edit of {edit.matrix} does not fit its shape {tensor.shape}")
                return
            its = edits.setdefault(edit.tensor, {}).get(edit.expert or 0, ((), aim, rescaled))[0]
            edits[edit.tensor][edit.expert or 0] = ((*its, edit), aim, rescaled)
        if declaration.rounding == "requantize":
            self._notes.append("the edited tensors were quantized again, so their scales moved as well")
        if count := len(
            {edit.matrix for edit, new in zip(declaration.asked, declaration.rescaled, strict=True) if new}
        ):
            have = "matrix has" if count == 1 else "matrices have"
            self._notes.append(f"{count} edited {have} other scales than the base's, as declared")
        with self._progress.stage("Checking edited tensors", len(declaration.tensors)) as advance:
            for declared in declaration.tensors:
                self._check_hashes(file, declared)
                self._check_tensor(file, declared.name, edits.get(declared.name, {}))
                advance(1)
        self._passed("edit")

    def _check_hashes(self, file: GgufFile, declared: DeclaredTensor) -> None:
        if not declared.sha256:
            return
        if problem := _changed_since(file, declared):
            self.fail("hashes", problem)
        if sha256_of_bytes(self._base.read_tensor(declared.name)) != declared.base_sha256:
            self.fail("hashes", f"{declared.name} of the base is not what the edit was made from")
        self._passed("hashes")

    def _check_tensor(self, file: GgufFile, name: str, edits: Mapping[int, _Edits]) -> None:
        tensor, mine = self._base.tensors[name], file.tensors[name]
        rows, columns = tensor.shape[-2:]
        held = wanted = slack = 0.0
        for number in range(tensor.elements // (rows * columns)):
            found = EditedMatrix(
                self._base, file, tensor, mine, number, edits.get(number), self._rounding or ""
            )
            if number not in edits:
                if found.differs():
                    self.fail("edit", f"{name}[{number}] differs, though no edit of it is declared")
                continue
            check = found.check()
            self._tensors.append(check)
            for problem in check.problems:
                self.fail("edit", f"{check.name} {problem}")
            if found.stacked:
                held, wanted, slack = (
                    one + other for one, other in zip((held, wanted, slack), found.along, strict=True)
                )
        if wanted > 0:
            share, by_chance = held / wanted, _DEVIATIONS * float(np.sqrt(slack)) / wanted
            if not _LEAST_ALONG + by_chance <= share <= _MOST_ALONG + by_chance:
                self.fail("edit", f"{name} holds {share:.3f} of the declared edits themselves")


class EditedMatrix:
    """One edited matrix, read a few rows at a time."""

    def __init__(
        self,
        base: GgufFile | Checkpoint,
        file: GgufFile | Checkpoint,
        old: TensorInfo,
        new: TensorInfo,
        number: int,
        edits: _Edits | None,
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

    def check(self) -> TensorCheck:
        assert self._edits
        for part, old, new in self._parts():
            with np.errstate(all="ignore"):
                self._look(part, old, new)
        along = noise_along = None
        if self._wanted > 0:
            along = self._along / self._wanted
            # By what rounding leaves, if it were independent of the edit.
            noise_along = _DEVIATIONS * float(np.sqrt(self._spread)) / self._wanted
            fits = self.stacked or _LEAST_ALONG + noise_along <= along <= _MOST_ALONG + noise_along
            if not self._proven and not fits:
                self._problems.append(f"holds {along:.3f} of the declared edit itself")
        elif self._changed:
            self._problems.append("differs, though the declared edit is nothing")
        noise = float(np.sqrt(self._squares / self._counted)) if self._counted else None
        if noise is not None and not noise <= _ROUNDING_NOISE:
            self._problems.append(
                f"lies {noise:.2f} steps from the declared edit, more than rounding explains"
            )
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

    def _look(self, part: slice, old: Bytes, new: Bytes) -> None:
        before = dequantize_rows(old, self._columns, self._old.type)
        after = dequantize_rows(new, self._columns, self._new.type)
        wanted = np.zeros_like(before)
        for edit in self._edits:
            wanted += np.outer(edit.output[part], edit.input)
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
        reachable = self._reachable(old, new, before, (before + self._aim * wanted).astype(np.float32))
        if reachable is None:
            return
        nearest, steps = reachable
        usable = np.isfinite(steps) & (steps > 0) & finite
        if np.any(differs & ~usable):
            self._complain("holds weights that no code can change, and that are not the base's")
        distance = np.divide(np.abs(after - nearest), steps, out=np.zeros_like(rest), where=usable)
        self._largest = max(self._largest or 0.0, float(distance.max(initial=0)))
        self._squares += float(np.square(distance, dtype=np.float64).sum())
        self._counted += distance.size

    def _add_along(self, change: Float32, wanted: Float32, rest: Float32 | float) -> None:
        self._along += float(np.einsum("rc,rc->", change, wanted, dtype=np.float64))
        self._wanted += float(np.square(wanted, dtype=np.float64).sum())
        self._spread += float(np.square(rest * wanted, dtype=np.float64).sum())

    def _quantized_again(self, new: Bytes, wanted: Float32) -> bool:
        again = self._quantized(wanted)
        return again is not None and again.tobytes() == new.tobytes()

    def _quantized(self, wanted: Float32) -> Bytes | None:
        """What the quantizer makes of weights, in the file's type; None for a type it cannot write."""
        try:
            return quantize(wanted.astype(np.float32), self._new.type).reshape(len(wanted), -1)
        except RosiEdgeError:
            return None

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
        chosen_grid: Grid | None = None
        if keeps_scales:
            if not np.array_equal(blocks.write(old, codes), new):
                self._scales = "changed"
                self._complain("has other scales than the base")
            grid = blocks.read(old, self._columns)
        else:
            # Its scales were chosen for the wanted weights.
            chosen = self._quantized(wanted)
            chosen_grid = None if chosen is None else blocks.read(chosen, self._columns)
            needed = np.zeros_like(grid.step) if chosen_grid is None else chosen_grid.step
            coarsest = _COARSEST_REQUANTIZED if self._requantized else _COARSEST
            if not (_squares(grid.step) <= coarsest * _squares(needed)).all():
                self._complain("has coarser scales than the declared edit needs")
            unheld = (grid.step == 0) & (needed == 0)
        # A code may already be out of the range that is written to, and stay there.
        low, high = (
            np.where(codes == grid.codes, limit(codes, end), end)
            for limit, end in ((np.minimum, grid.values.low), (np.maximum, grid.values.high))
        )
        nearest = _within(grid, low, high, wanted)
        if chosen_grid is not None and not self._covers(wanted, nearest, chosen_grid):
            self._complain("has finer scales, or other minima, than the declared edit needs")
        steps = np.abs(grid.step) * np.float32(grid.values.gap)
        # What is too small for any scale beside its neighbours is as near as it can be: no steps away.
        steps[unheld] = 1.0
        return nearest, np.repeat(steps, grid.width, axis=1)

    def _covers(self, wanted: Float32, nearest: Float32, chosen: Grid) -> bool:
        """Whether in every row the weights lie in the range of the file's codes as they do in that of the
        quantizer's. Distances are measured from what the range reaches, so a range of next to nothing would
        let any weight pass."""
        low, high = (np.full_like(chosen.codes, end) for end in (chosen.values.low, chosen.values.high))
        by_quantizer = _within(chosen, low, high, wanted)
        if self._requantized:
            # An importance matrix lets single weights go as far as it likes, but not many more of them.
            outside, usual = ((wanted != reached).mean(axis=1) for reached in (nearest, by_quantizer))
            return bool((outside <= usual + _MORE_OUTSIDE).all())
        outside, usual = (
            np.sqrt(np.square(wanted - reached, dtype=np.float64).mean(axis=1))
            for reached in (nearest, by_quantizer)
        )
        step = np.sqrt(_squares(chosen.step) / chosen.step.shape[1]) * chosen.values.gap
        return bool((outside <= 1.5 * usual + 0.25 * step + 1e-30).all())

    def _complain(self, problem: str) -> None:
        if problem not in self._problems:
            self._problems.append(problem)


def _within(grid: Grid, low: Codes, high: Codes, wanted: Float32) -> Float32:
    """The wanted weights, no further than the weights that two ends of the range of codes stand for."""
    ends = [replace(grid, codes=end.astype(grid.codes.dtype)).weights() for end in (low, high)]
    return np.clip(wanted, np.minimum(*ends), np.maximum(*ends))


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


def own_problem(file: GgufFile, declaration: Declaration) -> str | None:
    """What a hardened file's own hashes contradict, without its base; None for nothing. Enough for damage:
    whoever changes a file on purpose can write these hashes anew."""
    if problem := seal_problem(file):
        return problem
    return next(filter(None, (_changed_since(file, tensor) for tensor in declaration.tensors)), None)


def _changed_since(file: GgufFile, declared: DeclaredTensor) -> str | None:
    if sha256_of_bytes(file.read_tensor(declared.name)) == declared.sha256:
        return None
    return f"{declared.name} was changed after it was written"


def seal_problem(file: GgufFile) -> str | None:
    """What is wrong with the seal of a hardened file's header; None for nothing."""
    field = file.fields.get(SEAL_KEY)
    if field is None:
        return "the header carries no seal"
    if not isinstance(field.value, str) or len(field.value.encode()) != len(BLANK):
        return "the header's seal is damaged"
    header = file.raw(0, min(file.data_offset, file.size))
    if seal_of(header, field.end) != field.value.encode():
        return "the header was changed after it was sealed"
    return None


def same_edits(declared: Sequence[RankOneEdit], given: Sequence[RankOneEdit]) -> str | None:
    """What tells a file's edits from an adapter's; None for nothing. An adapter may be written for another
    scale than the weights, so lengths are left out."""
    mine, theirs = (
        by_matrix([edit for edit in edits if edit.output.any() and edit.input.any()])
        for edits in (declared, given)
    )
    if odd := sorted(set(mine) ^ set(theirs)):
        return f"only one of the file and the adapter edits {odd[0]}"
    for name, edits in mine.items():
        others = theirs[name]
        if len(edits) != len(others) or not all(
            _cosine(edit.output, other.output) * _cosine(edit.input, other.input) > 1 - 1e-5
            for edit, other in zip(edits, others, strict=True)
        ):
            return f"the adapter's edit of {name} is another than the file's"
    return None


def _own(key: str) -> bool:
    return key.startswith(OWN_PREFIX)


def _cosine(one: Float32, other: Float32) -> float:
    if one.shape != other.shape:
        return 0.0
    # The squares of the largest numbers of single precision are none of them.
    one64, other64 = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(one64)) * float(np.linalg.norm(other64))
    return float(one64 @ other64) / lengths if lengths else 0.0


def _first_difference(
    old: GgufFile, old_start: int, new: GgufFile, new_start: int, length: int, advance: Advance
) -> int | None:
    """How many bytes two ranges have in common before they differ; None when they do not."""
    for done in range(0, length, _STEP):
        size = min(_STEP, length - done)
        if new_start + done + size > new.size:
            return max(new.size - new_start, 0)
        before, after = old.read(old_start + done, size), new.read(new_start + done, size)
        advance(size)
        if not np.array_equal(before, after):
            return done + int(np.flatnonzero(before != after)[0])
    return None


def _place(file: GgufFile, position: int) -> str:
    for tensor in file.own_tensors.values():
        if tensor.offset <= position < tensor.end:
            return tensor.name
    return f"the padding at byte {position} of {file.path.name}"
