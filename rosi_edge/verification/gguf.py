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
from collections.abc import Collection, Mapping
from pathlib import Path

import gguf
import numpy as np

from rosi_edge.basics.hashing import sha256_of_bytes
from rosi_edge.basics.progress import SILENT, Advance, Progress
from rosi_edge.edits.adapter import read_adapter
from rosi_edge.edits.declaration import (
    Declaration,
    DeclaredTensor,
    near,
    read_declaration,
)
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import adapter_gains
from rosi_edge.errors import RosiEdgeError
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.digest import sha256_of_model
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import align
from rosi_edge.models.layout import runs, tensor_table
from rosi_edge.models.seal import OWN_PREFIX, SEAL_KEY, SOURCE_KEY
from rosi_edge.models.weights import matrix_name
from rosi_edge.verification.matrix import DEVIATIONS, LEAST_ALONG, MOST_ALONG, EditedMatrix, Edits
from rosi_edge.verification.own import changed_since, seal_problem, stowaway
from rosi_edge.verification.result import Findings, Verification

_STEP = 1 << 22


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
        gains = adapter_gains(self._base, write_matrices(self._base))
        self._compare_with_adapter(declared.edits, self._given, gains)
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
        if problem := stowaway(file):
            self.fail("metadata", problem)
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
        expected = file.metadata.get(SOURCE_KEY)
        if not isinstance(expected, str) or not expected:
            # An adapter that stands in for a declaration knows of no source.
            if self._rounding:
                self.fail("source", "it does not say which file it was made from")
            return
        if sha256_of_model(self._base, self._progress) != expected:
            self.fail(
                "source",
                f"{self._base.path.name} is not the file that was hardened: its SHA-256 is another",
            )
        self._passed("source")

    # --- the edited tensors ----------------------------------------------------------------------------

    def _check_edited(self, file: GgufFile, declaration: Declaration) -> None:
        edits: dict[str, dict[int, Edits]] = {}
        written = {matrix.name for matrix in write_matrices(self._base)}
        if other := sorted({edit.tensor for edit in declaration.edits} - written):
            self.fail("edit", f"{other[0]} is edited, which does not write to the residual stream")
            return
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
        if any(map(_own, self._base.fields)):
            self._notes.append(
                "the base was hardened before, so a direction that was taken out may be missed"
            )
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
        if problem := changed_since(file, declared):
            self.fail("hashes", problem)
        if sha256_of_bytes(self._base.read_tensor(declared.name)) != declared.base_sha256:
            self.fail("hashes", f"{declared.name} of the base is not what the edit was made from")
        self._passed("hashes")

    def _check_tensor(self, file: GgufFile, name: str, edits: Mapping[int, Edits]) -> None:
        tensor, mine = self._base.tensors[name], file.tensors[name]
        rows, columns = tensor.shape[-2:]
        held = wanted = slack = 0.0
        for number in range(tensor.elements // (rows * columns)):
            found = EditedMatrix(
                self._base, file, tensor, mine, number, edits.get(number), self._rounding or ""
            )
            if number not in edits:
                if found.differs():
                    self.fail(
                        "edit", f"{matrix_name(name, number)} differs, though no edit of it is declared"
                    )
                continue
            check = found.check(again=any(map(_own, self._base.fields)))
            self._tensors.append(check)
            for problem in check.problems:
                self.fail("edit", f"{check.name} {problem}")
            if found.stacked:
                held, wanted, slack = (
                    one + other for one, other in zip((held, wanted, slack), found.along, strict=True)
                )
        if wanted > 0:
            share, by_chance = held / wanted, DEVIATIONS * float(np.sqrt(slack)) / wanted
            if not LEAST_ALONG + by_chance <= share <= MOST_ALONG + by_chance:
                self.fail("edit", f"{name} holds {share:.3f} of the declared edits themselves")


def _own(key: str) -> bool:
    return key.startswith(OWN_PREFIX)


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
