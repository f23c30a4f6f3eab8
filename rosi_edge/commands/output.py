"""What the user sees: results on stdout, progress on stderr, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rosi_edge.commands.terminal import TerminalProgress
from rosi_edge.errors import OutputError

if TYPE_CHECKING:
    # Not at run time: scipy alone would double the time of `inspect`.
    from rosi_edge.basics.statistics import Estimate, PairedChange
    from rosi_edge.records.figures import Changes

FINDING = 1
COULD_NOT_RUN = 2
INTERRUPTED = 130


@contextmanager
def progress_bar() -> Iterator[TerminalProgress]:
    with TerminalProgress(Console(stderr=True)) as progress:
        yield progress


def refuse_to_overwrite(targets: Sequence[Path], inputs: Sequence[str | Path | None]) -> None:
    """Refuse, before any work, to write where nothing can be written, over something that is read (a model in
    several parts, each of them), or twice to one place.

    Args:
        inputs: files as the user named them; what is no file here (``demo``, ``hf:``) is passed over.

    Raises:
        OutputError: see above.
    """
    from rosi_edge.models.atomic import checked_target
    from rosi_edge.models.parts import parts_beside
    from rosi_edge.models.rewrite import refuse_same_file

    places: set[Path] = set()
    for target in targets:
        place = checked_target(target)
        if place in places:
            raise OutputError(f"{target} is to be written twice", "Give every report a file of its own")
        places.add(place)
        for named in inputs:
            if named:
                for path in parts_beside(Path(named)):
                    refuse_same_file(path, place)


def show(renderable: Any) -> None:
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        # A pipe has no width; tables must not be folded at 80 columns there.
        console = Console(file=sys.stdout, width=160)
    console.print(renderable)


def estimate_text(figure: Estimate | None) -> str:
    if figure is None:
        return "–"
    if figure.n == 1 and figure.low == figure.high:
        return f"{figure.value:.3f}  (n=1)"  # one value has no interval
    return f"{figure.value:.3f}  ({figure.low:.3f} to {figure.high:.3f}, n={figure.n})"


def change_text(change: PairedChange | None) -> str:
    return "–" if change is None else f"{change.change * 100:+.1f} points, p={change.p_value:.2g}"


def show_figures(
    before: Any,
    after: Any,
    changes: Any,
    *,
    names: tuple[str, str],
    own_labels: Sequence[str] = (),
) -> None:
    """
    Args:
        own_labels: an attribute's, in place of the first figures'.
    """
    from rosi_edge.records.figures import labels, shown_figures

    table = Table("", names[0], names[1], "change", caption="95 % intervals")
    figures = shown_figures(before)
    for label, figure in zip(labels(figures, own_labels), figures, strict=True):
        table.add_row(
            label,
            estimate_text(getattr(before, figure.name, None)),
            estimate_text(getattr(after, figure.name, None)),
            change_text(getattr(changes, figure.name, None)),
        )
    show(table)


def interval_change_text(change: PairedChange | None) -> str:
    if change is None:
        return "–"
    low, high = change.low * 100, change.high * 100
    return (
        f"{change.change * 100:+.1f} points ({low:+.1f} to {high:+.1f}), p={change.p_value:.2g}, n={change.n}"
    )


def not_written(changes: Changes | None) -> str:
    """What is said of a file that was not kept, and how to keep it if that is possible."""
    from rosi_edge.hardening.verdict import costs_refusals

    if changes and costs_refusals(changes.harmful_refusal_rate, changes.guarded_refusal_rate):
        return "not written: it refuses fewer harmful requests"
    return "not written; --force keeps it anyway"
