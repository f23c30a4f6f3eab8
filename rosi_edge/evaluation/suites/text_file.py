"""Plain text to read: the bundled one or the user's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rosi_edge.errors import PromptSetError
from rosi_edge.evaluation.suites.suite import Choices, InputSet
from rosi_edge.prompts.sets import MAX_FILE_BYTES, fixture_folders


@dataclass(frozen=True)
class TextFile:
    name: str
    text: str

    @property
    def paragraphs(self) -> list[str]:
        return [part for part in map(str.strip, self.text.split("\n")) if part]

    @property
    def facts(self) -> InputSet:
        """``n`` counts words."""
        return InputSet(
            self.name, len(self.text.split()), hashlib.sha256(self.text.encode("utf-8")).hexdigest()
        )


def read_text(choices: Choices) -> TextFile:
    """The user's text file, or the bundled prose.

    Raises:
        PromptSetError: it cannot be read, is too large, is not UTF-8 or is empty.
    """
    if choices.text is not None:
        return _parse(choices.text.stem, choices.text)
    for folder in fixture_folders():
        place = Path(str(folder)) / "text" / "plain.txt"
        if place.is_file():
            return _parse("plain_text", place)
    raise PromptSetError("The bundled text is missing", "Install rosi-edge again")


def _parse(name: str, path: Path) -> TextFile:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise PromptSetError(
            f"The text file {str(path)!r} cannot be read ({reason})", "Check the path"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise PromptSetError(
            f"{path} is larger than {MAX_FILE_BYTES // 1024**2} MiB", "A few thousand words are enough"
        )
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise PromptSetError(f"{path} is not UTF-8 text", "Save the file as UTF-8") from None
    if not text.strip():
        raise PromptSetError(f"{path} is empty", "Give a text of some hundred words")
    return TextFile(name, text)
