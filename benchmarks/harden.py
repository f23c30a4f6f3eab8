"""Time and peak memory of ``rosi-edge harden``: ``python benchmarks/harden.py [MODEL] [FLAG ...]``.

Peak memory is that of the command and its engine's process together, sampled four times a second.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Measured:
    """One run: its exit code, wall time in seconds, peak memory in bytes."""

    code: int
    seconds: float
    peak: int


def run_harden(arguments: Sequence[str], folder: Path) -> Measured:
    """``rosi-edge harden`` with these arguments, its output in ``folder``."""
    executable = Path(sys.executable).parent / "rosi-edge"
    command = [str(executable), "harden", *arguments, "-o", str(folder / "out.gguf")]
    start = time.perf_counter()
    # The result on stdout is not what a benchmark prints.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _resident(process.pid))
        time.sleep(0.25)
    return Measured(process.returncode, time.perf_counter() - start, peak)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        measured = run_harden(sys.argv[1:] or ["demo"], Path(folder))
    print(f"exit code {measured.code}")
    print(
        f"time {measured.seconds:.0f} s (goal: at most 600), "
        f"peak memory {measured.peak / 1e9:.2f} GB (goal: under 2.5)"
    )


def _resident(pid: int) -> int:
    """Memory of a process and its children; pages they share (the mapped model) count once."""
    total = 0
    shared = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            memory = process.memory_info()
            total += memory.rss - memory.shared
            shared = max(shared, memory.shared)
    except psutil.NoSuchProcess:
        return 0
    return total + shared


if __name__ == "__main__":
    main()
