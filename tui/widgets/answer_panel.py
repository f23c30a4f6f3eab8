"""An answer as it is written."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll

from .plain import Plain


class AnswerPanel(VerticalScroll, can_focus=True):
    def __init__(self, title: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.border_title = title
        self._text = ""

    def compose(self) -> ComposeResult:
        yield Plain()

    def start(self) -> None:
        self._text = ""
        self.query_one(Plain).update("")

    def add(self, piece: str) -> None:
        self._text += piece
        # Control characters of an answer must not reach the terminal.
        shown = "".join(c if c.isprintable() or c == "\n" else "�" for c in self._text)
        self.query_one(Plain).update(shown)
        self.scroll_end(animate=False)

    @property
    def text(self) -> str:
        return self._text
