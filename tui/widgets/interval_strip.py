"""Before and after of one rate, with their 95 % intervals, on one line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text
from textual.widget import Widget

if TYPE_CHECKING:
    from rosi_edge.basics.statistics import Estimate

BEFORE, AFTER = "○", "●"
_LABEL = 22

Row = tuple[str, "Estimate | None", "Estimate | None"]


class IntervalStrip(Widget):
    """Shares from 0 to 100 %."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._rows: list[Row] = []

    def show(self, rows: Sequence[Row]) -> None:
        self._rows = [row for row in rows if row[1] is not None or row[2] is not None]
        self.refresh(layout=True)

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        return 2 * len(self._rows) + 1 if self._rows else 0

    def render(self) -> Text:
        if not self._rows:
            return Text("")
        width = max(20, self.size.width - _LABEL - 8)
        text = Text(no_wrap=True)
        for label, before, after in self._rows:
            for name, sign, figure in (("before", BEFORE, before), ("after", AFTER, after)):
                shown = label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"
                text.append(f"{shown if sign == BEFORE else '':<{_LABEL}} ")
                text.append(f"{name:<6} ", "dim")
                text.append(self._strip(figure, sign, width) + "\n", "bold" if sign == AFTER else "")
        text.append(" " * (_LABEL + 8) + "0 %" + "100 %".rjust(width - 3), "dim")
        return text

    def _strip(self, figure: Estimate | None, sign: str, width: int) -> str:
        if figure is None:
            return "not measured"
        cells = ["·"] * width

        def place(share: float) -> int:
            return min(width - 1, max(0, round(share * (width - 1))))

        low, high = place(figure.low), place(figure.high)
        cells[low : high + 1] = ["─"] * (high - low + 1)
        cells[low], cells[high] = "├", "┤"
        cells[place(figure.value)] = sign
        return "".join(cells)
