"""Damaged files through ``inspect`` and ``verify``: a sentence each, and no crash, hang or heap of memory."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import baking
import pytest
from gguf import GGMLQuantizationType as T
from split_gguf import split_gguf
from tiny_gguf import write_tiny_llama

from rosi_edge.baking.gguf import bake
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.edits.adapter import write_adapter
from rosi_edge.models.gguf_file import GgufFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small, so that many fit into a minute: blocks with scales, plain floats, an edit, its adapter."""
    types = {"attn_output": T.Q4_0, "ffn_down": T.F16, "ffn_up": T.Q8_0}
    base = write_tiny_llama(tmp_path / "base.gguf", layers=1, types=types, vocabulary=280)
    with GgufFile.open(base) as file:
        edits = baking.edits(file)
        bake(
            file,
            tmp_path / "out.gguf",
            edits,
            BakeSettings(
                rounding=baking.rounding(edits),
                probes=baking.probes(edits),
                metadata={"rosi.source.sha256": hashlib.sha256(base.read_bytes()).hexdigest()},
            ),
        )
        tensors = len(file.tensors)
    write_adapter(tmp_path / "adapter.gguf", edits, architecture="llama")
    _, second = split_gguf(base, tmp_path / "split.gguf", -(-tensors // 2))
    second.rename(tmp_path / "part.gguf")
    return tmp_path


@pytest.mark.parametrize(
    "files", [300, pytest.param(20_000, marks=[pytest.mark.long, pytest.mark.timeout(8 * 3600)])]
)
def test_damaged_files_are_findings_and_nothing_worse(folder: Path, files: int) -> None:
    script = Path(__file__).with_name("mutation_worker.py")
    paths = os.pathsep.join((str(script.parent), str(script.parents[1])))
    result = subprocess.run(
        [sys.executable, str(script), str(folder), "0", str(files)],
        capture_output=True,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )
    case = folder / "case.txt"
    assert result.returncode == 0, (case.read_text() if case.exists() else "") + result.stderr
    figures = json.loads(result.stdout)
    sys.stdout.write(f"{figures}\n")
    assert figures["slowest"] < 5
    assert figures["grown"] < 1_000_000_000
