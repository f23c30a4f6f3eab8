"""How well each layer tells harmful from harmless requests, drawn as it comes."""

from __future__ import annotations

from collections.abc import Sequence

from rosi_edge.direction import LayerSeparation

from .plot import Plot


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
        self.points(layers, values, "•", self.plain, "a layer")
        self.points([best.layer], [best.d_prime], "◆", self.strong, f"best: layer {best.layer}")
        self.set_xlabel("layer")
        self.set_ylabel("separation of harmful from harmless (d′)")
        self.set_ylimits(0, None)
        self.set_xlimits(-0.5, max(max(layers), 1) + 0.5)
