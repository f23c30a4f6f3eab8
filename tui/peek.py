"""Size and quantization of model files, looked up behind the scenes for lists and the file browser."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rosi_edge.basics.text import megabytes
from rosi_edge.errors import RosiEdgeError

if TYPE_CHECKING:
    from rosi_edge.inspection import Inspection


class Peek:
    """One thread that reads the heads of files, those asked for last first."""

    def __init__(self, inspect: Callable[[Path], Inspection]) -> None:
        self._inspect = inspect
        self._asked: queue.LifoQueue[Path | None] = queue.LifoQueue()
        self._seen: set[Path] = set()
        self._thread: threading.Thread | None = None
        self.known: dict[Path, str] = {}

    def about(self, path: Path) -> str:
        """What is known; empty at first. Ask again later: ``len(known)`` grows."""
        if path not in self._seen:
            self._seen.add(path)
            self._asked.put(path)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="peek", daemon=True)
                self._thread.start()
        return self.known.get(path, "")

    def close(self) -> None:
        """Look at nothing more."""
        self._asked.put(None)

    def _run(self) -> None:
        while (path := self._asked.get()) is not None:
            try:
                if not path.exists():
                    self.known[path] = "is gone"
                    continue
                found = self._inspect(path)
                text = f"{megabytes(found.size, 0)} {found.file_type or ''}".rstrip()
                self.known[path] = text if found.can_harden else f"{text}, cannot be hardened"
            except RosiEdgeError:
                self.known[path] = "not a sound GGUF file"
            except Exception:
                self.known[path] = "cannot be read"
