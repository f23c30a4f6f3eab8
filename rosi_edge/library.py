"""The commands as functions, for scripts and notebooks: ``import rosi_edge``.

A model is what the commands take: a path, ``demo`` or ``hf:ORG/REPO[:QUANT]``. Nothing is printed. What goes
wrong is a ``RosiEdgeError`` that says what to do.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rosi_edge.basics.extras import require
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.errors import ModelFileError, RosiEdgeError

if TYPE_CHECKING:
    # Not at run time: what only looks at files shall not load what runs them.
    from rosi_edge.direction.difference import Directions
    from rosi_edge.evaluation.run import EvaluateOptions
    from rosi_edge.evaluation.suites import SuiteChoices
    from rosi_edge.hardening.options import HardenOptions
    from rosi_edge.inspection import Inspection
    from rosi_edge.policy.model import Policy
    from rosi_edge.policy.result import CheckReport
    from rosi_edge.policy.run import CheckOptions
    from rosi_edge.records.evaluation import EvaluationReport
    from rosi_edge.records.hardening import HardeningReport
    from rosi_edge.runtime.engine import EngineOptions
    from rosi_edge.verification.result import Verification

StrPath = str | os.PathLike[str]


def inspect(model: StrPath, *, progress: Progress = SILENT) -> Inspection:
    """What a model file is, and whether it can be hardened.

    Raises:
        RosiEdgeError: it is missing, damaged or no model file. One that cannot be hardened is no error:
            ``can_harden`` and ``reasons`` say so.
    """
    from rosi_edge.inspection import inspect as run
    from rosi_edge.sources.resolve import resolve

    return run(resolve(os.fspath(model), progress), with_sha256=True, progress=progress)


def extract(
    model: StrPath,
    output: StrPath | None = None,
    *,
    harmful: StrPath | None = None,
    harmless: StrPath | None = None,
    elicitation: str | None = None,
    engine: EngineOptions | None = None,
    progress: Progress = SILENT,
) -> Directions:
    """The refusal direction of every layer, and how well it separates.

    Args:
        output: where to write it as a control vector (GGUF), if anywhere.
        harmful: a file of requests in place of the project's own; ``harmless`` likewise.
        elicitation: a system prompt to measure it under.

    Raises:
        RosiEdgeError: the model cannot be run, or the files cannot be used.
    """
    require("run", "extract")
    from rosi_edge.direction.difference import extract_directions, write_control_vector
    from rosi_edge.models.atomic import checked_target
    from rosi_edge.models.digest import sha256_of_model
    from rosi_edge.models.open_weights import open_weights
    from rosi_edge.models.parts import parts_beside
    from rosi_edge.models.rewrite import refuse_same_file
    from rosi_edge.prompts.sets import Kind, Part, bundled, load_prompts
    from rosi_edge.runtime.open_engine import open_engine
    from rosi_edge.sources.resolve import resolve

    positive, negative = (
        bundled(kind, Part.CALIBRATION) if path is None else load_prompts(Path(path))
        for kind, path in ((Kind.HARMFUL, harmful), (Kind.HARMLESS, harmless))
    )
    path = resolve(os.fspath(model), progress)
    if output is not None:
        place = checked_target(Path(output))
        for part in parts_beside(path):
            refuse_same_file(part, place)
    with open_engine(path, engine) as running:
        directions = extract_directions(
            running, positive.texts, negative.texts, elicitation=elicitation, progress=progress
        )
        architecture = running.facts.architecture
    if output is not None:
        with open_weights(path) as weights:
            digest = sha256_of_model(weights, progress)
        write_control_vector(Path(output), directions, architecture=architecture, source_sha256=digest)
    return directions


def harden(
    model: StrPath,
    output: StrPath,
    *,
    options: HardenOptions | None = None,
    harmful: StrPath | None = None,
    harmless: StrPath | None = None,
    sounds_harmful: StrPath | None = None,
    progress: Progress = SILENT,
) -> HardeningReport:
    """Make a model refuse more harmful requests: find an edit, write it to a new file, and measure both.

    The file is there afterwards exactly if the report has an ``output``: one whose verdict is not
    ``hardened`` is not kept unless ``options.force``, and one that refuses fewer harmful requests never is.

    Args:
        output: the new file; it is replaced if it is there. A folder where the model is one.
        options: None for those of the command, its memory of interrupted searches included.
        harmful: a file of requests in place of the project's own, split by the tool: some find the edit,
            some choose it, the rest measure it. ``harmless`` and ``sounds_harmful`` likewise.

    Raises:
        RosiEdgeError: whatever is wrong with the model, the requests or the place of the output.
    """
    require("run", "hardening")
    from rosi_edge.evaluation.judges.keyword import KeywordJudge
    from rosi_edge.hardening.session import harden as run
    from rosi_edge.prompts.plan import plan_prompts
    from rosi_edge.prompts.sets import Kind
    from rosi_edge.sources.resolve import resolve

    options = options or command_options()
    options.check()
    named, placed = os.fspath(model), os.fspath(output)
    options = replace(
        options,
        reference=options.reference or named,
        command=options.command or f"rosi_edge.harden({named!r}, {placed!r})",
    )
    files = {Kind.HARMFUL: harmful, Kind.HARMLESS: harmless, Kind.SOUNDS_HARMFUL: sounds_harmful}
    prompts = plan_prompts(
        {kind: None if path is None else Path(path) for kind, path in files.items()}, seed=options.seed
    )
    return run(resolve(named, progress), Path(placed), prompts, KeywordJudge(), options, progress)


def command_options() -> HardenOptions:
    """What ``harden`` does without flags: a search that was interrupted goes on."""
    from rosi_edge.basics.cache import cache_folder
    from rosi_edge.hardening.options import HardenOptions
    from rosi_edge.search.options import ConditionalOptions

    return HardenOptions(conditional=ConditionalOptions(folder=cache_folder() / "searches"))


def evaluate(
    model: StrPath,
    *,
    base: StrPath | None = None,
    suites: str | None = None,
    choices: SuiteChoices | None = None,
    options: EvaluateOptions | None = None,
    progress: Progress = SILENT,
) -> EvaluationReport:
    """Measure refusal, compliance, jailbreaks, divergence and utility, with intervals.

    Args:
        base: the original, to compare with.
        suites: names, separated by commas, or ``all``; None for refusal, over-refusal and, with ``base``,
            divergence.
        choices: the prompts, how many of them, and the seed.

    Raises:
        RosiEdgeError: a model or the judge cannot be used, or no suite could run. What a single suite could
            not do is in the report.
    """
    require("run", "eval")
    from rosi_edge.evaluation.run import Named
    from rosi_edge.evaluation.run import evaluate as run
    from rosi_edge.evaluation.suites import SuiteChoices, open_suites
    from rosi_edge.sources.resolve import resolve

    def named(reference: StrPath) -> Named:
        return Named(os.fspath(reference), resolve(os.fspath(reference), progress))

    choices = replace(choices or SuiteChoices(), compared=base is not None)
    return run(
        named(model),
        open_suites(suites, choices),
        choices,
        base=None if base is None else named(base),
        options=options,
        progress=progress,
    )


def verify(
    hardened: StrPath, base: StrPath, *, adapter: StrPath | None = None, progress: Progress = SILENT
) -> Verification:
    """Whether a hardened file is its original with the declared edit, and nothing else.

    Args:
        hardened: the file, or the folder.
        adapter: the edit as a LoRA adapter; it must be the declared one.

    Raises:
        RosiEdgeError: a file is missing or of the wrong kind. What is wrong with the hardened one is in the
            result: ``passed`` and ``problems``.
        MissingExtraError: the file was requantized, and llama.cpp's quantizer is not installed.
    """
    from rosi_edge.models.checkpoint import Checkpoint
    from rosi_edge.models.open_weights import open_weights
    from rosi_edge.sources.resolve import resolve
    from rosi_edge.verification.checkpoint import verify_checkpoint
    from rosi_edge.verification.gguf import verify as verify_gguf

    path, given = Path(hardened), None if adapter is None else Path(adapter)
    with open_weights(resolve(os.fspath(base), progress)) as original:
        if not path.exists():
            raise ModelFileError(f"{path} does not exist", "Check the path")
        if path.is_dir() != isinstance(original, Checkpoint):
            raise RosiEdgeError(
                f"{path} and {os.fspath(base)} differ in kind: one is a file, the other a folder",
                "Give the model that was hardened as --base",
            )
        if isinstance(original, Checkpoint):
            return verify_checkpoint(path, original, adapter=given, progress=progress)
        return verify_gguf(path, original, adapter=given, progress=progress)


def check(
    model: StrPath,
    policy: StrPath | Policy | None = None,
    *,
    base: StrPath | None = None,
    options: CheckOptions | None = None,
    progress: Progress = SILENT,
) -> CheckReport:
    """Put a file to a policy.

    Args:
        policy: a policy file, or a policy; None for the default one.
        base: the original: for the change, the chat template and the proof of the edit.
        options: whether the model is run (``CheckOptions(behaviour=False)``: it is not), and the manifest,
            which is the one beside the file, if any, where it is None.

    Raises:
        RosiEdgeError: the policy or a file cannot be read. What a rule could not do is in the report, and
            never a pass.
    """
    from rosi_edge.policy.model import DEFAULT_POLICY, Policy, load_policy
    from rosi_edge.policy.provenance import manifest_beside
    from rosi_edge.policy.run import Checked, CheckOptions
    from rosi_edge.policy.run import check as run
    from rosi_edge.sources.resolve import resolve

    if policy is None:
        policy = DEFAULT_POLICY
    elif not isinstance(policy, Policy):
        policy = load_policy(Path(policy))

    def checked(reference: StrPath) -> Checked:
        return Checked(os.fspath(reference), resolve(os.fspath(reference), progress))

    subject, options = checked(model), options or CheckOptions()
    if options.manifest is None:
        options = replace(options, manifest=manifest_beside(subject.path))
    return run(
        subject, policy, base=None if base is None else checked(base), options=options, progress=progress
    )
