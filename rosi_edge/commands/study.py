"""``rosi-edge study``: experiments that explain a hardening."""

from __future__ import annotations

import json
from typing import Any

import click
from pydantic import TypeAdapter
from rich.table import Table

from rosi_edge.basics.extras import require
from rosi_edge.commands.arguments import Sizes
from rosi_edge.commands.options import engine_options, runtime_flags
from rosi_edge.commands.output import estimate_text, progress_bar, show


@click.group()
def study() -> None:
    """Experiments that explain a hardening."""


@study.command()
@click.argument("model")
@click.option("--sizes", type=Sizes(), default="5,10,20,50,100", show_default=True,
              help="Prompts of each set.")  # fmt: skip
@click.option("--samples", type=click.IntRange(2), default=3, show_default=True,
              help="Samples of each size.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the samples.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@runtime_flags
def calibration(
    model: str, sizes: tuple[int, ...], samples: int, seed: int, as_json: bool, **runtime: Any
) -> None:
    """How many calibration prompts are enough.

    Draws samples of several sizes; shows how much their directions agree and what the same edit made from
    each does to refusal, by first answer tokens at equal divergence.
    """
    require("run", "study")
    from dataclasses import replace

    from rosi_edge.evaluation.judges.keyword import KeywordJudge
    from rosi_edge.hardening.engines import HELD
    from rosi_edge.inspection import require_hardenable
    from rosi_edge.models.open_weights import open_weights
    from rosi_edge.prompts.plan import RequestSets, plan_prompts
    from rosi_edge.prompts.sets import Kind, Part, bundled
    from rosi_edge.runtime.open_engine import open_engine
    from rosi_edge.sources.resolve import resolve
    from rosi_edge.study.calibration import disjoint_samples, study_calibration

    whole = RequestSets(*(bundled(kind, Part.CALIBRATION) for kind in Kind))
    drawn = [disjoint_samples(whole, size, samples, seed) for size in sizes]
    choosing = plan_prompts({}, seed=seed).choosing
    options = replace(engine_options(**runtime), held=HELD)
    with progress_bar() as progress:
        path = resolve(model, progress)
        with (
            open_weights(path) as file,
            open_engine(path, options) as engine,
        ):
            found = study_calibration(
                engine,
                file,
                require_hardenable(file, options.template),
                drawn,
                choosing,
                KeywordJudge(),
                progress=progress,
            )
    if as_json:
        click.echo(TypeAdapter(type(found)).dump_json(found, indent=2).decode())
        return
    table = Table(
        "prompts of each set",
        "cosine between samples",
        "harmful: opens with a refusal",
        "harmless: opens with a refusal",
        "KL (nats)",
        title=f"{samples} samples of each size, no prompt in two; 95 % intervals over samples",
        caption=f"original: {found.refused:.3f} harmful, {found.benign_refused:.3f} harmless",
    )
    for entry in found.sizes:
        figures = (entry.cosine, entry.refused, entry.benign_refused, entry.kl)
        table.add_row(str(entry.size), *(estimate_text(figure) for figure in figures))
    show(table)


@study.command()
@click.argument("model")
@click.option("--most", type=click.IntRange(2, 8), default=3, show_default=True, help="Directions, at most.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@runtime_flags
def directions(model: str, most: int, as_json: bool, **runtime: Any) -> None:
    """Whether more than one direction pays.

    Adds the directions of the hazard categories that stand out most, one by one; shows by category how often
    harmful requests open with a refusal, at equal divergence.
    """
    require("run", "study")
    from dataclasses import replace

    from rosi_edge.evaluation.judges.keyword import KeywordJudge
    from rosi_edge.hardening.engines import HELD
    from rosi_edge.inspection import require_hardenable
    from rosi_edge.models.open_weights import open_weights
    from rosi_edge.prompts.plan import RequestSets, plan_prompts
    from rosi_edge.prompts.sets import Kind, Part, bundled
    from rosi_edge.runtime.open_engine import open_engine
    from rosi_edge.sources.resolve import resolve
    from rosi_edge.study.directions import study_directions

    plan = plan_prompts({})
    # Every category needs its prompts: of the harmful ones all that are for choosing.
    choosing = RequestSets(
        bundled(Kind.HARMFUL, Part.CHOOSING), plan.choosing.harmless, plan.choosing.sounds_harmful
    )
    options = replace(engine_options(**runtime), held=HELD)
    with progress_bar() as progress:
        path = resolve(model, progress)
        with (
            open_weights(path) as weights,
            open_engine(path, options) as engine,
        ):
            found = study_directions(
                engine,
                weights,
                require_hardenable(weights, options.template),
                plan.calibration,
                choosing,
                KeywordJudge(),
                most=most,
                progress=progress,
            )
    if as_json:
        values = TypeAdapter(type(found)).dump_python(found)
        click.echo(json.dumps({**values, "best": found.best}, indent=2))
        return
    columns = [found.original, *found.results]
    heads = ["original", *(f"{number} direction{'s' * (number > 1)}" for number in range(1, len(columns)))]
    table = Table("opens with a refusal", *heads, caption="by first answer tokens, at equal divergence")
    harmful, harmless = found.prompts
    table.add_row(f"harmful (n={harmful})", *(f"{column.harmful:.3f}" for column in columns))
    table.add_row(f"harmless (n={harmless})", *(f"{column.harmless:.3f}" for column in columns))
    for index, (name, count) in enumerate(found.categories):
        table.add_row(f"{name} (n={count})", *(f"{column.by_category[index]:.3f}" for column in columns))
    table.add_row("KL (nats)", *(f"{column.kl:.3f}" for column in columns))
    show(table)
    for number, result in enumerate(found.results[1:], start=2):
        click.echo(f"direction {number}: {result.added[-1]}, {result.rest[-1]:.2f} of it its own")
    more = "more than one does not pay" if found.best == 1 else f"{found.best} directions pay"
    click.echo(f"{more} (2 points of harmful refusal, harmless ones not refused more)")
