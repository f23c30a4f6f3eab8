"""How well each layer tells harmful from harmless requests, drawn as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from .plot import Plot

if TYPE_CHECKING:
    from rosi_edge.direction.difference import LayerSeparation
    from rosi_edge.hardening.attribute import Attribute


def legend(about: Attribute | None = None) -> Text:
    pair = (about.names.harmful, about.names.harmless) if about else ("harmful", "harmless requests")
    return Text(f"↑ separation of {pair[0]} from {pair[1]} (d′)  → layer  ◆ the best one", no_wrap=True)


class SeparationPlot(Plot):
    """d′ by layer. The layer that separates best is marked, by its sign and in words."""

    def show(self, separation: Sequence[LayerSeparation]) -> None:
        self.clear()
        if not separation:
            return
        layers = [entry.layer for entry in separation]
        values = [entry.d_prime for entry in separation]
        best = max(separation, key=lambda entry: entry.d_prime)
        self.line(layers, values)
        self.points(layers, values, "•", self.plain)
        self.points([best.layer], [best.d_prime], "◆", self.strong)
        self.set_ylimits(min(0.0, *values), max(best.d_prime * 1.1, 0.1))
        self.set_xlimits(-0.5, max(max(layers), 1) + 0.5)
