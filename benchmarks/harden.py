"""Time and peak memory of ``rosi-edge harden``: ``python benchmarks/harden.py [MODEL] [FLAG ...]``.

Peak memory is that of the command and its engine's process together, sampled four times a second.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil


def main() -> None:
    arguments = sys.argv[1:] or ["demo"]
    executable = Path(sys.executable).parent / "rosi-edge"
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        command = [str(executable), "harden", *arguments, "-o", f"{folder}/out.gguf"]
        start = time.perf_counter()
        process = subprocess.Popen(command)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.25)
        seconds = time.perf_counter() - start
    print(f"exit code {process.returncode}")
    print(f"time {seconds:.0f} s (goal: at most 600), peak memory {peak / 1e9:.2f} GB (goal: under 2.5)")


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
