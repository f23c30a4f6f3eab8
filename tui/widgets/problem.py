"""What went wrong and what to do about it, at the step where it happened."""

from __future__ import annotations

import os
import traceback

import click
from rich.text import Text

from rosi_edge.errors import EngineCrashError, RosiEdgeError

from .plain import Plain

STOPPED = "Stopped. Nothing is lost: start the step again when you like."


def words(error: BaseException) -> str:
    """The library's own words for a problem."""
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    if isinstance(error, RosiEdgeError):
        return str(error)
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, MemoryError):
        return "There is not enough memory. Try a smaller -c or -b in the advanced settings (F5)."
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}. Check that the file and its folder are still there, and try again."
    text = f"unexpected {type(error).__name__}: {error}. This is a fault of rosi-edge"
    if os.environ.get("ROSI_EDGE_DEBUG"):
        return text + ".\n" + "".join(traceback.format_exception(error))
    return text + "; set ROSI_EDGE_DEBUG=1 for the details and report it."


class Problem(Plain):
    """Hidden while there is none."""

    def on_mount(self) -> None:
        self.display = False

    def show(self, error: BaseException) -> None:
        text = Text()
        if isinstance(error, KeyboardInterrupt):
            text.append("■ ", "bold")
        else:
            text.append("✗ ", "bold")
        text.append(words(error))
        if isinstance(error, EngineCrashError):
            text.append(" You can start the step again: the model is loaded anew.")
        self.set_class(isinstance(error, KeyboardInterrupt), "-stopped")
        self.update(text)
        self.display = True

    def tell(self, line: str) -> None:
        """Something that is no error but should be read."""
        self.set_class(True, "-stopped")
        self.update(Text.assemble(("! ", "bold"), line))
        self.display = True

    def clear(self) -> None:
        self.display = False
        self.update("")
