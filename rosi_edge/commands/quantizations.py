"""``harden --from`` and ``--also``: one edit for every file of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from rosi_edge.commands.output import COULD_NOT_RUN, FINDING, not_written, show_figures
from rosi_edge.errors import RosiEdgeError

if TYPE_CHECKING:
    from rosi_edge.basics.progress import Progress
    from rosi_edge.hardening.options import HardenOptions
    from rosi_edge.hardening.transfer import FoundEdits, Target
    from rosi_edge.prompts.plan import PromptPlan
    from rosi_edge.records.hardening import TransferredFile, TransferReport

_SEARCHING = frozenset(
    [
        "method",
        "layer",
        "alpha",
        "min_compliance",
        "max_kl",
        "trials",
        "time_limit",
        "storage",
        "no_paper",
        "stress",
        "elicit",
        "attribute",
        "adapter",
        "report_folder",
    ]
)


def refuse_search_options() -> None:
    """With ``--from`` nothing is searched: a flag that would steer a search is a misunderstanding."""
    context = click.get_current_context()
    for parameter in context.command.params:
        if (
            parameter.name in _SEARCHING
            and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
        ):
            raise RosiEdgeError(
                f"{parameter.opts[-1]} is for a search, and --from does not search",
                f"Leave out {parameter.opts[-1]} or --from",
            )


def targets_of(pairs: Sequence[tuple[str, Path]], progress: Progress) -> list[Target]:
    from rosi_edge.hardening.transfer import Target
    from rosi_edge.sources.resolve import resolve

    return [Target(reference, resolve(reference, progress), output) for reference, output in pairs]


def transfer_report(
    source: str,
    found: FoundEdits,
    files: Sequence[TransferredFile],
    options: HardenOptions,
    prompts: PromptPlan,
) -> TransferReport:
    """What ``--from --json`` prints."""
    from datetime import UTC, datetime
    from importlib.metadata import version

    from rosi_edge import __version__
    from rosi_edge.evaluation.as_figures import prompt_set_facts
    from rosi_edge.records.facts import EvaluationFacts, ToolFacts
    from rosi_edge.records.hardening import TransferReport

    judged = [file for file in files if file.before is not None]
    return TransferReport(
        source=source,
        edits_sha256=found.sha256,
        files=tuple(files),
        evaluation=EvaluationFacts(
            judge="keyword",
            max_tokens=options.max_tokens,
            prompt_sets=prompt_set_facts(prompts.reporting),
        )
        if judged
        else None,
        tool=ToolFacts(
            version=__version__,
            llama_cpp_python=version("llama-cpp-python"),
            seed=options.seed,
            command=options.command,
        ),
        generated=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def show_files(files: Sequence[TransferredFile], outputs: Sequence[Path], labels: Sequence[str]) -> None:
    """A table and a few lines for each file."""
    for file, output in zip(files, outputs, strict=True):
        click.echo(f"\nmodel     {click.unstyle(file.reference)}")
        if file.problem is not None:
            click.echo(f"problem   {file.problem}")
            continue
        if file.before is not None:
            show_figures(file.before, file.after, file.changes, names=("before", "after"), own_labels=labels)
        if file.verdict is not None:
            click.echo(f"verdict   {file.verdict.status}: {file.verdict.reason}")
        else:
            click.echo("verdict   none: it was not measured (--no-evaluation)")
        promoted = sum(tensor.promoted_from is not None for tensor in file.tensors)
        least = min(tensor.delivered for tensor in file.tensors)
        click.echo(
            f"delivered {file.delivered:.2f} of the edit on average over {len(file.tensors)} tensors, "
            f"{least:.2f} in the one with the least; {promoted} promoted to a larger type"
        )
        assert file.timing is not None
        click.echo(f"time      {file.timing.total:.0f} s")
        if file.output is None:
            click.echo(f"file      {not_written(file.changes)}")
        else:
            size = file.output.size / 1e6
            place = output.with_name(file.output.file_name)
            click.echo(f"file      {place} ({size:.1f} MB, sha256 {file.output.sha256})")


def exit_code(files: Sequence[TransferredFile]) -> int:
    """2 when a file could not be done, 1 when one was not hardened."""
    if any(file.problem is not None for file in files):
        return COULD_NOT_RUN
    if any(file.verdict is not None and file.verdict.status != "hardened" for file in files):
        return FINDING
    return 0
