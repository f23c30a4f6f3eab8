"""``rosi-edge harden``: a model file in, a hardened file and its report out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rosi_edge.commands.arguments import PATH, Auto, Duration, Strength
from rosi_edge.commands.harden_output import show
from rosi_edge.commands.hardening_options import hardening_options
from rosi_edge.commands.options import elicit_option, runtime_flags
from rosi_edge.commands.output import FINDING, HARM_LABELS, progress_bar
from rosi_edge.commands.quantizations import (
    exit_code,
    refuse_search_options,
    show_files,
    targets_of,
    transfer_report,
)
from rosi_edge.errors import OutputError, RosiEdgeError

if TYPE_CHECKING:
    # Not at run time: what a report needs is slow to import.
    pass


@click.command()
@click.argument("model")
@click.option("-o", "--output", type=PATH, required=True,
              help="The hardened file to write; of a checkpoint folder, a folder.")  # fmt: skip
@click.option("--from", "source", type=PATH, metavar="SOURCE",
              help="Search nothing: take the edit of a hardened file, folder or adapter.")  # fmt: skip
@click.option("--also", type=(str, PATH), multiple=True, metavar="MODEL OUT",
              help="Bake the same edit into another file of the model; may be given again.")  # fmt: skip
@click.option("--no-evaluation", is_flag=True,
              help="Do not measure what only gets the edit (--from, --also) before and after.")  # fmt: skip
@click.option("--method", type=click.Choice(["rosi", "conditional"]), default="conditional",
              show_default=True, help="The input side of the edit: the paper's row mean, or fitted to answer "
                                      "to harmful requests only.")  # fmt: skip
@click.option("--layer", type=Auto(int, 0), default="auto", show_default=True,
              help="Layer of the direction.")  # fmt: skip
@click.option("--alpha", type=Strength(), default="auto", show_default=True, help="Strength.")
@click.option("--min-compliance", type=click.FloatRange(0, 1), default=None,
              help="Lowest benign compliance allowed, on the choosing prompts  [default: 1 point under the "
                   "original's; 2 with rosi]")  # fmt: skip
@click.option("--max-kl", type=click.FloatRange(0, min_open=True), default=0.10, show_default=True,
              help="Highest KL divergence allowed, nats, on harmless choosing prompts "
                   "(conditional).")  # fmt: skip
@click.option("--trials", type=click.IntRange(1), default=10, show_default=True,
              help="Settings tried by the search (conditional).")  # fmt: skip
@click.option("--time-limit", type=Duration(), default=None, metavar="SECONDS",
              help="Try no further setting after this long: 90, 10m, 1h (conditional).")  # fmt: skip
@click.option("--storage", metavar="URL",
              help="Optuna storage that several searches share, such as sqlite:///search.db (conditional)  "
                   "[default: a journal in the cache folder]")  # fmt: skip
@click.option("--no-paper", is_flag=True,
              help="Do not look for the paper's method at the same constraints (conditional).")  # fmt: skip
@click.option("--rounding", type=click.Choice(["requantize", "grid"]), default="grid",
              show_default=True, help="How the edit is put into quantized blocks.")  # fmt: skip
@click.option("--imatrix", type=PATH,
              help="Importance matrix (llama-imatrix) of MODEL, for requantization.")  # fmt: skip
@click.option("--min-delivered", type=click.FloatRange(0, 1), default=0.95, show_default=True,
              help="Share of its edit that every tensor must hold (grid).")  # fmt: skip
@click.option("--promote", default="auto", metavar="auto|never|TYPE", show_default=True,
              help="Larger type for tensors that cannot hold their edit (grid).")  # fmt: skip
@click.option("--stress", type=click.IntRange(0), default=8, show_default=True, metavar="N",
              help="Harmful requests put under attack before and after; 0 for none.")  # fmt: skip
@click.option("--harmful", type=PATH, help="Harmful requests, split into parts by the tool.")
@click.option("--harmless", type=PATH, help="Harmless requests, likewise.")
@click.option("--sounds-harmful", type=PATH, help="Benign requests that sound harmful, likewise.")
@click.option("--attribute", metavar="NAME|FOLDER",
              help="Make the model decline something else than harm: unknowable (questions that nobody can "
                   "answer), or a folder with attribute.toml.")  # fmt: skip
@elicit_option
@click.option("--adapter", type=PATH, help="Also write the exact edit as a LoRA adapter (GGUF).")
@click.option("--report", "report_folder", type=PATH, help="Folder for the report and its pictures.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the prompt sample.")
@click.option(
    "--force",
    is_flag=True,
    help="Write the file whatever the verdict, unless it refuses harmful requests less; if nothing keeps the "
    "constraints, the best balance.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@runtime_flags
def harden(
    model: str,
    output: Path,
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
    """Harden MODEL into a new file, of the same types and size where they hold the edit, and prove what it
    did."""
    # The flags that only steer the run are read by hardening_options.
    from rosi_edge.baking.inputs import SharedFactors
    from rosi_edge.basics.cache import cache_folder
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
            "--no-evaluation is for files that get an edit that was found on another",
            "Add --from or --also, or leave it out",
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
    if not Path(model).is_dir():
        checked_target(output)
    if report_folder is not None:
        check_folder(report_folder)
    options = replace(options, evaluate=not no_evaluation)
    labels = HARM_LABELS if about is None else about.labels
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
