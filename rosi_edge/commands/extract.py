"""``rosi-edge extract``: the direction of every layer as a control vector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from rosi_edge.basics.extras import require
from rosi_edge.commands.arguments import PATH
from rosi_edge.commands.options import (
    elicit_option,
    elicitation_of,
    engine_options,
    harmful_option,
    harmless_option,
    runtime_flags,
)
from rosi_edge.commands.output import (
    progress_bar,
    refuse_to_overwrite,
    show,
)

if TYPE_CHECKING:
    # Not at run time: scipy comes with it.
    from rosi_edge.basics.statistics import Estimate


@click.command()
@click.argument("model")
@click.option("-o", "--output", type=PATH, required=True, help="The control vector to write (GGUF).")
@harmful_option
@harmless_option
@elicit_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@runtime_flags
def extract(
    model: str,
    output: Path,
    harmful: Path | None,
    harmless: Path | None,
    elicit: str | None,
    as_json: bool,
    **runtime: Any,
) -> None:
    """Measure the refusal direction of every layer and write it as a control vector."""
    require("run", "extract")
    import json
    from dataclasses import asdict

    from rosi_edge import library
    from rosi_edge.report.layers import auc_estimate, d_prime_estimate

    refuse_to_overwrite([output], [model, harmful, harmless])
    with progress_bar() as progress:
        directions = library.extract(
            model,
            output,
            harmful=harmful,
            harmless=harmless,
            elicitation=elicitation_of(elicit),
            engine=engine_options(**runtime),
            progress=progress,
        )
    if as_json:
        click.echo(
            json.dumps(
                {
                    "output": str(output),
                    "harmful_prompts": directions.positive,
                    "harmless_prompts": directions.negative,
                    "elicitation": directions.elicitation,
                    "separation": [asdict(entry) for entry in directions.separation],
                },
                indent=2,
            )
        )
        return
    counts = (directions.positive, directions.negative)
    table = Table(
        "layer",
        "norm",
        "cosine of means",
        "d′",
        "AUC",
        title="Separation by layer",
        caption=f"in brackets: 95 % intervals; n = {sum(counts)}, cross-validated in two folds",
    )
    for entry in directions.separation:
        table.add_row(
            str(entry.layer),
            f"{entry.norm:.3f}",
            f"{entry.cosine_of_means:.4f}",
            _with_interval(d_prime_estimate(entry.d_prime, *counts)),
            _with_interval(auc_estimate(entry.auc, *counts)),
        )
    show(table)
    click.echo(
        f"{output}: directions of {directions.positive} harmful and {directions.negative} harmless prompts"
    )


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
