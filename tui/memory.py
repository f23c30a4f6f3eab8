"""What outlives the wizard: recent models, the theme, and how far somebody came.

A small JSON file in the platform's state folder. It is read forgivingly: a damaged file is an empty memory.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rosi_edge.errors import RosiEdgeError
from rosi_edge.models.atomic import atomic_write

from .choices import Choices
from .steps import Step

RECENT_KEPT = 8


class Remembered(BaseModel):
    """Attributes:
    folder: where the wizard ran, for relative names.
    step: how far it came; None when nothing was begun, or all was done.
    strength: of the point that was chosen by hand.
    """

    model_config = ConfigDict(extra="ignore")
    recent: list[str] = Field(default_factory=list)
    theme: str | None = None
    model: str = ""
    texts: dict[str, str] = Field(default_factory=dict)
    output: str = ""
    folder: str = ""
    step: int | None = Field(default=None, ge=0, le=max(Step))
    strength: float | None = None

    @property
    def choices(self) -> Choices:
        return Choices(self.model, self.texts, self.output)


class Memory:
    """Reads and writes the file; writing happens in a thread, in order."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or platformdirs.user_state_path("rosi-edge")
        self.now = self._load()
        self._writer = ThreadPoolExecutor(1, "memory")

    @property
    def journals(self) -> Path:
        """Where searches keep what they have tried."""
        return self.folder / "searches"

    @property
    def _file(self) -> Path:
        return self.folder / "wizard.json"

    def _load(self) -> Remembered:
        try:
            return Remembered.model_validate_json(self._file.read_bytes())
        except (OSError, ValueError, ValidationError):
            return Remembered()

    def used(self, model: str) -> None:
        """Put a model at the head of the recent ones."""
        self.now.recent = [model, *(other for other in self.now.recent if other != model)][:RECENT_KEPT]
        self.save()

    def keep(self, choices: Choices, step: Step | None, strength: float | None = None) -> None:
        self.now.model, self.now.texts, self.now.output = choices.model, dict(choices.texts), choices.output
        self.now.folder = str(Path.cwd())
        self.now.step = step
        self.now.strength = strength
        self.save()

    def save(self) -> None:
        content = json.dumps(self.now.model_dump(), indent=2).encode()
        self._writer.submit(self._write, content)

    def _write(self, content: bytes) -> None:
        # Not being remembered is no reason to disturb anybody.
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._file) as stream:
                if os.name == "posix":
                    # The address of a shared storage may hold a password.
                    os.fchmod(stream.fileno(), 0o600)
                stream.write(content)
        except (OSError, RosiEdgeError):
            return

    def close(self) -> None:
        self._writer.shutdown(wait=True)
