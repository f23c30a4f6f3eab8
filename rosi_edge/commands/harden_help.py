"""The options of ``harden`` in groups, and the words they use: for its help and for the wizard."""

from __future__ import annotations

import click

GROUPS = {
    "Basic": ("output", "report_folder", "method", "stress", "force", "seed", "as_json"),
    "Search": (
        *("layer", "alpha", "min_compliance", "max_kl", "trials", "time_limit", "storage", "no_paper"),
    ),
    "File": ("rounding", "min_delivered", "promote", "imatrix", "adapter", "source", "also", "no_evaluation"),
    "Prompts": ("harmful", "harmless", "sounds_harmful", "attribute", "elicit"),
    "Runtime": ("threads", "context_size", "batch_size", "gpu_layers", "rpc", "template"),
}
"""Titles to the names of options."""

WORDS = {
    "refusal direction": "the difference between harmful and harmless requests inside the model.",
    "rank one": "a matrix made of two vectors: what the edit responds to, and what it adds.",
    "choosing prompts": "requests that only choose the setting; the final figures come from others.",
    "KL": "how far two models differ in the first words of their answers; 0 means no difference.",
    "nats": "the unit of KL; 0.1 is a small change.",
    "grid": "the few values that a quantized weight can take; rounding picks one of them.",
}
"""Said in the help of ``harden`` and on the wizard's F1 page."""


class GroupedCommand(click.Command):
    """A command that shows its options in ``GROUPS``, and the ``WORDS`` after them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rest = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(_rows(ctx, [option for option in rest if option.name in names]))
            rest = [option for option in rest if option.name not in names]
        with formatter.section("Other"):
            formatter.write_dl(_rows(ctx, rest))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Words"):
            formatter.write_dl(WORDS.items())


def _rows(ctx: click.Context, options: list[click.Option]) -> list[tuple[str, str]]:
    return [row for option in options if (row := option.get_help_record(ctx)) is not None]
