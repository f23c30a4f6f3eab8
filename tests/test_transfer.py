"""Edits found on one file, baked into others of the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from models.test_checkpoint import folder
from tiny_gguf import write_tiny_llama

from rosi_edge.bake_checkpoint import EDITS, bake_checkpoint
from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.injection.adapter import write_adapter
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.codec import dequantize
from rosi_edge.runtime.engine import EngineOptions
from rosi_edge.transfer import edits_from, require_fit, transfer

OPTIONS = EngineOptions(threads=1, context_size=512)
PROMPTS = ("What floats?", "Name a tree.", "Why?", "Say it again.")
NAMES = ("blk.0.attn_output.weight", "blk.1.ffn_down.weight")


def edits(columns: tuple[int, int] = (256, 256)) -> list[RankOneEdit]:
    random = np.random.default_rng(0)
    return [
        RankOneEdit(
            name,
            random.standard_normal(256).astype(np.float32),
            0.3 * random.standard_normal(width).astype(np.float32),
        )
        for name, width in zip(NAMES, columns, strict=True)
    ]


def test_one_adapter_into_several_quantizations(tmp_path: Path) -> None:
    write_adapter(tmp_path / "edits.gguf", edits(), architecture="llama")
    found = edits_from(tmp_path / "edits.gguf")
    for kind, least in (
        (GGMLQuantizationType.F16, 0.99),
        (GGMLQuantizationType.Q8_0, 0.98),
        (GGMLQuantizationType.Q4_K, 0.8),
    ):
        model = write_tiny_llama(
            tmp_path / f"{kind.name}.gguf", hidden=256, feed_forward=256, heads=8, types=kind
        )
        output = tmp_path / f"{kind.name}-hard.gguf"
        baked = transfer(model, output, found, PROMPTS, options=OPTIONS)
        assert [one.name for one in baked] == list(NAMES)
        assert all(one.type == kind.name for one in baked)
        with GgufFile.open(model) as old, GgufFile.open(output) as new:
            for edit, one in zip(found.edits, baked, strict=True):
                moved = (dequantize(new, edit.tensor) - dequantize(old, edit.tensor)).astype(np.float64)
                wanted = edit.delta(1.0)
                assert (moved * wanted).sum() / (wanted**2).sum() > least
                assert one.delivered > least
            assert {
                name
                for name in old.tensors
                if old.tensor_bytes(name).tobytes() != new.tensor_bytes(name).tobytes()
            } == set(NAMES)


def test_edits_of_a_hardened_checkpoint(tmp_path: Path) -> None:
    edit = RankOneEdit("blk.0.ffn_down.weight", np.ones(4, dtype=np.float32), np.arange(6, dtype=np.float32))
    with Checkpoint.open(folder(tmp_path / "old")) as source:
        bake_checkpoint(source, tmp_path / "new", [edit])
        found = edits_from(tmp_path / "new")
        assert found.architecture == "qwen2"
        np.testing.assert_array_equal(found.edits[0].delta(1.0), edit.delta(1.0))
        require_fit(source, found)


def test_edits_of_another_model_are_refused(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf", hidden=256, feed_forward=128, heads=8)
    write_adapter(tmp_path / "wide.gguf", edits(), architecture="llama")
    with pytest.raises(UnsupportedModelError, match=r"which m\.gguf does not have"):
        transfer(model, tmp_path / "out.gguf", edits_from(tmp_path / "wide.gguf"), PROMPTS, options=OPTIONS)
    write_adapter(tmp_path / "qwen.gguf", edits((256, 128)), architecture="qwen2")
    with pytest.raises(UnsupportedModelError, match=r"qwen2 model, and m\.gguf is llama"):
        transfer(model, tmp_path / "out.gguf", edits_from(tmp_path / "qwen.gguf"), PROMPTS, options=OPTIONS)
    assert not (tmp_path / "out.gguf").exists()


def test_what_holds_no_edits(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=f"{EDITS} does not exist"):
        edits_from(tmp_path)
    write_adapter(tmp_path / "empty.gguf", [], architecture="llama")
    with pytest.raises(ModelFileError, match="holds no edits"):
        edits_from(tmp_path / "empty.gguf")
