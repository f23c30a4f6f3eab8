"""A user's text files, read whole, and no larger than they may be."""

from __future__ import annotations

from pathlib import Path

from rosi_edge.errors import PromptSetError

MAX_FILE_BYTES = 64 * 1024 * 1024


def read_file(path: Path, what: str, too_large: str) -> bytes:
    """
    Args:
        what: it is, such as ``prompt file``.
        too_large: the remedy for a file that is.

    Raises:
        PromptSetError: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            # One byte more than allowed tells a file that is too large, without believing its claimed size.
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise PromptSetError(f"The {what} {path} does not exist", "Check the path") from None
    except IsADirectoryError:
        raise PromptSetError(f"{path} is a folder, not a {what}", "Name a file inside it") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = getattr(error, "strerror", None) or str(error)
        raise PromptSetError(
            f"The {what} {str(path)!r} cannot be read ({reason})", "Check the path and its permissions"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise PromptSetError(f"The {what} {path} is larger than {MAX_FILE_BYTES // 1024**2} MiB", too_large)
    return data


def decoded(data: bytes, source: str) -> str:
    """UTF-8 as text.

    Raises:
        PromptSetError: it is not; the message names the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PromptSetError(f"{source}, line {line}, is not UTF-8 text", "Save the file as UTF-8") from None
