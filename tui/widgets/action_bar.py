"""The buttons under a step: back, stop, again, and the one that Enter presses."""

from __future__ import annotations

from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Button


class ActionBar(Horizontal):
    @dataclass
    class Pressed(Message):
        """``which`` is back, stop, again or primary."""

        which: str

    def compose(self) -> ComposeResult:
        yield Button("‹ Back", id="back", compact=True)
        yield Button("Stop", id="stop", compact=True, variant="warning")
        yield Button("Again", id="again", compact=True)
        yield Button("Continue ›", id="primary", compact=True, variant="primary")

    def on_mount(self) -> None:
        for button in self.query(Button):
            # Textual drops Enter while a button looks pressed: after quick work the next press would be lost.
            button.active_effect_duration = 0

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.post_message(self.Pressed(event.button.id or ""))

    def offer(self, *, primary: str, again: str, working: bool, back: bool) -> None:
        """Say what can be pressed now; an empty ``again`` hides that button."""
        self.query_one("#back", Button).display = back
        self.query_one("#stop", Button).display = working
        button = self.query_one("#again", Button)
        button.display = bool(again) and not working
        _name(button, again or "Again")
        button = self.query_one("#primary", Button)
        _name(button, "Working…" if working else primary)
        button.disabled = working

    def focus_primary(self) -> None:
        self.query_one("#primary", Button).focus()


def _name(button: Button, label: str) -> None:
    if str(button.label) != label:
        button.label = label
        # A new label may be longer than the old one.
        button.refresh(layout=True)
