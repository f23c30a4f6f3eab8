"""Puts damaged files through ``inspect`` and ``verify``: ``python mutation_worker.py FOLDER FIRST LAST``.

FOLDER holds sound files: ``base.gguf``, ``out.gguf``, ``adapter.gguf``, ``split-00001-of-00002.gguf`` with
its second part in ``part.gguf``. Ends with status 0 and a line of JSON, the slowest file's processor time in
seconds and the growth of memory in bytes; or at the first file that is not answered as it should be, which is
there still. A file that takes more than five seconds of processor time, or a minute on the clock, ends the
process with a traceback of where it was.
"""

from __future__ import annotations

import faulthandler
import json
import resource
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

from click.testing import CliRunner
from mutations import Sound, mutate

from rosi_edge.commands.inspect import inspect as inspect_command
from rosi_edge.commands.verify import verify as verify_command
from rosi_edge.errors import RosiEdgeError
from rosi_edge.inspection import inspect
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.verification.gguf import verify

SECONDS = 5.0
BYTES = 1_000_000_000
KINDS = ("out", "out", "base", "adapter", "part")
COMMANDS = 10
"""Every so many files of a kind the commands themselves run, printing included."""


def main() -> None:
    folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sound = {kind: Sound.read(folder / f"{kind}.gguf") for kind in KINDS}
    paths = {kind: folder / f"{kind}.gguf" for kind in KINDS}
    first_part, second_part = (folder / f"split-0000{number}-of-00002.gguf" for number in (1, 2))
    assert _verify(paths).passed
    # Users would see them as lines on their terminal.
    warnings.simplefilter("error", RuntimeWarning)
    faulthandler.register(signal.SIGPROF, chain=True)
    _limit_memory()
    start = _resident()
    slowest = (0.0, "")
    for number in range(first, last):
        kind = KINDS[number % len(KINDS)]
        name, content = mutate(sound[kind], number)
        damaged = second_part if kind == "part" else folder / "damaged.gguf"
        damaged.write_bytes(content)
        (folder / "case.txt").write_text(f"{number}: {kind}, {name}\n")
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        faulthandler.dump_traceback_later(60, exit=True)
        begin = time.process_time()
        model = first_part if kind == "part" else damaged
        these = {**paths, "base" if kind == "part" else kind: model}
        _look(model, these, kind, unchanged=content == sound[kind].content)
        if number // len(KINDS) % COMMANDS == 0:
            _run_commands(model, these)
        slowest = max(slowest, (time.process_time() - begin, f"{number}: {kind}, {name}"))
    signal.setitimer(signal.ITIMER_PROF, 0)
    faulthandler.cancel_dump_traceback_later()
    json.dump({"slowest": slowest[0], "case": slowest[1], "grown": _resident() - start}, sys.stdout)


def _look(model: Path, paths: dict[str, Path], kind: str, *, unchanged: bool) -> None:
    """Whatever is raised here that is no RosiEdgeError is a failure."""
    with suppress(RosiEdgeError):
        inspect(model, with_sha256=True).model_dump_json()
    try:
        found = _verify(paths)
    except RosiEdgeError as error:
        assert error.message
        return
    found.model_dump_json()
    assert found.passed == (not found.problems)
    # An adapter holds things that do not matter to the edit, such as a name.
    assert unchanged or kind == "adapter" or not found.passed, "a damaged file passes"


def _verify(paths: dict[str, Path]):  # type: ignore[no-untyped-def]
    with GgufFile.open(paths["base"]) as base:
        verify(paths["out"], base)
        return verify(paths["out"], base, adapter=paths["adapter"])


def _run_commands(model: Path, paths: dict[str, Path]) -> None:
    runner = CliRunner()
    against = [str(paths["out"]), "--base", str(paths["base"]), "--adapter", str(paths["adapter"])]
    for command, arguments in ((inspect_command, [str(model)]), (verify_command, against)):
        result = runner.invoke(command, arguments)
        error = result.exception
        if error is not None and not isinstance(error, (RosiEdgeError, SystemExit)):
            raise error
        assert not any(character in result.output for character in "\x1b\0"), "a terminal escape is printed"


def _resident() -> int:
    """The most memory that has been used, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _limit_memory() -> None:
    """Asking for a gigabyte more than there is now fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES,) * 2)


if __name__ == "__main__":
    main()
