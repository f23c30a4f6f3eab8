"""What an evaluation has measured so far, kept on disk so that the next call goes on from there.

A file a model in the cache folder, a line of JSON for each finished piece of work, named by the hash of
everything that its result depends on. Lines are only ever appended, each in one write; what a crash left
half-written, or anybody else has put there, is skipped. A later line of the same name replaces an earlier
one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rosi_edge import __version__
from rosi_edge.basics.cache import cache_folder

_LARGEST_FILE = 256 * 1024 * 1024
_NEWLINE = b"\n"


class Kept:
    """Finished pieces of work on one model.

    Args:
        path: the file; None keeps nothing.
        context: what all pieces depend on besides their own names, such as the model's hash. JSON.
        fresh: do not read what earlier calls left; what is measured now is kept all the same.
    """

    def __init__(self, path: Path | None, context: Mapping[str, Any], *, fresh: bool = False) -> None:
        self._path = path
        self._context = [__version__, _code_fingerprint(), dict(context)]
        self.problem: str | None = None
        """Why nothing can be kept, if so. An evaluation goes on without."""
        self.reused = 0
        """Pieces of work that an earlier call had finished."""
        self._kept: dict[str, Any] = {} if fresh or path is None else _read(path)
        self._new: set[str] = set()

    @classmethod
    def of_model(cls, sha256: str, context: Mapping[str, Any], *, fresh: bool = False) -> Kept:
        """What is kept of the model with this hash, in the user's cache folder."""
        path = cache_folder() / "evaluations" / f"{sha256[:32]}.jsonl"
        return cls(path, {"model": sha256, **context}, fresh=fresh)

    def get(self, piece: Any) -> Any | None:
        """The result of the piece of work with this name (any JSON value), or None. Check what comes back:
        the file may have been edited."""
        key = self._key(piece)
        self.reused += key in self._kept and key not in self._new
        return self._kept.get(key)

    def put(self, piece: Any, result: Any) -> None:
        """Keep a result (JSON, no NaN)."""
        key = self._key(piece)
        self._kept[key] = result
        self._new.add(key)
        if self._path is None or self.problem is not None:
            return
        line = json.dumps({"key": key, "result": result}, allow_nan=False).encode() + _NEWLINE
        try:
            _append(self._path, line)
        except OSError as error:
            self.problem = f"{self._path}: {error.strerror or error}"

    def _key(self, piece: Any) -> str:
        return hashlib.sha256(json.dumps([self._context, piece], sort_keys=True).encode()).hexdigest()


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Answers to harmful requests begin in here: nobody else's business.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size:
            os.lseek(descriptor, size - 1, os.SEEK_SET)
            if os.read(descriptor, 1) != _NEWLINE:
                # A crash cut the last line; ours must not be glued to it.
                line = _NEWLINE + line
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > _LARGEST_FILE:
                return kept
            lines = file.read(_LARGEST_FILE).split(_NEWLINE)
    except OSError:
        return kept
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("key"), str) and "result" in entry:
            kept[entry["key"]] = entry["result"]
    return kept


@functools.cache
def _code_fingerprint() -> str:
    """Changes with the code that answers and judges: a version number alone would let yesterday's verdicts
    outlive a mended judge in a checkout."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for folder in ("basics", "native", "prompts", "records", "runtime", "evaluation"):
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
