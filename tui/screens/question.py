"""A question with two answers; the default one has the focus, so that Enter gives it."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button

from ..widgets.plain import Plain


class Question(ModalScreen[bool]):
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(False)", "No")]
    AUTO_FOCUS = ""

    def __init__(self, title: str, text: str, *, yes: str, no: str, default: bool = True) -> None:
        super().__init__()
        self._title, self._text, self._yes, self._no, self._default = title, text, yes, no, default

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = self._title
            yield Plain(self._text)
            with Horizontal(classes="buttons"):
                yield Button(self._yes, id="yes", compact=True)
                yield Button(self._no, id="no", compact=True)

    def on_mount(self) -> None:
        self.query_one("#yes" if self._default else "#no", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")
