"""A hardened checkpoint folder passes, and one changed byte anywhere in it fails."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from models.test_checkpoint import NAMES, folder, shard

from rosi_edge.baking.checkpoint import EDITS, bake_checkpoint, sealed
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.commands.verify import verify as command
from rosi_edge.edits.adapter import write_adapter
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import RosiEdgeError
from rosi_edge.inspection import own_metadata
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.checkpoint_files import OWN_FACTS, SINGLE
from rosi_edge.quantization.grid_rounding import GridRounding, input_factor
from rosi_edge.quantization.rounding import Requantize
from rosi_edge.verification.checkpoint import verify_checkpoint
from rosi_edge.verification.result import Verification

DOWN, OUT = "blk.0.ffn_down.weight", "blk.0.attn_output.weight"


def edits() -> list[RankOneEdit]:
    random = np.random.default_rng(1)

    def draw(size: int) -> np.ndarray:
        return (0.2 * random.standard_normal(size)).astype(np.float32)

    return [RankOneEdit(DOWN, draw(4), draw(6)), RankOneEdit(OUT, draw(4), draw(4))]


def hardened(path: Path, dtype: str, grid: bool = False) -> tuple[Path, Path]:
    base = folder(path / "base", content=shard(NAMES, dtype))
    (base / "tokenizer.json").write_text("{}", "utf-8")
    wanted = edits()
    random = np.random.default_rng(2)
    probes = {e.tensor: random.standard_normal((40, len(e.input))).astype(np.float32) for e in wanted}
    factors = {e.tensor: input_factor(probes[e.tensor], 4, e.input) for e in wanted}
    with Checkpoint.open(base) as source:
        bake_checkpoint(
            source,
            path / "out",
            wanted,
            BakeSettings(
                rounding=GridRounding(factors) if grid else Requantize(),
                probes=probes,
                metadata={
                    "rosi.source.sha256": hashlib.sha256((base / SINGLE).read_bytes()).hexdigest(),
                    "rosi.method": "conditional",
                },
            ),
        )
    return base, path / "out"


def check(base: Path, out: Path, adapter: Path | None = None) -> Verification:
    with Checkpoint.open(base) as source:
        return verify_checkpoint(out, source, adapter=adapter)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("grid", [False, True])
def test_a_hardened_folder_passes(tmp_path: Path, dtype: str, grid: bool) -> None:
    base, out = hardened(tmp_path, dtype, grid)
    found = check(base, out)
    assert found.passed, found.problems
    assert set(found.checks.values()) == {"passed"}
    assert {tensor.name for tensor in found.tensors} == {DOWN, OUT}
    with Checkpoint.open(out) as model:
        assert own_metadata(model)["rosi.method"] == "conditional"


def test_one_flipped_byte_anywhere_fails(tmp_path: Path) -> None:
    base, out = hardened(tmp_path, "BF16")
    for name in (SINGLE, "tokenizer.json", "config.json", EDITS, OWN_FACTS):
        whole = (out / name).read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 200)):
            changed = bytearray(whole)
            changed[at] ^= 0x01
            (out / name).write_bytes(changed)
            assert not check(base, out).passed, (name, at)
        (out / name).write_bytes(whole)
    assert check(base, out).passed


def test_files_that_come_or_go_fail(tmp_path: Path) -> None:
    base, out = hardened(tmp_path, "F32")
    (out / "modeling.py").write_text("print(1)", "utf-8")
    assert "modeling.py was added" in check(base, out).problems
    (out / "modeling.py").unlink()
    (out / "pytorch_model.bin").write_bytes(b"x")
    assert not check(base, out).passed
    (out / "pytorch_model.bin").unlink()
    (out / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in check(base, out).problems
    (out / EDITS).unlink()
    assert not check(base, out).passed
    (out / OWN_FACTS).unlink()
    assert not check(base, out).passed
    assert not check(base, base).passed


def test_files_in_folders_are_compared(tmp_path: Path) -> None:
    base, out = hardened(tmp_path, "F32")
    (out / "templates").mkdir()
    (out / "templates" / "a.jinja").write_text("x", "utf-8")
    assert "templates/a.jinja was added" in check(base, out).problems
    (base / "templates").mkdir()
    (base / "templates" / "a.jinja").write_text("y", "utf-8")
    assert "templates/a.jinja is not the base's" in check(base, out).problems
    (base / "templates" / "a.jinja").write_text("x", "utf-8")
    assert check(base, out).passed
    (out / ".hidden").mkdir()
    (out / ".hidden" / "model.safetensors").write_bytes(b"x")
    assert ".hidden/model.safetensors was added" in check(base, out).problems
    (out / ".hidden" / "model.safetensors").unlink()
    assert check(base, out).passed
    os.mkfifo(out / "pipe")
    assert "pipe was added" in check(base, out).problems


def _declare(out: Path, **changes: object) -> None:
    facts = json.loads((out / OWN_FACTS).read_text("utf-8")) | changes
    del facts["seal"]
    (out / OWN_FACTS).write_bytes(sealed(facts))


def test_declarations_that_make_no_sense(tmp_path: Path) -> None:
    """Sealed anew, as by somebody who means harm: findings, and no crash."""
    base, out = hardened(tmp_path, "F32")
    facts = json.loads((out / OWN_FACTS).read_text("utf-8"))
    _declare(out, aims=dict.fromkeys(facts["aims"], int("9" * 400)))
    assert not check(base, out).passed
    stacked = [replace(edit, expert=0) for edit in edits()]
    write_adapter(out / EDITS, stacked, architecture="qwen2", experts=dict.fromkeys((DOWN, OUT), 1))
    _declare(
        out,
        aims={f"{name}[0]": aim for name, aim in facts["aims"].items()},
        edits_sha256=hashlib.sha256((out / EDITS).read_bytes()).hexdigest(),
    )
    assert f"{OWN_FACTS} and {EDITS} name different tensors" in check(base, out).problems


def test_an_edited_tensor_that_is_gone_is_a_finding(tmp_path: Path) -> None:
    base, out = hardened(tmp_path, "BF16")
    weights = (out / SINGLE).read_bytes()
    (out / SINGLE).write_bytes(weights.replace(b"down_proj", b"dawn_proj"))
    found = check(base, out)
    assert not found.passed
    assert f"the hardened folder has no tensor {DOWN}" in found.problems


def test_of_another_base_that_is_said_first(tmp_path: Path) -> None:
    _, out = hardened(tmp_path, "F32")
    other = folder(tmp_path / "other", content=shard(NAMES, "F32", seed=7))
    assert check(other, out).problems[0].startswith("other is not the checkpoint that was hardened")


def test_another_edit_or_adapter_fails(tmp_path: Path) -> None:
    base, out = hardened(tmp_path, "F32")
    adapter = tmp_path / "a.gguf"
    write_adapter(adapter, edits(), architecture="qwen2")
    assert check(base, out, adapter).checks["adapter"] == "passed"
    write_adapter(adapter, [edit.scaled(-1.0) for edit in edits()], architecture="qwen2")
    assert not check(base, out, adapter).passed
    # The folder's own declaration of something that was not done.
    write_adapter(out / EDITS, [edit.scaled(-1.0) for edit in edits()], architecture="qwen2")
    found = check(base, out)
    assert not found.passed
    assert found.checks["hashes"] == "passed"


def test_the_command(tmp_path: Path) -> None:
    base, out = hardened(tmp_path, "BF16")
    result = CliRunner().invoke(command, [str(out), "--base", str(base), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["passed"]
    (out / "config.json").write_text("{}", "utf-8")
    assert CliRunner().invoke(command, [str(out), "--base", str(base)]).exit_code == 1
    with pytest.raises(RosiEdgeError, match="nothing-there does not exist"):
        CliRunner().invoke(
            command, [str(out) + "-nothing-there", "--base", str(base)], catch_exceptions=False
        )
    with pytest.raises(RosiEdgeError, match="differ in kind"):
        CliRunner().invoke(command, [str(out / SINGLE), "--base", str(base)], catch_exceptions=False)
