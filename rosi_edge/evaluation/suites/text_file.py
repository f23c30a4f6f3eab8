"""Plain text to read: the bundled one or the user's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rosi_edge.errors import PromptSetError
from rosi_edge.evaluation.suites.suite import InputSet, SuiteChoices
from rosi_edge.prompts.files import decoded, read_file
from rosi_edge.prompts.sets import fixture_folders


@dataclass(frozen=True)
class TextFile:
    name: str
    text: str

    @property
    def facts(self) -> InputSet:
        """``n`` counts words."""
        return InputSet(
            self.name, len(self.text.split()), hashlib.sha256(self.text.encode("utf-8")).hexdigest()
        )


def read_text(choices: SuiteChoices) -> TextFile:
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
    data = read_file(path, "text file", "A few thousand words are enough")
    text = decoded(data, str(path)).replace("\r\n", "\n")
    if not text.strip():
        raise PromptSetError(f"{path} is empty", "Give a text of some hundred words")
    return TextFile(name, text)
