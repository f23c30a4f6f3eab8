"""``rosi-edge eval``: figures with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from rosi_edge.basics.extras import require
from rosi_edge.commands.arguments import PATH
from rosi_edge.commands.options import (
    engine_options,
    harmful_option,
    harmless_option,
    runtime_flags,
    sounds_harmful_option,
)
from rosi_edge.commands.output import (
    COULD_NOT_RUN,
    INTERRUPTED,
    estimate_text,
    interval_change_text,
    progress_bar,
    refuse_to_overwrite,
    show,
)


def _renamed(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value is not None:
        raise click.UsageError("--benign is called --harmless since 0.2.0")


@click.command(name="eval")
@click.argument("model")
@click.option("--base", help="The original model, to compare with.")
@click.option("--suites", metavar="LIST",
              help="What to measure: refusal, overrefusal, jailbreak, divergence, utility, stability, or all"
                   "  [default: refusal,overrefusal, and with --base divergence]")  # fmt: skip
@harmful_option
@harmless_option
@click.option("--benign", hidden=True, expose_value=False, callback=_renamed)
@sounds_harmful_option
@click.option("--xstest", type=PATH, help="XSTest as a CSV file, for the suite overrefusal.")
@click.option("--attacks", metavar="LIST",
              help="Attacks of the suite jailbreak: names, OUTER+INNER, garak, or all"
                   "  [default: all]")  # fmt: skip
@click.option("--utility", multiple=True, metavar="PATH|hf:ORG/DATASET",
              help="Questions for the suite utility (MMLU, HellaSwag, ARC). Can be repeated."
                   "  [default: a built-in mini set]")  # fmt: skip
@click.option("--text", type=PATH, help="Plain text for perplexity and for the long session.")
@click.option("--stability-tokens", type=click.IntRange(1000),
              help="Length of the session in the suite stability  [default: 100000]")  # fmt: skip
@click.option("--judge", default="keyword", show_default=True, metavar="keyword|gguf:PATH|http:URL",
              help="Who tells refusals from answers: keywords, a guard model, or a server.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Prompts or questions of each set, at most.")
@click.option("--max-tokens", type=click.IntRange(8, 1024), default=24, show_default=True,
              help="Tokens of each answer.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the prompt sample.")
@click.option("--fresh", is_flag=True, help="Measure everything again, even what an earlier run measured.")
@click.option("--picture", type=PATH, help="Also draw the figures with their error bars (PNG).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@runtime_flags
def evaluate(
    model: str,
    base: str | None,
    suites: str | None,
    judge: str,
    fresh: bool,
    picture: Path | None,
    as_json: bool,
    utility: tuple[str, ...],
    harmful: Path | None,
    harmless: Path | None,
    sounds_harmful: Path | None,
    xstest: Path | None,
    attacks: str | None,
    text: Path | None,
    stability_tokens: int | None,
    limit: int | None,
    max_tokens: int,
    seed: int,
    **runtime: Any,
) -> None:
    """Measure refusal, compliance, jailbreaks, divergence and utility, with intervals.

    Results are kept: after Ctrl-C, the same command goes on where it stopped.
    """
    require("run", "eval")
    from rosi_edge.evaluation.run import EvaluateOptions, Named
    from rosi_edge.evaluation.run import evaluate as run
    from rosi_edge.evaluation.suites import SuiteChoices, open_suites
    from rosi_edge.sources.resolve import resolve

    choices = SuiteChoices(
        harmful=harmful,
        benign=harmless,
        sounds_harmful=sounds_harmful,
        xstest=xstest,
        attacks=attacks,
        utility=utility or None,
        text=text,
        stability_tokens=stability_tokens,
        limit=limit,
        max_tokens=max_tokens,
        seed=seed,
        compared=base is not None,
    )
    if picture is not None:
        refuse_to_overwrite(
            [picture], [model, base, harmful, harmless, sounds_harmful, runtime.get("template")]
        )
    opened = open_suites(suites, choices)
    options = EvaluateOptions(judge=judge, engine=engine_options(**runtime), fresh=fresh)
    try:
        with progress_bar() as progress:
            report = run(
                Named(model, resolve(model, progress)),
                opened,
                choices,
                base=Named(base, resolve(base, progress)) if base else None,
                options=options,
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo("rosi-edge: interrupted. Results so far are kept: run the same command to go on", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    if picture is not None:
        from rosi_edge.report.evaluation_picture import draw_evaluation

        draw_evaluation(report, picture)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        _show(report)
    problems: dict[str, list[str]] = {}
    for name, suite in report.suites.items():
        if suite.problem:
            problems.setdefault(" ".join(suite.problem.split()), []).append(name)
    for problem, names in problems.items():
        which = "suite" if len(names) == 1 else "suites"
        click.echo(f"rosi-edge: the {which} {', '.join(names)} could not run: {problem}", err=True)
    if problems:
        raise click.exceptions.Exit(COULD_NOT_RUN)


def _show(report: Any) -> None:
    from rich.text import Text

    from rosi_edge.basics.text import printable

    compared = report.base is not None
    judge = printable(f"judge {report.judge.name}", 90) if report.judge else "no judge"
    table = Table(
        "",
        *(["base"] if compared else []),
        "model",
        *(["change"] if compared else []),
        caption=f"95 % intervals; {judge}; seed {report.seed}",
    )
    for suite in report.suites.values():
        for figure in suite.figures.values():
            row = [estimate_text(figure)]
            if compared:
                row = [estimate_text(figure.base), *row, interval_change_text(figure.change)]
            # As text: a label may hold the name of a file, with brackets in it.
            table.add_row(*(Text(printable(cell, 120)) for cell in (figure.label, *row)))
        table.add_section()
    show(table)
    for suite in report.suites.values():
        for finding in suite.findings:
            click.echo(f"{finding.claim}: {finding.words}")
