"""One request to try; the arrow keys bring ready ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input


class PromptInput(Input):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "ready(-1)", "Ready requests", show=False),
        Binding("down", "ready(1)", "Next ready", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, compact=True)
        self._ready: list[tuple[str, str]] = []
        self._place = -1

    def offer(self, ready: Sequence[tuple[str, str]]) -> None:
        """Pairs of a word on what it is and the request."""
        self._ready = list(ready)
        self._place = -1

    @property
    def about(self) -> str:
        """What kind of ready request stands here; empty for one's own."""
        for kind, text in self._ready:
            if text == self.value:
                return kind
        return ""

    def action_ready(self, by: int) -> None:
        if self._ready:
            self._place = (self._place + by) % len(self._ready) if self._place >= 0 or by > 0 else -1
            self.value = self._ready[self._place][1]
            self.cursor_position = len(self.value)
