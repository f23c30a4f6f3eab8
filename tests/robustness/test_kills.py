"""A bake that is killed at any moment leaves the old output, the new one or none, and never half of one."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import baking
import pytest
from gguf import GGMLQuantizationType as T
from split_gguf import split_gguf

from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.verification.gguf import verify

KILLED_AMONG_RENAMES = """
import os, signal, sys
from pathlib import Path
from rosi_edge.models.atomic import atomic_writes

rename, left = Path.replace, int(sys.argv[1])

def replace(path, place):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return rename(path, place)

Path.replace = replace
with atomic_writes(sys.argv[2:]) as streams:
    for stream in streams:
        stream.write(b"new")
"""
BETWEEN = 4
"""Kills before a bake may end: what several leave behind is cleared away at once."""
MIX = {"attn_output": T.Q5_0, "ffn_down": T.Q4_K, "ffn_up": T.Q8_0}


class Server:
    """See ``bake_server.py``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def bake(self, kill_after: float | None = None) -> tuple[int, float]:
        """Exit status and seconds of one bake."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("-\n" if kill_after is None else f"{kill_after}\n")
        self._process.stdin.flush()
        status, seconds = self._process.stdout.readline().split()
        return int(status), float(seconds)


@contextmanager
def server(source: Path, target: Path) -> Iterator[Server]:
    script = Path(__file__).with_name("bake_server.py")
    # Forking is safe only where no library has started threads.
    single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    process = subprocess.Popen(
        [sys.executable, str(script), str(source), str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | single,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield Server(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def content(folder: Path) -> dict[str, str]:
    """The names of a folder's files, with hashes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("parts", [1, 3], ids=["one file", "three parts"])
def test_kills_at_random_moments(tmp_path: Path, parts: int, kills: int) -> None:
    models, folder = tmp_path / "models", tmp_path / "outputs"
    models.mkdir()
    folder.mkdir()
    source, target = baking.model(models / "model.gguf", MIX, layers=6), folder / "out.gguf"
    if parts > 1:
        with GgufFile.open(source) as file:
            tensors = len(file.tensors)
        source = split_gguf(source, models / "parts.gguf", -(-tensors // parts))[0]
    inputs = content(models)
    draw = random.Random(parts)
    killed = 0
    with server(source, target) as baker:
        baker.bake()
        status, seconds = baker.bake()
        assert status == 0
        whole = content(folder)
        assert len(whole) == parts
        first = folder / min(whole)
        with GgufFile.open(source) as base:
            assert verify(first, base).passed
        # What a killed bake may find: an older output, to tell from the new one by its hash, or nothing.
        older = {name: os.urandom(1000) for name in whole}
        old = {name: hashlib.sha256(data).hexdigest() for name, data in older.items()}
        for number in range(kills):
            for path in folder.iterdir():
                if path.suffix != ".partial":
                    path.unlink()
            if overwriting := number % 2 == 1:
                for name, data in older.items():
                    (folder / name).write_bytes(data)
            # Over the whole of a bake and a little more, so that some end just in time.
            moment = 1.1 * seconds * (number + draw.random()) / kills
            status, _ = baker.bake(moment)
            killed += status < 0
            found = {name: digest for name, digest in content(folder).items() if name in whole}
            if first.name in found:
                assert found in (whole, old), f"killed after {moment} s of {seconds}"
                assert overwriting or found == whole
            if parts == 1 and overwriting:
                assert first.name in found
            assert content(models) == inputs
            if number % BETWEEN == BETWEEN - 1 or number == kills - 1:
                assert baker.bake()[0] == 0
                assert content(folder) == whole
    assert killed >= kills // 2
    shutil.rmtree(folder)


@pytest.mark.parametrize("renames", range(4))
def test_a_kill_among_the_renames_of_parts(tmp_path: Path, renames: int) -> None:
    places = [tmp_path / f"out-{number}.gguf" for number in range(3)]
    for place in places:
        place.write_bytes(b"old")
    command = [sys.executable, "-c", KILLED_AMONG_RENAMES, str(renames), *map(str, places)]
    assert subprocess.run(command).returncode == (0 if renames == 3 else -signal.SIGKILL)
    if places[0].exists():
        assert len({place.read_bytes() for place in places}) == 1
    command[3] = "-1"
    assert subprocess.run(command).returncode == 0
    assert sorted(tmp_path.iterdir()) == places
