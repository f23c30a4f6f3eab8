"""``rosi-edge harden``: a model file in, a hardened file and its report out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from rosi_edge.basics.extras import require
from rosi_edge.commands.arguments import PATH, Auto, Duration, Strength
from rosi_edge.commands.default_output import free_output
from rosi_edge.commands.harden_help import GroupedCommand
from rosi_edge.commands.hardening_options import hardening_options
from rosi_edge.commands.options import (
    elicit_option,
    harmful_option,
    harmless_option,
    runtime_flags,
    sounds_harmful_option,
)
from rosi_edge.commands.output import FINDING, progress_bar
from rosi_edge.commands.quantizations import (
    exit_code,
    refuse_search_options,
    show_files,
    targets_of,
    transfer_report,
)
from rosi_edge.errors import OutputError, RosiEdgeError


@click.command(cls=GroupedCommand)
@click.argument("model")
@click.option("-o", "--output", type=PATH,
              help="The hardened file to write; a folder if MODEL is one  [default: MODEL-hardened.gguf, "
                   "beside the model]")  # fmt: skip
@click.option("--report", "report_folder", type=PATH, help="Folder for the report and its pictures.")
@click.option("--method", type=click.Choice(["rosi", "conditional"]), default="conditional",
              show_default=True, help="The paper's edit (rosi), or one that responds to harmful requests "
                                      "only (conditional).")  # fmt: skip
@click.option("--stress", type=click.IntRange(0), default=8, show_default=True, metavar="N",
              help="Harmful requests to try with jailbreaks, before and after; 0 for none.")  # fmt: skip
@click.option("--force", is_flag=True,
              help="Keep the file even if the verdict is bad or no setting meets the limits. A file that "
                   "refuses fewer harmful requests is never kept.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the prompt sample.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--layer", type=Auto(int, 0), default="auto", show_default=True,
              help="Layer to take the refusal direction from.")  # fmt: skip
@click.option("--alpha", type=Strength(), default="auto", show_default=True, help="Strength of the edit.")
@click.option("--min-compliance", type=click.FloatRange(0, 1), default=None,
              help="Smallest share of harmless choosing prompts that must still be answered  [default: "
                   "1 point below the original's; 2 with rosi]")  # fmt: skip
@click.option("--max-kl", type=click.FloatRange(0, min_open=True), default=0.10, show_default=True,
              help="Largest KL divergence from the original on harmless choosing prompts, in nats "
                   "(conditional).")  # fmt: skip
@click.option("--trials", type=click.IntRange(1), default=10, show_default=True,
              help="Settings to try (conditional).")  # fmt: skip
@click.option("--time-limit", type=Duration(), default=None, metavar="TIME",
              help="Try no more settings after this time: 90, 10m or 1h (conditional).")  # fmt: skip
@click.option("--storage", metavar="URL",
              help="Optuna storage, to share a search between processes, such as sqlite:///search.db "
                   "(conditional)  [default: a journal in the cache folder]")  # fmt: skip
@click.option("--no-paper", is_flag=True,
              help="Skip the comparison with the paper's method (conditional).")  # fmt: skip
@click.option("--rounding", type=click.Choice(["requantize", "grid"]), default="grid",
              show_default=True, help="How edited weights are rounded: on their grid, by real inputs, or by "
                                      "llama.cpp's quantizer (requantize).")  # fmt: skip
@click.option("--min-delivered", type=click.FloatRange(0, 1), default=0.95, show_default=True,
              help="Smallest share of its edit that each tensor must keep when rounded (grid).")  # fmt: skip
@click.option("--promote", default="auto", metavar="auto|never|TYPE", show_default=True,
              help="Larger type for tensors that cannot hold their edit (grid).")  # fmt: skip
@click.option("--imatrix", type=PATH,
              help="Importance matrix of MODEL, from llama-imatrix (requantize).")  # fmt: skip
@click.option("--adapter", type=PATH, help="Also write the exact edit as a LoRA adapter (GGUF).")
@click.option("--from", "source", type=PATH, metavar="SOURCE",
              help="Do not search: take the edit of a hardened file, folder or adapter.")  # fmt: skip
@click.option("--also", type=(str, PATH), multiple=True, metavar="MODEL OUT",
              help="Also put the edit into another file of the model. Can be repeated.")  # fmt: skip
@click.option("--no-evaluation", is_flag=True,
              help="Do not measure the files of --from and --also.")  # fmt: skip
@harmful_option
@harmless_option
@sounds_harmful_option
@click.option("--attribute", metavar="NAME|FOLDER",
              help="Decline something other than harm: unknowable (questions that nobody can answer), or a "
                   "folder with attribute.toml.")  # fmt: skip
@elicit_option
@runtime_flags
def harden(
    model: str,
    output: Path | None,
    source: Path | None,
    also: tuple[tuple[str, Path], ...],
    no_evaluation: bool,
    storage: str | None,
    harmful: Path | None,
    harmless: Path | None,
    sounds_harmful: Path | None,
    attribute: str | None,
    report_folder: Path | None,
    seed: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """Make MODEL refuse more harmful requests: find an edit, write it to a new file, and measure both.

    Your own requests are split by the tool: some find the edit, some choose it, the rest measure it.
    """
    require("run", "hardening")
    # The flags that only steer the run are read by hardening_options.
    from rosi_edge.baking.inputs import SharedFactors
    from rosi_edge.basics.cache import cache_folder
    from rosi_edge.commands.harden_output import show
    from rosi_edge.hardening.attribute import prompts_and_judge
    from rosi_edge.hardening.session import harden as run
    from rosi_edge.hardening.transfer import (
        Target,
        check_targets,
        edits_from,
        transfer_all,
    )
    from rosi_edge.models.atomic import checked_target
    from rosi_edge.prompts.sets import Kind
    from rosi_edge.report.write import check_folder, write_report
    from rosi_edge.sources.resolve import resolve

    # Everything that can be refused is refused before the first long step.
    prompts, judge, about = prompts_and_judge(
        attribute,
        {Kind.HARMFUL: harmful, Kind.HARMLESS: harmless, Kind.SOUNDS_HARMFUL: sounds_harmful},
        seed=seed,
    )
    if no_evaluation and source is None and not also:
        raise RosiEdgeError(
            "--no-evaluation needs --from or --also",
            "Add one of them, or leave --no-evaluation out",
        )
    if source is not None:
        refuse_search_options()
    options = hardening_options(
        click.get_current_context().params,
        about,
        folder=cache_folder() / "searches",
        reference=model,
        command=_command(storage),
    )
    options.check()
    if output is None:
        output = free_output(model)
    elif not Path(model).is_dir():
        checked_target(output)
    if report_folder is not None:
        check_folder(report_folder)
    options = replace(options, evaluate=not no_evaluation)
    labels = () if about is None else about.labels
    if source is not None:
        with progress_bar() as progress:
            found = edits_from(source)
            targets = targets_of([(model, output), *also], progress)
            files = transfer_all(targets, found, prompts, judge, options, progress)
        if as_json:
            click.echo(transfer_report(str(source), found, files, options, prompts).model_dump_json(indent=2))
        else:
            show_files(files, [target.output for target in targets], labels)
        if code := exit_code(files):
            raise click.exceptions.Exit(code)
        return
    with progress_bar() as progress:
        path = resolve(model, progress)
        others = targets_of(also, progress)
        if others:
            check_targets([Target(model, path, output), *others], None, options)
        if report_folder is not None:
            every = [Target(model, path, output), *others]
            _refuse_report_in(report_folder, [*(t.model for t in every), *(t.output for t in every)])
        shared = SharedFactors()
        report = run(path, output, prompts, judge, options, progress, shared)
        problem: RosiEdgeError | None = None
        if others and report.output is not None:
            # The first of its parts, where the model has several.
            source = output.with_name(report.output.file_name)
            try:
                files = transfer_all(others, edits_from(source), prompts, judge, options, progress, shared)
                report = report.model_copy(update={"also": files})
            except RosiEdgeError as error:
                # What has been found and measured by now is reported first.
                problem = error
        if report_folder is not None:
            write_report(report, report_folder)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        show(report, output, report_folder, labels)
        show_files(report.also, [other.output for other in others][: len(report.also)], labels)
        if others and not report.also and problem is None:
            click.echo("also      nothing: there is no edit to bake into the other files")
    if problem is not None:
        raise problem
    if report.verdict.status != "hardened":
        raise click.exceptions.Exit(FINDING)
    if code := exit_code(report.also):
        raise click.exceptions.Exit(code)


def _refuse_report_in(folder: Path, models: Sequence[Path]) -> None:
    """A checkpoint holds nothing but itself: a report would replace its README.md, and spoil a new one."""
    for place in models:
        if folder.resolve().is_relative_to(place.resolve()):
            raise OutputError(f"the report would lie in {place}", "Choose another folder for the report")


def _command(storage: str | None) -> str:
    """As it was typed, but reports are published, and a storage's address may hold a password."""
    arguments = sys.argv[1:]
    if storage is not None:
        from rosi_edge.search.journal import shown_storage

        arguments = [argument.replace(storage, shown_storage(storage)) for argument in arguments]
    return shlex.join(["rosi-edge", *arguments])
