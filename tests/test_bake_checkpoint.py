"""Edits baked into a checkpoint folder: what is edited arrives, everything else stays byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from models.test_checkpoint import NAMES, folder, shard

from rosi_edge import bake_checkpoint as module
from rosi_edge.bake_checkpoint import EDITS, bake_checkpoint
from rosi_edge.errors import OutputError, UnsupportedModelError
from rosi_edge.injection.adapter import read_adapter
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.models.checkpoint import INDEX, SINGLE, Checkpoint, to_float32
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.codec import dequantize

DOWN = "blk.0.ffn_down.weight"


def edit(tensor: str = DOWN, columns: int = 6, size: float = 1.0) -> RankOneEdit:
    random = np.random.default_rng(1)
    output = random.standard_normal(4).astype(np.float32)
    return RankOneEdit(tensor, output, size * random.standard_normal(columns).astype(np.float32))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("rows_at_a_time", [1, 1 << 21])
def test_only_the_edited_tensor_changes(
    dtype: str, rows_at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS_AT_A_TIME", rows_at_a_time)
    path = folder(tmp_path / "old", content=shard(NAMES, dtype))
    (path / "tokenizer.json").write_text("{}", "utf-8")
    (path / "pytorch_model.bin").write_bytes(b"not copied")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    wanted = edit()
    with Checkpoint.open(path) as source:
        (result,) = bake_checkpoint(source, tmp_path / "new", [wanted], notes={"note.txt": "said"})
        weights = dequantize(source, DOWN).astype(np.float64)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    with Checkpoint.open(tmp_path / "new") as target:
        assert (target.path / "tokenizer.json").read_text("utf-8") == "{}"
        assert (target.path / "note.txt").read_text("utf-8") == "said"
        assert not (target.path / "pytorch_model.bin").exists()
        old, new = before[SINGLE], (target.path / SINGLE).read_bytes()
        assert len(old) == len(new)
        tensor = target.stored["model.layers.0.mlp.down_proj.weight"]
        span = slice(tensor.offset, tensor.offset + tensor.size)
        assert old[: span.start] == new[: span.start]
        assert old[span.stop :] == new[span.stop :]
        assert old[span] != new[span]
        moved = dequantize(target, DOWN).astype(np.float64) - weights
    exact = np.outer(wanted.output, wanted.input).astype(np.float64)
    np.testing.assert_allclose(moved, exact, atol={"F32": 1e-6, "F16": 4e-3, "BF16": 3e-2}[dtype])
    assert result.type == dtype
    assert result.delivered == pytest.approx((moved * exact).sum() / (exact**2).sum(), abs=1e-6)
    noise = np.sqrt(((moved - exact) ** 2).sum() / (exact**2).sum())
    # Not to more digits: the noise is the small difference of large sums.
    assert result.noise == pytest.approx(noise, abs=1e-3)


def test_the_edits_lie_beside_the_weights(tmp_path: Path) -> None:
    wanted = edit()
    with Checkpoint.open(folder(tmp_path / "old")) as source:
        bake_checkpoint(source, tmp_path / "new", [wanted])
    with GgufFile.open(tmp_path / "new" / EDITS) as file:
        assert file.text("general.architecture") == "qwen2"
        (found,) = read_adapter(file)
    assert found.tensor == DOWN
    np.testing.assert_array_equal(found.delta(1.0), wanted.delta(1.0))


def test_several_files_keep_their_tensors(tmp_path: Path) -> None:
    path = folder(tmp_path / "old")
    (path / SINGLE).unlink()
    table = {}
    for number, (name, shape) in enumerate(NAMES.items()):
        (path / f"part-{number}.safetensors").write_bytes(shard({name: shape}, "BF16", seed=number))
        table[name] = f"part-{number}.safetensors"
    (path / INDEX).write_text(json.dumps({"weight_map": table}), "utf-8")
    with Checkpoint.open(path) as source:
        bake_checkpoint(source, tmp_path / "new", [edit(), edit("blk.0.attn_output.weight", 4)])
    changed = {
        file.name
        for file in path.iterdir()
        if file.read_bytes() != (tmp_path / "new" / file.name).read_bytes()
    }
    assert changed == {
        table["model.layers.0.mlp.down_proj.weight"],
        table["model.layers.0.self_attn.o_proj.weight"],
    }


def test_a_tiny_edit_that_bfloat16_cannot_hold_is_told(tmp_path: Path) -> None:
    with Checkpoint.open(folder(tmp_path / "old", content=shard(NAMES, "BF16"))) as source:
        (result,) = bake_checkpoint(source, tmp_path / "new", [edit(size=1e-6)])
    assert abs(result.delivered) < 0.5


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ([edit("blk.7.ffn_down.weight")], "has no blk.7"),
        ([edit(columns=5)], "does not fit the shape"),
        ([edit(), edit()], "two edits"),
    ],
)
def test_edits_that_do_not_fit(edits: list[RankOneEdit], reason: str, tmp_path: Path) -> None:
    with Checkpoint.open(folder(tmp_path / "old")) as source, pytest.raises(ValueError, match=reason):
        bake_checkpoint(source, tmp_path / "new", edits)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpoint.open(folder(tmp_path / "old")) as source:
        with pytest.raises(OutputError, match="is there already"):
            bake_checkpoint(source, tmp_path / "old", [edit()])
        with pytest.raises(OutputError, match="is not a folder"):
            bake_checkpoint(source, tmp_path / "no" / "where", [edit()])

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "from_float32", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bake_checkpoint(source, tmp_path / "new", [edit()])
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_eight_bit_floats_cannot_be_edited() -> None:
    with pytest.raises(UnsupportedModelError, match="F8_E4M3"):
        to_float32(np.zeros(4, dtype=np.uint8), "F8_E4M3")
