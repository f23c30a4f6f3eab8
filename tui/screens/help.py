"""The help panel: this step first, then the keys, then the words."""

from __future__ import annotations

from importlib.resources import files
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Markdown

from rosi_edge.commands.harden_help import WORDS

from ..steps import Step


def help_text(step: Step) -> str:
    """The section of this step, then the sections for all."""
    words = "\n".join(f"- **{word}**: {meaning}" for word, meaning in WORDS.items())
    text = files("rosi_edge_tui").joinpath("help.md").read_text("utf-8").replace("{words}", words)
    sections = {part.split("\n", 1)[0].strip(): part for part in text.split("\n## ")[1:]}
    titles = {other.title for other in Step}
    rest = [part for title, part in sections.items() if title not in titles]
    return "\n".join("## " + part for part in (sections[step.title], *rest))


class HelpScreen(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [("escape,f1,q,enter", "dismiss", "Close")]

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog") as dialog:
            dialog.border_title = "Help"
            dialog.border_subtitle = "↑ ↓ scroll · Esc closes"
            yield Markdown(help_text(self._step))
