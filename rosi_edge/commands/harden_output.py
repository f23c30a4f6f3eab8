"""What `harden` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from rosi_edge.commands.output import estimate_text, not_written, show_figures
from rosi_edge.records.hardening import FrontierPoint, HardeningReport


def show(report: HardeningReport, output: Path, report_folder: Path | None, labels: Sequence[str]) -> None:
    from rosi_edge.report.arrival import promotion_words, rounding_words
    from rosi_edge.report.experiments import attacks_words
    from rosi_edge.report.layers import direction_taken
    from rosi_edge.report.limits import beyond_limits_words

    show_figures(report.before, report.after, report.changes, names=("before", "after"), own_labels=labels)
    if beyond := beyond_limits_words(report):
        click.echo(f"limits    {beyond}")
    for finding in report.findings:
        click.echo(f"finding   {finding}")
    click.echo(f"verdict   {report.verdict.status}: {report.verdict.reason}")
    if report.verdict.advice:
        click.echo(f"advice    {report.verdict.advice}")
    for point in report.frontier:
        if point.chosen:
            click.echo(f"chosen    {_point_text(point)}")
    if report.paper is not None:
        click.echo(f"paper     {_point_text(report.paper)}; best under the same limits")
    taken = direction_taken(report)
    click.echo(f"direction {taken or 'none taken'}")
    click.echo(f"strength  {report.injection.strength:.4g}")
    if report.injection.delivered is not None:
        click.echo(
            f"delivered {report.injection.delivered:.2f} of the edit, on average over "
            f"{len(report.injection.tensors)} tensors. {promotion_words(report)}"
        )
    if report.rounding_check is not None:
        click.echo(f"rounding  {rounding_words(report.rounding_check)}")
    if report.stress is not None:
        click.echo(f"attacks   {attacks_words(report.stress)}")
    click.echo(f"time      {report.timing.total:.0f} s")
    if report.output is None:
        click.echo(f"file      {not_written(report.changes)}")
    else:
        # The first of its parts, where the model has several.
        place = output.with_name(report.output.file_name)
        click.echo(f"file      {place} ({report.output.size / 1e6:.1f} MB, sha256 {report.output.sha256})")
    if report_folder is not None:
        click.echo(f"report    {report_folder / 'report.md'}")


def _point_text(point: FrontierPoint) -> str:
    """Of the choosing prompts."""
    kl = f", KL {estimate_text(point.kl)}" if point.kl else ""
    return (
        f"refusal {estimate_text(point.harmful_refusal)}, "
        f"benign compliance {estimate_text(point.benign_compliance)}{kl}, on the choosing prompts"
    )
