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

    from rosi_edge.direction.difference import extract_directions, write_control_vector
    from rosi_edge.models.digest import sha256_of_model
    from rosi_edge.models.open_weights import open_weights
    from rosi_edge.prompts.sets import (
        Kind,
        Part,
        bundled,
        load_prompts,
    )
    from rosi_edge.report.layers import auc_estimate, d_prime_estimate
    from rosi_edge.runtime.open_engine import open_engine
    from rosi_edge.sources.resolve import resolve

    positive = load_prompts(harmful) if harmful else bundled(Kind.HARMFUL, Part.CALIBRATION)
    negative = load_prompts(harmless) if harmless else bundled(Kind.HARMLESS, Part.CALIBRATION)
    with progress_bar() as progress:
        path = resolve(model, progress)
        refuse_to_overwrite([output], [path, harmful, harmless])
        with open_engine(path, engine_options(**runtime)) as engine:
            directions = extract_directions(
                engine, positive.texts, negative.texts, elicitation=elicitation_of(elicit), progress=progress
            )
            architecture = engine.facts.architecture
        with open_weights(path) as weights:
            digest = sha256_of_model(weights, progress)
        write_control_vector(output, directions, architecture=architecture, source_sha256=digest)
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
