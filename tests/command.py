"""Running ``rosi-edge``: the real executable, or its command line within this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from rosi_edge.cli import main

EXECUTABLE = Path(sys.executable).parent / "rosi-edge"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    error: str


def environment(folder: Path) -> dict[str, str]:
    """With a temporary folder of its own, so that what is left behind is seen."""
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    return os.environ | {"TMPDIR": str(temporary), "COLUMNS": "100"}


def start(
    folder: Path, arguments: Sequence[str | Path], *, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """In a process group of its own, as a shell would."""
    return subprocess.Popen(
        [str(EXECUTABLE), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(folder),
        start_new_session=True,
        preexec_fn=before,
    )


def rosi_edge(folder: Path, *arguments: str | Path, before: Callable[[], None] | None = None) -> Result:
    """Run a command in ``folder`` to its end; nothing may be left in its temporary folder."""
    process = start(folder, arguments, before=before)
    out, error = process.communicate(timeout=300)
    assert list((folder / "temporary").iterdir()) == []
    return Result(process.returncode, out, error)


def called(folder: Path, *arguments: str | Path) -> Result:
    """The same in this process, for the many calls that say in a moment why they cannot run: starting Python
    and importing takes most of their time. What child processes print is seen too."""
    changed = environment(folder)
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as error,
    ):
        for name in ("TMPDIR", "COLUMNS"):
            patch.setenv(name, changed[name])
        patch.setattr(tempfile, "tempdir", None)
        patch.setattr(sys, "argv", ["rosi-edge", *map(str, arguments)])
        patch.chdir(folder)
        before = signal.getsignal(signal.SIGTERM)
        try:
            with _printing_to(1, "stdout", out), _printing_to(2, "stderr", error):
                main()
        except SystemExit as request:
            code = request.code
        finally:
            signal.signal(signal.SIGTERM, before)
        out.seek(0)
        error.seek(0)
        result = Result(int(code or 0), out.read(), error.read())
    assert list((folder / "temporary").iterdir()) == []
    return result


@contextmanager
def _printing_to(descriptor: int, name: str, file: IO[str]) -> Iterator[None]:
    """Python's stream and the descriptor below it, which child processes inherit."""
    kept = os.dup(descriptor)
    try:
        os.dup2(file.fileno(), descriptor)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, name, file)
            yield
    finally:
        file.flush()
        os.dup2(kept, descriptor)
        os.close(kept)


def assert_refused(result: Result, *words: str) -> None:
    """Exit code 2 and one line on stderr that says what is wrong and what to do about it."""
    assert result.code == 2, result
    assert result.out == ""
    assert result.error.count("\n") == 1, result.error
    assert result.error.startswith("rosi-edge: ")
    assert result.error.endswith(".\n")
    for word in words:
        assert word in result.error, result.error
    for fault in ("unexpected", "Traceback", "fault of rosi-edge"):
        assert fault not in result.error, result.error
    # The mend is a sentence of its own.
    assert ". " in result.error.removeprefix("rosi-edge: "), result.error


def write_requests(folder: Path, number: int = 40) -> list[str | Path]:
    """Small prompt files; returns the flags of ``harden`` that name them."""
    flags: list[str | Path] = []
    for kind in ("harmful", "harmless", "sounds-harmful"):
        path = folder / f"{kind}.txt"
        path.write_text("".join(f"{kind} {index * index}\n" for index in range(number)))
        flags += [f"--{kind}", path]
    return flags
