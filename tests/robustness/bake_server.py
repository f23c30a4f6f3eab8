"""Bakes in forked processes and kills them when told: ``python bake_server.py MODEL TARGET``.

One interpreter imports everything once and prepares the inputs; a bake is then a fork away. For every line
on stdin, the seconds after which the bake is killed or ``-`` for a bake that may end, it answers with a line:
the exit status (negative for the signal that ended it) and the seconds it ran.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import baking

from rosi_edge.baking.gguf import bake
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.sources.resolve import resolve


def main() -> None:
    source, target = resolve(sys.argv[1]), Path(sys.argv[2])
    with GgufFile.open(source) as file:
        edits = baking.edits(file)
    rounding, probes = baking.rounding(edits), baking.probes(edits)
    _tell("ready")
    for line in sys.stdin:
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with GgufFile.open(source) as file:
                    bake(file, target, edits, BakeSettings(rounding=rounding, probes=probes))
                status = 0
            finally:
                os._exit(status)
        if line.strip() != "-":
            time.sleep(max(0.0, start + float(line) - time.monotonic()))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        _tell(f"{os.waitstatus_to_exitcode(status)} {time.monotonic() - start}")


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
