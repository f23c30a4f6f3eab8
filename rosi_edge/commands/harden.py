"""``rosi-edge harden``: a model file in, a hardened file and its report out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import click

from rosi_edge.commands.options import (
    PATH,
    Auto,
    Strength,
    elicit_option,
    elicitation_of,
    engine_options,
    runtime_flags,
)
from rosi_edge.commands.output import (
    FINDING,
    progress_bar,
    show_figures,
)


@click.command()
@click.argument("model")
@click.option("-o", "--output", type=PATH, required=True, help="The hardened GGUF to write.")
@click.option("--method", type=click.Choice(["rosi", "conditional"]), default="rosi", show_default=True,
              help="How the input side of the edit is chosen.")  # fmt: skip
@click.option("--layer", type=Auto(int, 0), default="auto", show_default=True,
              help="Layer of the direction.")  # fmt: skip
@click.option("--alpha", type=Strength(), default="auto", show_default=True, help="Strength.")
@click.option("--min-compliance", type=click.FloatRange(0, 1), default=None,
              help="Lowest benign compliance allowed  [default: 2 points under the original's; "
                   "1 with conditional]")  # fmt: skip
@click.option("--max-kl", type=click.FloatRange(0, min_open=True), default=0.10, show_default=True,
              help="Highest KL divergence allowed on harmless prompts, nats (conditional).")  # fmt: skip
@click.option("--trials", type=click.IntRange(1), default=16, show_default=True,
              help="Settings tried by the search (conditional).")  # fmt: skip
@click.option("--rounding", type=click.Choice(["requantize", "grid"]), default="requantize",
              show_default=True, help="How the edit is put into quantized blocks.")  # fmt: skip
@click.option("--harmful", type=PATH, help="Harmful requests, split into parts by the tool.")
@click.option("--harmless", type=PATH, help="Harmless requests, likewise.")
@click.option("--sounds-harmful", type=PATH, help="Benign requests that sound harmful, likewise.")
@elicit_option
@click.option("--adapter", type=PATH, help="Also write the exact edit as a LoRA adapter (GGUF).")
@click.option("--report", "report_folder", type=PATH, help="Folder for the report and its pictures.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the prompt sample.")
@click.option(
    "--force",
    is_flag=True,
    help="Write the file whatever the verdict; if nothing keeps the constraints, the best balance.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@runtime_flags
def harden(
    model: str,
    output: Path,
    method: Literal["rosi", "conditional"],
    layer: float | None,
    alpha: float | None,
    min_compliance: float | None,
    max_kl: float,
    trials: int,
    rounding: Literal["requantize", "grid"],
    harmful: Path | None,
    harmless: Path | None,
    sounds_harmful: Path | None,
    elicit: str | None,
    adapter: Path | None,
    report_folder: Path | None,
    seed: int,
    force: bool,
    as_json: bool,
    **runtime: Any,
) -> None:
    """Harden MODEL into a new file of the same types and size, and prove what it did."""
    from rosi_edge.conditional_search import ConditionalOptions
    from rosi_edge.evaluation.judges.keyword import KeywordJudge
    from rosi_edge.hardening import HardenOptions
    from rosi_edge.hardening import harden as run
    from rosi_edge.models.atomic import checked_target
    from rosi_edge.models.sources import resolve
    from rosi_edge.prompt_plan import plan_prompts
    from rosi_edge.prompts import Kind
    from rosi_edge.report.write import check_folder, write_report
    from rosi_edge.search import SearchOptions

    # Everything that can be refused is refused before the first long step.
    prompts = plan_prompts(
        {Kind.HARMFUL: harmful, Kind.HARMLESS: harmless, Kind.SOUNDS_HARMFUL: sounds_harmful}, seed=seed
    )
    checked_target(output)
    if adapter is not None:
        checked_target(adapter)
    if report_folder is not None:
        check_folder(report_folder)
    options = HardenOptions(
        rounding=rounding,
        method=method,
        elicitation=elicitation_of(elicit),
        search=SearchOptions(
            min_compliance=min_compliance,
            layers=None if layer is None else (int(layer),),
            strength=alpha,
        ),
        conditional=ConditionalOptions(
            min_compliance=min_compliance,
            max_kl=max_kl,
            trials=trials,
            layer=None if layer is None else int(layer),
            strength=alpha,
            seed=seed,
        ),
        engine=engine_options(**runtime),
        force=force,
        adapter=adapter,
        reference=model,
        command=shlex.join(["rosi-edge", *sys.argv[1:]]),
        seed=seed,
    )
    with progress_bar() as progress:
        report = run(resolve(model, progress), output, prompts, KeywordJudge(), options, progress)
        if report_folder is not None:
            write_report(report, report_folder)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        _show(report, output, report_folder)
    if report.verdict.status != "hardened":
        raise click.exceptions.Exit(FINDING)


def _show(report: Any, output: Path, report_folder: Path | None) -> None:
    show_figures(report.before, report.after, report.changes, names=("before", "after"))
    click.echo(f"verdict   {report.verdict.status}: {report.verdict.reason}")
    if report.verdict.advice:
        click.echo(f"advice    {report.verdict.advice}")
    click.echo(f"layer     {report.direction.layer}")
    click.echo(f"strength  {report.injection.strength:.4g}")
    if report.injection.delivered is not None:
        click.echo(f"delivered {report.injection.delivered:.2f} of the edit, on average over the tensors")
    click.echo(f"time      {report.timing.total:.0f} s")
    if report.output is None:
        click.echo("file      not written; --force writes it all the same")
    else:
        click.echo(f"file      {output} ({report.output.size / 1e6:.1f} MB, sha256 {report.output.sha256})")
    if report_folder is not None:
        click.echo(f"report    {report_folder / 'report.md'}")
