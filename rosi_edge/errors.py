"""Everything that can go wrong for a reason the user can mend.

The command line turns each of these into one line and exit code 2. Code that raises one says what is
wrong in ``message`` and what to do about it in ``remedy``; nothing below the command line prints or exits.
"""

from __future__ import annotations

FAULT = "This is a fault of rosi-edge; set ROSI_EDGE_DEBUG=1 for the details and report it"
"""The remedy where an error is none of those below."""


class RosiEdgeError(Exception):
    """A problem with what the tool was given, not a fault of the tool.

    Args:
        message: what is wrong, one sentence without a full stop.
        remedy: what the user can do, one sentence without a full stop; empty when nothing can be done.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}." if self.remedy else f"{self.message}."

    def __reduce__(self) -> tuple[type[RosiEdgeError], tuple[str, str]]:
        # Errors cross the process boundary between the engine's child and its parent.
        return type(self), (self.message, self.remedy)


class ModelFileError(RosiEdgeError):
    """The model file is missing, damaged, not GGUF, or claims something that cannot be true."""


class UnsupportedModelError(RosiEdgeError):
    """The file is sound, but this tool cannot harden (or run) this model."""


class PromptSetError(RosiEdgeError):
    """A prompt file is missing, empty or malformed."""


class OutputError(RosiEdgeError):
    """The result cannot be written where it was asked for."""


class FetchError(RosiEdgeError):
    """A model could not be downloaded or is not what it should be."""


class JudgeError(RosiEdgeError):
    """The judge of an evaluation failed; whatever needs no judge still runs."""


class EngineError(RosiEdgeError):
    """llama.cpp could not do what it was asked."""


class EngineCrashError(EngineError):
    """The process that ran llama.cpp died."""
