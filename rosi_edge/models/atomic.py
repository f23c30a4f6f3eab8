"""Writing files so that they are there whole or not at all.

The bytes go to ``.NAME.<process>-<random>.partial`` beside the target, are flushed to the disk and renamed
onto it. Any exception, Ctrl-C included, removes the partial file; what a killed process left behind is
removed by the next write to the same target.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rosi_edge.basics.lock import is_locked, lock
from rosi_edge.errors import OutputError

_SUFFIX = ".partial"
# A file name may have 255 bytes on every common file system; this leaves room for what is put around it.
_LONGEST_NAME_BYTES = 200
_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_YOUNG = 60.0
"""Seconds in which a partial file without a lock may belong to a writer that is just about to lock it."""


@contextmanager
def atomic_write(target: str | os.PathLike[str], *, size: int | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing that becomes ``target`` when the block ends without an exception.

    Args:
        target: the place; a symbolic link is followed. What is there already is replaced.
        size: bytes that will be written, if known: a disk without room for them is refused at once.

    Raises:
        OutputError: the folder is missing or not writable, the target is a folder or device, or the disk
            (or quota, or file size limit) is full, now or while writing.
    """
    with atomic_writes([target], size=size) as (stream,):
        yield stream


@dataclass
class _Partial:
    """A file on its way to its place."""

    path: Path
    stream: BinaryIO


@contextmanager
def atomic_writes(
    targets: Sequence[str | os.PathLike[str]], *, size: int | None = None
) -> Iterator[list[BinaryIO]]:
    """The same for several files of one folder that belong together, such as the parts of a model.

    All of them are flushed to the disk before the first is renamed, see :func:`put_in_place`.
    """
    places = [checked_target(target) for target in targets]
    for place in places:
        remove_stale_partials(place)
    if size is not None:
        require_space(places[0], size)
    partials: dict[Path, _Partial] = {}
    place = places[0]
    try:
        with ExitStack() as streams:
            for place in places:
                partials[place] = _open_partial(place, streams)
            place = places[0]
            yield [partial.stream for partial in partials.values()]
            for place in partials:
                partials[place].stream.flush()
                os.fsync(partials[place].stream.fileno())
        place = places[0]
        put_in_place([(partial.path, place) for place, partial in partials.items()])
    except BaseException as error:
        for partial in partials.values():
            with suppress(OSError):
                partial.path.unlink()
        if isinstance(error, OSError) and (problem := _disk_problem(place, error)):
            raise problem from error
        raise
    flush_folder(places[0].parent)


def put_in_place(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename whole files, of one folder and belonging together, onto their places.

    An older set is made unusable first, by taking its first file away, and the new first file comes last: a
    process that is killed in between never leaves a set that can be opened and is mixed of both.
    """
    if len(moves) > 1:
        moves[0][1].unlink(missing_ok=True)
    for path, place in reversed(moves):
        path.replace(place)


def _open_partial(place: Path, streams: ExitStack) -> _Partial:
    path = _partial_path(place)
    try:
        descriptor = os.open(
            path,
            os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0),
            0o666,
        )
    except OSError as error:
        raise _cannot_write(place, error) from error
    stream = streams.enter_context(os.fdopen(descriptor, "w+b"))
    lock(stream.fileno())
    return _Partial(path, stream)


def checked_target(target: str | os.PathLike[str]) -> Path:
    """The real place behind ``target`` (links followed), when a file can be put there.

    Raises:
        OutputError: the folder is missing or not writable, or the target is a folder or a device.
    """
    asked = Path(target)
    try:
        place = Path(os.path.realpath(asked))
        folder = place.parent
        if not folder.exists():
            raise OutputError(
                f"the folder {folder} does not exist", "Create it or choose another output path"
            )
        if not folder.is_dir():
            raise OutputError(f"{folder} is not a folder", "Choose another output path")
        if place.exists() or place.is_symlink():
            mode = place.stat().st_mode
            if stat.S_ISDIR(mode):
                raise OutputError(f"{asked} is a folder", "Give the name of a file to write")
            if not stat.S_ISREG(mode):
                raise OutputError(f"{asked} is not a regular file", "Give the name of a file to write")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"the folder {folder} is not writable", "Choose another output path")
    except (OSError, ValueError) as error:
        raise _cannot_write(asked, error) from error
    return place


def require_space(place: Path, size: int) -> None:
    """Raise OutputError when the disk that holds ``place`` has fewer than ``size`` bytes free."""
    free = shutil.disk_usage(place.parent).free
    if free < size:
        raise OutputError(
            f"{place.parent} has {_human(free)} free, but {place.name} needs {_human(size)}",
            "Free some space or choose another output path",
        )


def remove_stale_partials(place: Path) -> None:
    """Remove what killed processes left behind while they wrote ``place``. Living writers are not touched."""
    prefix = _prefix(place)
    with suppress(OSError):
        for leftover in place.parent.iterdir():
            if leftover.name.startswith(prefix) and leftover.name.endswith(_SUFFIX):
                owner = leftover.name[len(prefix) :].partition("-")[0]
                if owner.isdigit() and not _in_use(leftover, int(owner)):
                    with suppress(OSError):
                        leftover.unlink()


def _in_use(partial: Path, owner: int) -> bool:
    if os.name == "nt":
        # Windows does not remove a file that somebody has open, so trying is safe there.
        return False
    if is_locked(partial):
        return True
    try:
        age = time.time() - partial.stat().st_mtime
    except OSError:
        return True
    # Process numbers are used again, so a living process of that number is no proof.
    return _alive(owner) and age < _YOUNG


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _prefix(place: Path) -> str:
    return f".{shortened(place.name, _LONGEST_NAME_BYTES)}."


def shortened(name: str, size: int) -> str:
    """As much of a file's name as fits into so many bytes, in whole characters."""
    raw = os.fsencode(name)
    return name if len(raw) <= size else raw[:size].decode("utf-8", "ignore")


def _partial_path(place: Path) -> Path:
    return place.with_name(f"{_prefix(place)}{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")


def flush_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    # Not every system can open a folder.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _disk_problem(place: Path, error: OSError) -> OutputError | None:
    if error.errno in _NO_SPACE:
        return OutputError(
            f"the disk was full before {place.name} was written",
            "Free some space or choose another output path",
        )
    if error.errno == errno.EFBIG:
        return OutputError(
            f"{place.name} is larger than this system or disk allows",
            "Raise the file size limit (ulimit -f) or choose another output path",
        )
    return None


def _cannot_write(place: Path, error: Exception) -> OutputError:
    if isinstance(error, OSError) and (problem := _disk_problem(place, error)):
        return problem
    reason = getattr(error, "strerror", None) or str(error)
    return OutputError(f"{place} cannot be written ({reason})", "Choose another output path")


def _human(size: int) -> str:
    amount = float(size)
    for unit in ("bytes", "KB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
