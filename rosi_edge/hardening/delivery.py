"""Edits into one model's file: probe its inputs, round, correct, measure, keep.

Whether the edits were just found on this model or come from another of its files, this is how they get in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rosi_edge import __version__
from rosi_edge.baking.bias_correction import Correction, ExactEffect, bake_corrected, measure_exact
from rosi_edge.baking.destination import Destination
from rosi_edge.baking.draft import Draft
from rosi_edge.baking.inputs import SharedFactors, stand_ins, unseen_inputs
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.baking.side_by_side import ignore_rounded
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.text import encodable
from rosi_edge.direction.activations import InputRows
from rosi_edge.edits.adapter import write_adapter
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import adapter_gains
from rosi_edge.evaluation.behaviour import Behaviour, measure_behaviour
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.hardening.opened import OpenModel
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.models.architectures import expert_counts
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import NewValue
from rosi_edge.prompts.plan import PromptPlan
from rosi_edge.quantization.grid_rounding import GridRounding, InputFactor
from rosi_edge.quantization.rounding import Requantize, Rounding
from rosi_edge.records.facts import OutputFile
from rosi_edge.runtime.engine import Engine


class Delivery:
    """One file on its way. Whoever makes it drops it in the end: what was kept stays.

    Args:
        edits: at the strength that the file is to hold.
        origin: where the edits come from, as metadata of the file.

    Attributes:
        draft: the written file; None before it is baked, and once it is kept or dropped.
        baked: what arrived in each matrix.
        correction: what was taken off the edits because all roundings leaned to one side.
    """

    def __init__(
        self,
        model: OpenModel,
        destination: Destination,
        edits: Sequence[RankOneEdit],
        prompts: PromptPlan,
        options: HardenOptions,
        origin: Mapping[str, NewValue],
    ) -> None:
        self._model = model
        self._destination = destination
        self._edits = edits
        self._prompts = prompts
        self._options = options
        self._origin = origin
        self.draft: Draft | None = None
        self.baked: list[BakedTensor] = []
        self.correction: Correction | None = None

    def bake(
        self,
        shared: SharedFactors,
        progress: Progress = SILENT,
        *,
        known: InputRows | None = None,
        rounded: Callable[[BakedTensor], None] = ignore_rounded,
    ) -> None:
        """Write the draft. The original's engine is stopped: two models at once would need twice the memory.

        Args:
            shared: the inputs that the rounding is fitted to, where they have been read.
            known: see ``input_factors``.

        Raises:
            UndeliveredError: a tensor cannot hold its edit.
            RosiEdgeError: whatever is wrong with the model or the place of the output.
        """
        with self._model.watch.measure("probe"):
            settings, exact = self._probe(shared, known, progress)
        self._model.engines.stop()
        draft = self.draft = Draft.beside(self._destination)

        def bake_as(edits: Sequence[RankOneEdit]) -> list[BakedTensor]:
            return draft.write(edits, settings, progress=progress, rounded=rounded)

        try:
            with self._model.watch.measure("bake"):
                if exact is None:
                    self.baked = bake_as(self._edits)
                else:
                    running = partial(self._model.engines.running, draft.model, progress)
                    self.baked, self.correction = bake_corrected(
                        bake_as, running, exact, self._edits, settings.aims, progress
                    )
        except BaseException:
            self.drop()
            raise

    def _probe(
        self, shared: SharedFactors, known: InputRows | None, progress: Progress
    ) -> tuple[BakeSettings, ExactEffect | None]:
        """Real inputs of the edited matrices, and what the exact edits do where the file can be corrected."""
        options, edits, calibration = self._options, self._edits, self._prompts.calibration
        grid = options.rounding == "grid"
        self._model.engines.apply((), None, progress)
        engine = self._model.engines.original(progress)
        probes, aims = unseen_inputs(engine, self._prompts.choosing, edits, progress)
        rounding: Rounding = Requantize(self._model.importance)
        factors: Mapping[str, InputFactor] = {}
        if grid:
            factors = shared.read(engine, calibration, edits, progress, known)
            rounding = GridRounding(factors)
        settings = BakeSettings(
            rounding,
            {**probes, **stand_ins(edits, probes, factors)},
            self._metadata(),
            aims,
            min_delivered=options.min_delivered if grid else None,
            promotion=options.promotion,
            declared=edits,
        )
        corrects = grid and isinstance(self._model.weights, GgufFile)
        return settings, measure_exact(engine, calibration, edits, progress) if corrects else None

    def _metadata(self) -> dict[str, NewValue]:
        inspection = self._model.inspection
        return {
            "rosi.version": __version__,
            **self._origin,
            "rosi.rounding": self._options.rounding,
            "rosi.source.sha256": inspection.sha256 or "",
            "rosi.source.file": encodable(inspection.path.name),
            "rosi.edited_tensors": list(dict.fromkeys(edit.tensor for edit in self._edits)),
        }

    def measure(
        self, engine: Engine, before: Behaviour, judge: Judge, progress: Progress = SILENT
    ) -> Behaviour:
        """The draft, running in ``engine``, on the reporting prompts."""
        with self._model.watch.measure("evaluate after"):
            return measure_behaviour(
                engine,
                self._prompts.reporting,
                judge,
                max_tokens=self._options.max_tokens,
                reference=before.first_logprobs,
                progress=progress,
                title="Hardened file on the reporting prompts",
            )

    def keep(self, progress: Progress = SILENT) -> OutputFile:
        """Give the draft its name, and write the adapter that was asked for.

        Raises:
            OutputError: something was put in its place.
        """
        assert self.draft is not None
        # Somebody may have put a folder there: an adapter must not be left without its model.
        self._destination.check()
        written = self.draft.output_file(progress)
        if self._destination.adapter is not None:
            # At the chosen strength, so that llama.cpp's `--lora FILE` is the very edit.
            write_adapter(
                self._destination.adapter,
                self._edits,
                architecture=self._model.inspection.architecture or "",
                gains=adapter_gains(self._model.weights, self._model.matrices),
                experts=expert_counts(self._model.matrices),
            )
        self.draft.keep()
        self.draft = None
        return written

    def drop(self) -> None:
        """Take the draft away."""
        if self.draft is not None:
            self.draft.drop()
            self.draft = None


def measure_original(
    model: OpenModel, prompts: PromptPlan, judge: Judge, options: HardenOptions, progress: Progress = SILENT
) -> Behaviour:
    """The model without edits on the reporting prompts."""
    model.engines.apply((), None, progress)
    with model.watch.measure("evaluate before"):
        return measure_behaviour(
            model.engines.original(progress),
            prompts.reporting,
            judge,
            max_tokens=options.max_tokens,
            progress=progress,
            title="Original model on the reporting prompts",
        )
