"""Files that tell a living process from a dead one where process numbers do not: in containers, say, each of
which counts its own from 1."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class LockFile:
    """An empty file that is locked as long as this process lives, or until it is released.

    Raises:
        FileExistsError: there is one already, or somebody took this one for a dead process's: take another
            name.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600
        )
        lock(self._descriptor)
        # Between the two it could have been seen without its lock, and removed.
        if not path.exists():
            self.release()
            raise FileExistsError(f"{path} was taken for that of a dead process")

    def release(self) -> None:
        """Take it away; once is enough."""
        if self._descriptor is None:
            return
        if fcntl is None:
            # Windows removes no file that is open.
            os.close(self._descriptor)
            self._path.unlink(missing_ok=True)
        else:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
        self._descriptor = None


def lock(descriptor: int) -> None:
    """Lock an open file, where system and file system can. Windows removes no open file and needs none."""
    if fcntl is not None:
        _try_lock(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file, or that cannot be told. On Windows always False: there no
    file is removed that somebody has open, so trying is safe."""
    if fcntl is None:
        return False
    try:
        with path.open("rb") as stream:
            return not _try_lock(stream.fileno())
    except OSError:
        return True


@contextmanager
def only_one_process(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file that stays; wait for whoever has it. The system frees it when its holder dies.

    Args:
        waiting: called once, when another process has it.
    """
    with path.open("ab") as stream:
        if not _try_lock(stream.fileno()):
            waiting()
            while not _try_lock(stream.fileno()):
                time.sleep(0.2)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    return True
