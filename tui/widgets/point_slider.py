"""A slider over the measured points, from the weakest to the strongest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from .frontier_plot import ANSWERED, CHOSEN, YOURS


class PointSlider(Widget, can_focus=True):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,down", "move(-1)", "Less"),
        Binding("right,up", "move(1)", "More"),
        Binding("home", "move(-999)", "Weakest", show=False),
        Binding("end", "move(999)", "Strongest", show=False),
        Binding("enter", "take", "Continue", show=False),
    ]

    count: reactive[int] = reactive(0)
    index: reactive[int | None] = reactive[int | None](None)
    best: reactive[int | None] = reactive[int | None](None)

    @dataclass
    class Moved(Message):
        index: int

    class Taken(Message):
        """Enter: go on with the point that is shown."""

    def place(self, count: int, index: int | None, best: int | None) -> None:
        """``index`` is the point in use, ``best`` the search's own choice; None where there is none."""
        self.count, self.best, self.index = count, best, index

    def action_move(self, by: int) -> None:
        if not self.count:
            return
        # With none in use, the first move comes from before the weakest.
        here = -1 if self.index is None else self.index
        index = min(max(here + by, 0), self.count - 1)
        if index != self.index:
            self.index = index
            self.post_message(self.Moved(index))

    def action_take(self) -> None:
        self.post_message(self.Taken())

    def render(self) -> Text:
        if not self.count:
            return Text("")
        signs = [ANSWERED] * self.count
        if self.best is not None:
            signs[self.best] = CHOSEN
        if self.index is not None:
            here = min(self.index, self.count - 1)
            signs[here] = f"[{CHOSEN if here == self.best else YOURS}]"
        gap = "─" * max(1, min(6, (self.size.width - 24) // self.count - 1))
        return Text.assemble(
            "◂ weaker ", ("─" + gap.join(signs) + "─", "bold"), " stronger ▸", no_wrap=True, overflow="crop"
        )
