"""Edits found on one form of a model, baked into its other files: harden once, bake every quantization.

What was found on the full-precision checkpoint (or on any one file) is a set of rank-one edits under GGUF
names. They fit every file of the same model: a quantized file has the same matrices in the same order.
Activations that roundings are fitted to are read on the first file; what arrived is measured on each file's
own activations, and its answers before and after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from rosi_edge import __version__
from rosi_edge.baking.bias_correction import bake_corrected, measure_exact
from rosi_edge.baking.checkpoint import EDITS
from rosi_edge.baking.destination import checked_place, places_of, refuse_to_touch
from rosi_edge.baking.draft import Draft, bake_draft
from rosi_edge.baking.inputs import SharedFactors, stand_ins, unseen_inputs
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.stopwatch import Stopwatch
from rosi_edge.basics.text import encodable
from rosi_edge.edits.adapter import read_adapter
from rosi_edge.edits.declaration import read_declaration
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import (
    EngineCrashError,
    ModelFileError,
    OutputError,
    RosiEdgeError,
    UnsupportedModelError,
)
from rosi_edge.evaluation.as_figures import figures, report_changes
from rosi_edge.evaluation.behaviour import Behaviour, compare, measure_behaviour
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.hardening.as_report import edited_tensors
from rosi_edge.hardening.verdict import costs_refusals, diagnose
from rosi_edge.inspection import Inspection, inspect, require_hardenable
from rosi_edge.models.architectures import architecture_of, write_matrices
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.open_weights import open_weights
from rosi_edge.models.rewrite import NewValue, refuse_same_file
from rosi_edge.models.weights import Weights
from rosi_edge.prompts.plan import PromptPlan
from rosi_edge.quantization.grid_rounding import GridRounding, InputFactor
from rosi_edge.quantization.imatrix import importance_for
from rosi_edge.quantization.promotion import AUTO, Promotion
from rosi_edge.quantization.rounding import Requantize, Rounding
from rosi_edge.records import hardening as schema
from rosi_edge.records.facts import ModelFacts
from rosi_edge.runtime.engine import EngineOptions, StoppableEngine
from rosi_edge.runtime.open_engine import open_engine


@dataclass(frozen=True)
class FoundEdits:
    """Edits at their full strength, the architecture of the model they were found on, and the SHA-256 of the
    edits (not of the file that holds them)."""

    architecture: str
    edits: tuple[RankOneEdit, ...]

    @property
    def sha256(self) -> str:
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


@dataclass(frozen=True)
class TransferOptions:
    """How to bake and measure.

    Attributes:
        evaluate: measure every file before and after, and keep only what was hardened.
        force: keep a file whatever its verdict, unless it refuses harmful requests less, and take files that
            have been hardened before.
    """

    rounding: Literal["requantize", "grid"] = "grid"
    min_delivered: float = 0.95
    promotion: Promotion = AUTO
    imatrix: Path | None = None
    evaluate: bool = True
    max_tokens: int = 24
    force: bool = False
    engine: EngineOptions = field(default_factory=EngineOptions)


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
        return FoundEdits(file.text("general.architecture") or "", edits)


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
        if shape[-2:] != wanted or not _holds(shape[:-2], edit.expert):
            raise UnsupportedModelError(
                f"the edit of {edit.tensor} is for a matrix of {wanted}, which {name} does not have",
                "Give a file of the same model",
            )


def _holds(experts: tuple[int, ...], number: int | None) -> bool:
    """Whether a matrix, or a stack of so many, has the matrix of this number."""
    return not experts if number is None else experts != () and number < experts[0]


def check_targets(
    targets: Sequence[Target],
    found: FoundEdits | None,
    options: TransferOptions,
    *,
    inputs: Sequence[Path] = (),
    taken: Sequence[Path] = (),
) -> None:
    """Refuse what can be refused before the first long step.

    Args:
        found: None where the edits are still to be found, on the first of the targets.
        inputs: files that are read besides the models.
        taken: places of other outputs.

    Raises:
        RosiEdgeError: a model cannot be hardened or is another one, or nothing can be written to a place.
    """
    places = {path.resolve() for path in taken}
    with ExitStack() as stack:
        models: list[GgufFile | Checkpoint] = []
        for target in targets:
            models.append(open_weights(target.model))
            stack.callback(models[-1].close)
        for target, weights in zip(targets, models, strict=True):
            written = places_of(weights, checked_place(weights, target.output))
            for other in models:
                for place in written:
                    refuse_to_touch(other, place)
            for path in inputs:
                for place in written:
                    refuse_same_file(path, place)
            if not places.isdisjoint(written):
                raise OutputError(f"{target.output} is named twice", "Give every model an output of its own")
            places.update(written)
            _open_to_hardening(weights, options)
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


def _open_to_hardening(weights: GgufFile | Checkpoint, options: TransferOptions) -> Mapping[str, Float32]:
    """Refuse what cannot be hardened, or has been before; the importances of its matrices, where given."""
    matrices = require_hardenable(weights, options.engine.template)
    if inspect(weights).hardened and not options.force:
        raise UnsupportedModelError(
            f"{weights.path.name} has been hardened before", "Harden the original file, or add --force"
        )
    return {} if options.imatrix is None else importance_for(options.imatrix, matrices)


def transfer_all(
    targets: Sequence[Target],
    found: FoundEdits,
    prompts: PromptPlan,
    judge: Judge,
    options: TransferOptions,
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
    options: TransferOptions,
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
    watch = Stopwatch()
    progress.note(f"{target.reference} → {target.output}")
    with open_weights(target.model) as weights:
        importance = _open_to_hardening(weights, options)
        require_fit(weights, found)
        place = checked_place(weights, target.output)
        with watch.measure("read"):
            inspection = inspect(weights, with_sha256=True, progress=progress)
        before: Behaviour | None = None
        with open_engine(target.model, options.engine) as engine:
            if options.evaluate:
                with watch.measure("evaluate before"):
                    before = measure_behaviour(
                        engine,
                        prompts.reporting,
                        judge,
                        max_tokens=options.max_tokens,
                        keep_logprobs=True,
                        progress=progress,
                        title=f"{weights.path.name} on the reporting prompts",
                    )
            with watch.measure("probe"):
                probes, aims = unseen_inputs(engine, prompts.choosing, found.edits, progress)
                factors: Mapping[str, InputFactor] = {}
                rounding: Rounding
                if options.rounding == "grid":
                    shared = SharedFactors() if shared is None else shared
                    factors = shared.read(engine, prompts.calibration, found.edits, progress)
                    rounding = GridRounding(factors)
                else:
                    rounding = Requantize(importance)
                probes |= stand_ins(found.edits, probes, factors)
                exact = None
                if options.rounding == "grid" and isinstance(weights, GgufFile):
                    exact = measure_exact(engine, prompts.calibration, found.edits, progress)

        draft = Draft.beside(weights, place)

        def bake_as(asked: Sequence[RankOneEdit]) -> list[BakedTensor]:
            return bake_draft(
                weights,
                draft,
                asked,
                BakeSettings(
                    rounding,
                    probes,
                    _metadata(inspection, found, options),
                    aims,
                    min_delivered=options.min_delivered if options.rounding == "grid" else None,
                    promotion=options.promotion,
                    declared=found.edits,
                ),
                progress=progress,
            )

        def running() -> StoppableEngine:
            return open_engine(draft.model, options.engine)

        try:
            with watch.measure("bake"):
                if exact is None:
                    baked = bake_as(found.edits)
                else:
                    baked, _ = bake_corrected(bake_as, running, exact, found.edits, aims, progress)
            return _measured(
                target, inspection, weights, baked, draft, before, prompts, judge, options, watch, progress
            )
        finally:
            draft.drop()


def _measured(
    target: Target,
    inspection: Inspection,
    weights: GgufFile | Checkpoint,
    baked: Sequence[BakedTensor],
    draft: Draft,
    before: Behaviour | None,
    prompts: PromptPlan,
    judge: Judge,
    options: TransferOptions,
    watch: Stopwatch,
    progress: Progress,
) -> schema.TransferredFile:
    """Ask the written file, and keep it if the verdict allows."""
    after = verdict = changes = output = None
    if before is not None:
        with open_engine(draft.model, options.engine) as engine, watch.measure("evaluate after"):
            after = measure_behaviour(
                engine,
                prompts.reporting,
                judge,
                max_tokens=options.max_tokens,
                reference=before.first_logprobs,
                progress=progress,
                title=f"{target.output.name} on the reporting prompts",
            )
        changes = compare(before, after)
        verdict = diagnose(before, after, changes, prompts.names)
    forced = options.force and not (changes and costs_refusals(changes.refusal, changes.guarded_refusal))
    if verdict is None or verdict.status == "hardened" or forced:
        output = draft.output_file(progress)
        draft.keep()
    tensors = edited_tensors(write_matrices(weights), baked)
    return schema.TransferredFile(
        reference=target.reference,
        model=ModelFacts.of(inspection, target.reference),
        output=output,
        verdict=verdict,
        before=figures(before) if before else None,
        after=figures(after) if after else None,
        changes=report_changes(changes) if changes else None,
        rounding=options.rounding,
        delivered=float(np.mean([tensor.delivered for tensor in tensors])),
        tensors=tensors,
        timing=schema.Timing(
            stages={stage: round(seconds, 2) for stage, seconds in watch.stages.items()},
            total=round(watch.total, 2),
        ),
    )


def _metadata(inspection: Inspection, found: FoundEdits, options: TransferOptions) -> Mapping[str, NewValue]:
    return {
        "rosi.version": __version__,
        "rosi.method": "transferred",
        "rosi.rounding": options.rounding,
        "rosi.edits.sha256": found.sha256,
        "rosi.source.sha256": inspection.sha256 or "",
        "rosi.source.file": encodable(inspection.path.name),
        "rosi.edited_tensors": list(dict.fromkeys(edit.tensor for edit in found.edits)),
    }
