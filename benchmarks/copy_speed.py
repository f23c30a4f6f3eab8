"""Rewriting a file with nothing replaced against `cp`, in one run: `python benchmarks/copy_speed.py`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import rewrite
from rosi_edge.sources.resolve import resolve


def main() -> None:
    path = resolve(sys.argv[1] if len(sys.argv) > 1 else "demo")
    ours, theirs = [], []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        target = Path(folder) / "copy.gguf"
        for _ in range(5):
            start = time.perf_counter()
            with GgufFile.open(path) as file:
                rewrite(file, target, tensors={}, metadata={"rosi.benchmark": True})
            ours.append(time.perf_counter() - start)
            target.unlink()
            start = time.perf_counter()
            # Ours reaches the disk before it is renamed, so the peer's must as well.
            subprocess.run(["cp", str(path), str(target)], check=True)
            subprocess.run(["sync", str(target)], check=True)
            theirs.append(time.perf_counter() - start)
            target.unlink()
    ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        f"rewrite {median(ours):.2f} s, cp and sync {median(theirs):.2f} s, ratio {ratio:.2f} (goal: about 1)"
    )


if __name__ == "__main__":
    main()
