"""Text that is shown as it is: names out of model files and answers are no markup."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static


class Plain(Static):
    """A static text without markup."""

    def __init__(self, text: str | Text = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(text, id=id, classes=classes, markup=False)
