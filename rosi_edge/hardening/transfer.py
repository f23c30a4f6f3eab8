"""Edits found on one form of a model, baked into its other files: harden once, bake every quantization.

What was found on the full-precision checkpoint (or on any one file) is a set of rank-one edits under GGUF
names. They fit every file of the same model: a quantized file has the same matrices in the same order.
Activations that roundings are fitted to are read on the first file; what arrived is measured on each file's
own activations, and its answers before and after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rosi_edge.baking.checkpoint import EDITS
from rosi_edge.baking.destination import Destination, files_of
from rosi_edge.baking.inputs import SharedFactors
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.edits.adapter import read_adapter
from rosi_edge.edits.declaration import read_declaration
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import EngineCrashError, ModelFileError, RosiEdgeError, UnsupportedModelError
from rosi_edge.evaluation.as_figures import figures, report_changes
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.hardening.as_report import edited_tensors, timing
from rosi_edge.hardening.delivery import Delivery, measure_original
from rosi_edge.hardening.opened import OpenModel, require_wanted
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.hardening.verdict import Measured
from rosi_edge.inspection import inspect, require_hardenable
from rosi_edge.models.architectures import architecture_of, write_matrices
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.open_weights import open_weights
from rosi_edge.models.parts import parts_beside
from rosi_edge.models.weights import Weights
from rosi_edge.prompts.plan import PromptPlan
from rosi_edge.records import hardening as schema
from rosi_edge.records.facts import ModelFacts


@dataclass(frozen=True)
class FoundEdits:
    """Edits at their full strength.

    Attributes:
        architecture: of the model they were found on.
        files: what they were read from.
    """

    architecture: str
    edits: tuple[RankOneEdit, ...]
    files: tuple[Path, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the edits, not of the file that holds them."""
        digest = hashlib.sha256()
        for edit in self.edits:
            digest.update(edit.matrix.encode() + b"\0")
            digest.update(np.ascontiguousarray(edit.output, dtype="<f4").tobytes())
            digest.update(np.ascontiguousarray(edit.input, dtype="<f4").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Target:
    """A model to bake the edits into, what the user called it, and where to."""

    reference: str
    model: Path
    output: Path


def edits_from(path: Path) -> FoundEdits:
    """The edits of a hardened file or checkpoint folder, or of an adapter that ``--adapter`` wrote.

    Raises:
        ModelFileError: there are none, or they are damaged.
    """
    place = path / EDITS if path.is_dir() else path
    if not place.is_file():
        raise ModelFileError(
            f"{place} does not exist",
            "Give a file or folder that `rosi-edge harden` wrote, or an adapter that --adapter wrote",
        )
    with GgufFile.open(place) as file:
        if file.text("general.type") == "adapter":
            edits = tuple(read_adapter(file))
        else:
            declared = read_declaration(file)
            edits = declared.edits if declared is not None else ()
        if not edits:
            raise ModelFileError(
                f"{place.name} holds no edits",
                "Give a file or folder that `rosi-edge harden` wrote, or an adapter that --adapter wrote",
            )
        return FoundEdits(file.text("general.architecture") or "", edits, tuple(parts_beside(path)))


def require_fit(weights: Weights, found: FoundEdits) -> None:
    """Whether the edits were found on a model with these very matrices.

    Raises:
        UnsupportedModelError: another architecture, or a matrix is missing or has another shape.
    """
    name = weights.path.name
    architecture = architecture_of(weights).name
    if architecture != found.architecture:
        raise UnsupportedModelError(
            f"the edits were found on a {found.architecture} model, and {name} is {architecture}",
            "Give a file of the same model",
        )
    shapes = {matrix.name: matrix.shape for matrix in write_matrices(weights)}
    for edit in found.edits:
        wanted = (len(edit.output), len(edit.input))
        shape = shapes.get(edit.tensor, ())
        if not shape and edit.tensor in weights.tensors:
            raise UnsupportedModelError(
                f"it edits {edit.tensor}, which does not write to the residual stream; "
                "only write matrices are edited",
                "Give an adapter that rosi-edge harden --adapter wrote",
            )
        if shape[-2:] != wanted or not _holds(shape[:-2], edit.expert):
            raise UnsupportedModelError(
                f"the edit of {edit.tensor} is for a matrix of {wanted}, which {name} does not have",
                "Give a file of the same model",
            )


def _holds(experts: tuple[int, ...], number: int | None) -> bool:
    """Whether a matrix, or a stack of so many, has the matrix of this number."""
    return not experts if number is None else experts != () and number < experts[0]


def check_targets(targets: Sequence[Target], found: FoundEdits | None, options: HardenOptions) -> None:
    """Refuse what can be refused before the first long step.

    Args:
        found: None where the edits are still to be found, on the first of the targets.

    Raises:
        RosiEdgeError: a model cannot be hardened or is another one, or nothing can be written to a place.
    """
    with ExitStack() as stack:
        models: list[GgufFile | Checkpoint] = []
        for target in targets:
            models.append(open_weights(target.model))
            stack.callback(models[-1].close)
        read = [*(found.files if found else ()), *(file for model in models for file in files_of(model))]
        taken: set[Path] = set()
        for target, weights in zip(targets, models, strict=True):
            adapter = options.adapter if found is None and weights is models[0] else None
            destination = Destination.of(weights, target.output, adapter)
            destination.keep_off(read, taken)
            taken.update(destination.written)
            matrices = require_hardenable(weights, options.engine.template)
            require_wanted(inspect(weights), matrices, options)
            if found is not None:
                require_fit(weights, found)
            else:
                _require_same_model(models[0], weights)


def _require_same_model(first: Weights, other: Weights) -> None:
    """Whether edits found on one will fit the other.

    Raises:
        UnsupportedModelError: another architecture, or other write matrices.
    """

    def matrices(weights: Weights) -> tuple[str, dict[str, tuple[int, ...]]]:
        shapes = {matrix.name: matrix.shape for matrix in write_matrices(weights)}
        return architecture_of(weights).name, shapes

    if matrices(first) != matrices(other):
        raise UnsupportedModelError(
            f"{other.path.name} is another model than {first.path.name}: its architecture or the shapes of "
            "its write matrices differ",
            "Give a file of the same model",
        )


def transfer_all(
    targets: Sequence[Target],
    found: FoundEdits,
    prompts: PromptPlan,
    judge: Judge,
    options: HardenOptions,
    progress: Progress = SILENT,
    shared: SharedFactors | None = None,
) -> tuple[schema.TransferredFile, ...]:
    """Bake the edits into every target. What goes wrong with one is said in its place, and the others go on.

    Args:
        shared: inputs of the edited matrices that have been read on another file of the model.

    Raises:
        RosiEdgeError: whatever ``check_targets`` finds, before anything is written.
    """
    check_targets(targets, found, options)
    shared = SharedFactors() if shared is None else shared
    done = []
    for target in targets:
        try:
            done.append(transfer(target, found, prompts, judge, options, progress, shared))
        except EngineCrashError:
            raise
        except RosiEdgeError as error:
            done.append(schema.TransferredFile(reference=target.reference, problem=str(error)))
    return tuple(done)


def transfer(
    target: Target,
    found: FoundEdits,
    prompts: PromptPlan,
    judge: Judge,
    options: HardenOptions,
    progress: Progress = SILENT,
    shared: SharedFactors | None = None,
) -> schema.TransferredFile:
    """Bake the edits into one file.

    The output is there afterwards exactly if the result has an ``output``.

    Args:
        shared: inputs of the edited matrices, where they have been read; its own otherwise.

    Raises:
        UnsupportedModelError: the edits are those of another model.
        UndeliveredError: a tensor cannot hold its edit.
        RosiEdgeError: whatever is wrong with the model or the place of the output.
    """
    progress.note(f"{target.reference} → {target.output}")
    with OpenModel(target.model, options, progress) as model:
        require_fit(model.weights, found)
        origin = {"rosi.method": "transferred", "rosi.edits.sha256": found.sha256}
        destination = Destination.of(model.weights, target.output)
        delivery = Delivery(model, destination, found.edits, prompts, options, origin)
        measured = output = None
        try:
            before = measure_original(model, prompts, judge, options, progress) if options.evaluate else None
            delivery.bake(SharedFactors() if shared is None else shared, progress)
            if before is not None:
                assert delivery.draft is not None
                with model.engines.running(delivery.draft.model, progress) as engine:
                    after = delivery.measure(engine, before, judge, progress)
                measured = Measured(before, after, prompts.names)
            if measured is None or measured.may_be_kept(options.force):
                output = delivery.keep(progress)
        finally:
            delivery.drop()
        tensors = edited_tensors(model.matrices, delivery.baked)
        return schema.TransferredFile(
            reference=target.reference,
            model=ModelFacts.of(model.inspection, target.reference),
            output=output,
            verdict=measured.verdict if measured else None,
            before=figures(measured.before) if measured else None,
            after=figures(measured.after) if measured else None,
            changes=report_changes(measured.changes) if measured else None,
            rounding=options.rounding,
            delivered=float(np.mean([tensor.delivered for tensor in tensors])),
            tensors=tensors,
            timing=timing(model.watch),
        )
