"""Whether a checkpoint folder is its base with the declared edit, and nothing else; see ``verify``.

The edit is that of ``rosi-edge-edits.gguf`` in the folder, the hashes are those of ``rosi-edge.json``. What
is proven: the other files are the base's, the headers of the weights are the base's to the byte, and so is
every tensor without an edit; an edited tensor's bytes are those that were written, and differ from the base's
only along the edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rosi_edge.baking.checkpoint import EDITS, CheckpointFacts, read_facts
from rosi_edge.basics.hashing import sha256_of_bytes
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.text import printable
from rosi_edge.edits.adapter import read_adapter
from rosi_edge.edits.rank_one import RankOneEdit, by_matrix
from rosi_edge.errors import RosiEdgeError
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.checkpoint_files import OWN_FACTS, left_out, other_files
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.verification.matrix import EditedMatrix
from rosi_edge.verification.result import Findings, Verification

_STEP = 1 << 22


def verify_checkpoint(
    folder: Path, base: Checkpoint, *, adapter: Path | None = None, progress: Progress = SILENT
) -> Verification:
    """Compare a hardened checkpoint with its base and with the edit it declares.

    Args:
        adapter: a LoRA of the edit, which must be the declared one.

    Raises:
        ModelFileError: the adapter is none. A folder that is damaged is no error but a finding.
    """
    given = _edits(adapter) if adapter is not None else None
    run = _Verifier(folder, base, adapter, progress)
    try:
        with Checkpoint.open(folder) as model:
            run.check(model, given)
    except RosiEdgeError as error:
        run.fail("readable", error.message)
    return run.result()


def _edits(path: Path) -> list[RankOneEdit]:
    with GgufFile.open(path) as file:
        return read_adapter(file)


class _Verifier(Findings):
    def __init__(self, folder: Path, base: Checkpoint, adapter: Path | None, progress: Progress) -> None:
        super().__init__(
            folder,
            base.path,
            adapter,
            ("readable", "metadata", "tensor_table", "other_tensors", "hashes", "source", "edit"),
        )
        self._folder, self._base, self._progress = folder, base, progress

    def check(self, model: Checkpoint, given: Sequence[RankOneEdit] | None) -> None:
        self._passed("readable")
        try:
            facts = read_facts(self._folder)
            edits = by_matrix(_edits(self._folder / EDITS))
        except RosiEdgeError as error:
            self.fail("edit", error.message)
            return
        self._rounding = facts.rounding
        if sha256_of_bytes(np.fromfile(self._folder / EDITS, dtype=np.uint8)) != facts.edits_sha256:
            self.fail("edit", f"{EDITS} was changed after it was written")
        if given is not None:
            self._compare_with_adapter([edit for its in edits.values() for edit in its], given, {})
        self._check_source(model)  # First: of another base nothing else is as it should be.
        self._check_other_files()
        edited = {tensor.name for tensor in facts.tensors}
        # No tensor of a checkpoint is a stack of experts: a matrix has its tensor's name.
        if edited != set(edits) or edited != set(facts.aims):
            self.fail("edit", f"{OWN_FACTS} and {EDITS} name different tensors")
            return
        if not self._check_headers(model, edited):
            return
        self._check_other_tensors(model, edited)
        self._check_edited(model, facts, edits)

    def _check_other_files(self) -> None:
        mine, theirs = other_files(self._folder), other_files(self._base.path)
        for name in sorted(set(mine) ^ set(theirs)):
            problem = "is missing" if name in theirs else "was added"
            self.fail("metadata", f"{printable(name)} {problem}")
        for name in sorted(set(mine) & set(theirs)):
            if (self._folder / name).read_bytes() != (self._base.path / name).read_bytes():
                self.fail("metadata", f"{printable(name)} is not the base's")
        # Weights in another form than safetensors, or files that the index does not name.
        for name in left_out(self._folder):
            if name != EDITS:
                self.fail("metadata", f"{printable(name)} was added")
        self._passed("metadata")

    def _check_headers(self, model: Checkpoint, edited: set[str]) -> bool:
        if model.files != self._base.files:
            self.fail("tensor_table", "its files are not named as the base's")
            return False
        for whose, tensors in (("the base", self._base.tensors), ("the hardened folder", model.tensors)):
            if missing := sorted(edited - tensors.keys()):
                self.fail("tensor_table", f"{whose} has no tensor {missing[0]}")
                return False
        for file in model.files:
            lengths = []
            for folder in (self._base.path, self._folder):
                with (folder / file).open("rb") as stream:
                    length = int.from_bytes(stream.read(8), "little")
                    lengths.append(stream.read(length))
            same_size = (self._folder / file).stat().st_size == (self._base.path / file).stat().st_size
            if lengths[0] != lengths[1] or not same_size:
                self.fail("tensor_table", f"the tensors of {file} are not laid out as the base's")
                return False
        self._passed("tensor_table")
        return True

    def _check_other_tensors(self, model: Checkpoint, edited: set[str]) -> None:
        stored = {self._base.names[name] for name in edited}
        with self._progress.stage("Comparing tensors", self._base.total_size) as advance:
            for name, tensor in self._base.stored.items():
                advance(tensor.size)
                if name in stored:
                    continue
                old, new = self._base.stored_bytes(name), model.stored_bytes(name)
                for start in range(0, tensor.size, _STEP):
                    part = slice(start, start + _STEP)
                    if not np.array_equal(old[part], new[part]):
                        self.fail("other_tensors", f"{name} is not the base's")
                        break
        self._passed("other_tensors")

    def _check_source(self, model: Checkpoint) -> None:
        expected = model.metadata.get("rosi.source.sha256")
        if isinstance(expected, str) and expected:
            if self._base.sha256(self._progress) != expected:
                self.fail(
                    "source",
                    f"{self._base.path.name} is not the checkpoint that was hardened: the SHA-256 of its "
                    "weights is another",
                )
            self._passed("source")

    def _check_edited(
        self, model: Checkpoint, facts: CheckpointFacts, edits: Mapping[str, tuple[RankOneEdit, ...]]
    ) -> None:
        with self._progress.stage("Checking edited tensors", len(facts.tensors)) as advance:
            for declared in facts.tensors:
                name = declared.name
                if sha256_of_bytes(model.read_tensor(name)) != declared.sha256:
                    self.fail("hashes", f"{name} was changed after it was written")
                if sha256_of_bytes(self._base.read_tensor(name)) != declared.base_sha256:
                    self.fail("hashes", f"{name} of the base is not what the edit was made from")
                tensor = self._base.tensors[name]
                its = edits[name]
                if tensor.shape != (len(its[0].output), len(its[0].input)):
                    self.fail("edit", f"the edit of {name} does not fit its shape {tensor.shape}")
                    continue
                declared_edits = (its, facts.aims[name], False)
                found = EditedMatrix(
                    self._base, model, tensor, model.tensors[name], 0, declared_edits, facts.rounding
                ).check()
                self._tensors.append(found)
                for problem in found.problems:
                    self.fail("edit", f"{name} {problem}")
                advance(1)
        self._passed("hashes")
        self._passed("edit")
