"""What the plots share: colours of the theme, narrow margins, no focus, signs besides colours."""

from __future__ import annotations

from collections.abc import Sequence

from textual_plot import HiResMode, PlotWidget


class Plot(PlotWidget, can_focus=False):
    """A plot that is looked at; arrow keys belong to the widgets beside it."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes, allow_pan_and_zoom=False)

    def on_mount(self) -> None:
        # Axes are named in a line of text above: the margins cut longer names off.
        self.margin_top = 0
        self.margin_bottom = 1
        self.margin_left = 6

    def _colour(self, name: str, fallback: str) -> str:
        colour = self.app.theme_variables.get(name, fallback)
        return colour if colour.startswith("#") else fallback

    @property
    def plain(self) -> str:
        return self._colour("primary", "#0178D4")

    @property
    def strong(self) -> str:
        return f"bold {self._colour('warning', '#FEA62B')}"

    @property
    def other(self) -> str:
        return f"bold {self._colour('success', '#4EBF71')}"

    @property
    def faint(self) -> str:
        return "#808080"

    def line(self, x: Sequence[float], y: Sequence[float], style: str | None = None) -> None:
        if len(x) > 1:
            self.plot(list(x), list(y), style or self.faint, HiResMode.BRAILLE)

    def points(self, x: Sequence[float], y: Sequence[float], marker: str, style: str) -> None:
        if x:
            self.scatter(list(x), list(y), marker, style)
