"""All other settings. The fields, their help and what they refuse are those of the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import click
from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Input, Label, Select

from ..choices import ALL, GROUPS, YES, Choices, flag, option
from ..widgets.plain import Plain
from ..widgets.problem import Problem

_NO = "no"
_PLACEHOLDERS = {"elicit": "only if needed; 'default' or a text of your own"}


class Advanced(ModalScreen[Choices | None]):
    """Gives back changed choices, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "leave", "Cancel"),
        ("f5", "accept", "Accept"),
    ]

    def __init__(self, choices: Choices, check: Callable[[Choices], None]) -> None:
        """
        Args:
            check: raises what is wrong with choices; called in a thread.
        """
        super().__init__()
        self._choices = choices
        self._check = check
        self._checking = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = "Advanced settings"
            dialog.border_subtitle = "Tab next · F5 accept · Esc cancel"
            with VerticalScroll(can_focus=False):
                for title, names in GROUPS.items():
                    yield Plain(title, classes="caption")
                    for name in names:
                        yield from self._row(name)
            yield Plain(id="about")
            yield Problem()
            with Horizontal(classes="buttons"):
                yield Button("Accept", id="accept", compact=True, variant="primary")
                yield Button("Cancel", id="leave", compact=True)

    def _row(self, name: str) -> Iterator[Widget]:
        parameter = option(name)
        with Horizontal(classes="field"):
            yield Label(flag(name).lstrip("-"))
            text = self._choices.text(name)
            if parameter.is_flag:
                yield Select(
                    [(_NO, _NO), (YES, YES)],
                    value=YES if self._choices.has(name) else _NO,
                    allow_blank=False,
                    compact=True,
                    id=name,
                )
            elif isinstance(parameter.type, click.Choice):
                kinds = [str(choice) for choice in parameter.type.choices]
                yield Select(
                    [(kind, kind) for kind in kinds],
                    # An older release may have remembered a kind that is no more.
                    value=text if text in kinds else str(parameter.default),
                    allow_blank=False,
                    compact=True,
                    id=name,
                )
            else:
                yield Input(text, placeholder=_placeholder(parameter), compact=True, id=name)

    def on_descendant_focus(self) -> None:
        focused = self.focused
        if focused is not None and focused.id in ALL:
            self.query_one("#about", Plain).update(" ".join((option(focused.id).help or "").split()))

    def _typed(self) -> Choices:
        texts = {field.id or "": field.value for field in self.query(Input)}
        for field in self.query(Select):
            # What is the default need not be said.
            if field.id and field.value not in (_NO, option(field.id).default):
                texts[field.id] = str(field.value)
        return Choices(self._choices.model, texts, self._choices.output)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "accept":
            self.action_accept()
        else:
            self.action_leave()

    def on_input_submitted(self) -> None:
        self.action_accept()

    def action_leave(self) -> None:
        # Settings that have been accepted are in use already.
        if not self._checking:
            self.dismiss(None)

    def action_accept(self) -> None:
        if self._checking:
            return
        self._checking = True
        self.query_one(Problem).clear()
        self._accept(self._typed())

    @work(thread=True, exclusive=True)
    def _accept(self, choices: Choices) -> None:
        try:
            self._check(choices)
        except Exception as error:
            self.app.call_from_thread(self._refuse, error)
        else:
            self.app.call_from_thread(self.dismiss, choices)

    def _refuse(self, error: Exception) -> None:
        self._checking = False
        self.query_one(Problem).show(error)
        parameter = getattr(error, "param", None)
        if isinstance(parameter, click.Parameter) and parameter.name:
            self.query_one(f"#{parameter.name}").focus()


def _placeholder(parameter: click.Option) -> str:
    if parameter.name in _PLACEHOLDERS:
        return _PLACEHOLDERS[parameter.name]
    default = parameter.get_default(click.Context(click.Command("harden")), call=True)
    return "" if default is None or "UNSET" in str(default).upper() else str(default)
