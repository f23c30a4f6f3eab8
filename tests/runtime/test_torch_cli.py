"""Commands on a checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from runtime.tiny_checkpoint import BLOCKS, HIDDEN, write_checkpoint

pytest.importorskip("torch", reason="needs the [torch] extra")
pytest.importorskip("transformers", reason="needs the [torch] extra")

from rosi_edge.commands.extract import extract
from rosi_edge.commands.inspect import inspect
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.codec import dequantize

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", "qwen2", dtype="bfloat16")


def test_inspect(folder: Path) -> None:
    result = CliRunner().invoke(inspect, [str(folder), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["architecture"], found["block_count"], found["hidden_size"]) == ("qwen2", BLOCKS, HIDDEN)
    assert found["can_harden"], found["reasons"]
    assert found["chat_template"]
    assert set(found["quantization"]) == {"BF16"}
    assert len(found["write_matrices"]) == 2 * BLOCKS
    assert len(found["sha256"]) == 64


def test_extract(folder: Path, tmp_path: Path) -> None:
    for name, prompts in (("a.txt", "Why?\nWhat floats?\nStop!"), ("b.txt", "A tree.\nThe air.\nName it.")):
        (tmp_path / name).write_text(prompts, "utf-8")
    output = tmp_path / "direction.gguf"
    arguments = [str(folder), "-o", str(output), "-c", "512", "-t", "1", "--json"]
    arguments += ["--harmful", str(tmp_path / "a.txt"), "--harmless", str(tmp_path / "b.txt")]
    result = CliRunner().invoke(extract, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with GgufFile.open(output) as file:
        assert set(file.tensors) == {f"direction.{block}" for block in range(1, BLOCKS)}
        for name in file.tensors:
            assert np.linalg.norm(dequantize(file, name)) == pytest.approx(1, abs=1e-4)
