"""The frontier: what each setting refuses of the harmful and answers of the harmless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from .plot import Plot

if TYPE_CHECKING:
    from rosi_edge.hardening.attribute import Attribute

ORIGINAL, TRIED, ANSWERED, CHOSEN, YOURS = "□", "·", "○", "◆", "◉"


@dataclass(frozen=True)
class Dot:
    """Shares, 0 to 1."""

    refusal: float
    compliance: float


def legend(about: Attribute | None = None) -> Text:
    from rosi_edge.records.figures import FIGURES

    refuses, answers = about.labels[:2] if about else [figure.words for figure in FIGURES[:2]]
    return Text(
        f"↑ {answers}   → {refuses}\n"
        f"{ORIGINAL} original  {TRIED} estimated  {ANSWERED} measured  {CHOSEN} best found  {YOURS} yours  "
        "⠒⠒ lowest allowed",
        no_wrap=True,
    )


class FrontierPlot(Plot):
    """Right is safer, up is more helpful."""

    def show(
        self,
        *,
        original: Dot | None = None,
        tried: Sequence[Dot] = (),
        answered: Sequence[Dot] = (),
        chosen: Dot | None = None,
        yours: Dot | None = None,
        floor: float | None = None,
    ) -> None:
        self.clear()
        if floor is not None:
            self.line([0.0, 1.0], [floor, floor])
        for dots, sign, style in (
            (tried, TRIED, self.faint),
            (answered, ANSWERED, self.plain),
            ([original] if original else [], ORIGINAL, self.other),
            ([chosen] if chosen else [], CHOSEN, self.strong),
            ([yours] if yours else [], YOURS, self.strong),
        ):
            self.points([d.refusal for d in dots], [d.compliance for d in dots], sign, style)
        everything = [d for d in (original, chosen, yours, *tried, *answered) if d is not None]
        lowest = min([d.compliance for d in everything] + ([floor] if floor is not None else []), default=0.0)
        self.set_xlimits(0.0, 1.0)
        # Compliance that matters lies near the top; the axis goes as deep as the points do.
        self.set_ylimits(max(0.0, min(0.8, lowest - 0.05)), 1.02)
