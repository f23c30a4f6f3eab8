"""What ``inspect`` says of small files of every kind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from split_gguf import split_gguf
from tiny_gguf import write_tiny_llama

from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.inspection import (
    EDITABLE_TYPES,
    Inspection,
    inspect,
    require_hardenable,
)
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import rewrite
from rosi_edge.models.small_gguf import write_small_gguf


def bare(path: Path, architecture: str, **keys: str) -> Path:
    """A file with one tensor and the given string keys."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        writer.add_string(key.replace("__", "."), value)
    writer.add_tensor("x", np.zeros(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_good_model(tmp_path: Path) -> None:
    types = {"ffn_down": Type.Q8_0, "attn_output": Type.Q4_0}
    path = write_tiny_llama(tmp_path / "tiny.gguf", architecture="gemma3", types=types, context=512)
    found = inspect(path, with_sha256=True)
    assert found.can_harden and not found.reasons and not found.warnings
    assert found.hardened is None
    assert (found.architecture, found.name, found.file_type) == ("gemma3", "Tiny gemma3", "F32")
    assert (found.block_count, found.hidden_size, found.context_length, found.vocabulary) == (2, 64, 512, 320)
    assert found.size == path.stat().st_size
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    reader = gguf.GGUFReader(path)
    assert found.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert found.quantization["Q8_0"].tensors == 2
    assert found.quantization["Q4_0"].bytes == 2 * 64 * 64 // 32 * 18
    assert next(iter(found.quantization)) == "F32"
    assert sum(share.tensors for share in found.quantization.values()) == len(reader.tensors)
    assert [
        (matrix.name, matrix.type, matrix.shape, matrix.post_norm) for matrix in found.write_matrices[:2]
    ] == [
        ("blk.0.attn_output.weight", "Q4_0", (64, 64), "blk.0.post_attention_norm.weight"),
        ("blk.0.ffn_down.weight", "Q8_0", (64, 128), "blk.0.post_ffw_norm.weight"),
    ]
    assert Inspection.model_validate(json.loads(found.model_dump_json())) == found


def test_hashing_is_only_done_when_asked_for(tmp_path: Path) -> None:
    with GgufFile.open(write_tiny_llama(tmp_path / "tiny.gguf")) as model:
        assert inspect(model).sha256 is None


def refused(path: Path) -> str:
    """The only reason why the file cannot be hardened."""
    found = inspect(path)
    assert not found.can_harden
    (reason,) = found.reasons
    with GgufFile.open(path) as model, pytest.raises(UnsupportedModelError) as caught:
        require_hardenable(model)
    assert caught.value.message == reason
    return reason


def test_models_that_cannot_be_hardened(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    assert "no chat template" in refused(write_tiny_llama(path, chat_template=None))
    assert "no chat template" in refused(write_tiny_llama(path, chat_template=" "))
    assert "adapter" in refused(bare(path, "llama", general__type="adapter"))
    assert "projector" in refused(bare(path, "clip"))
    assert "projector" in refused(bare(path, "clip", general__type="mmproj"))
    assert "control vector" in refused(bare(path, "controlvector"))
    template: dict[str, Any] = {"tokenizer__chat_template": "x"}
    assert "makes embeddings" in refused(bare(path, "bert", **template))
    assert "not known to this version" in refused(bare(path, "future", **template))


def test_experts_can_be_hardened_unless_their_type_has_no_room_for_an_edit(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    sizes = {"hidden": 256, "feed_forward": 256, "experts": 4}
    found = inspect(write_tiny_llama(path, **sizes, types={"ffn_down_exps": Type.MXFP4}))
    assert found.can_harden
    assert found.write_matrices[1].shape == (4, 256, 256)
    coarse = write_tiny_llama(path, **sizes, types={"ffn_down_exps": Type.IQ3_S})
    assert "2 of its stacks of experts are stored as IQ3_S, a codebook" in refused(coarse)
    # A single matrix of that type may get a larger one.
    single = write_tiny_llama(path, hidden=256, feed_forward=256, types={"ffn_down": Type.IQ3_S})
    assert inspect(single).can_harden


def test_a_vocabulary_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "no weights" in refused(path)
    assert inspect(path).vocabulary == 2


def test_types_that_cannot_be_written_again(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "a.gguf", hidden=256, feed_forward=256, types={"ffn_down": Type.Q4_K})
    content = bytearray(path.read_bytes())
    # IQ2_XXS blocks are smaller than Q4_K's, so only the type needs to change for the file to stay sound.
    for block in range(2):
        name = f"blk.{block}.ffn_down.weight".encode()
        place = content.index(name) + len(name) + 4 + 16
        assert content[place] == Type.Q4_K
        content[place] = Type.IQ2_XXS
    path.write_bytes(content)
    assert "2 of its write matrices are stored as IQ2_XXS" in refused(path)


def test_editable_types_can_be_read_back() -> None:
    for kind in EDITABLE_TYPES:
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        values = gguf.quants.dequantize(np.zeros((1, block_bytes), dtype=np.uint8), kind)
        assert values.size == block


def test_scales_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "bitnet")
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_chat_template("x")
    for short in ("attn_output", "ffn_down"):
        writer.add_tensor(f"blk.0.{short}.weight", np.zeros((32, 32), dtype=np.float32))
        writer.add_tensor(f"blk.0.{short}.scale", np.ones(1, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "blk.0.attn_output.scale multiplies" in refused(path)


def test_a_hardened_file_says_so(tmp_path: Path) -> None:
    with GgufFile.open(write_tiny_llama(tmp_path / "a.gguf")) as model:
        facts = {"rosi.method": "rosi", "rosi.strength": 0.5, "rosi.tensors": ["a", "b"]}
        path = rewrite(model, tmp_path / "b.gguf", tensors={}, metadata=facts)
    found = inspect(path)
    assert found.hardened == facts
    assert found.can_harden
    assert found.warnings == ["this file has been hardened before"]


def test_descriptions_of_the_wrong_type_are_left_out(tmp_path: Path) -> None:
    metadata = {"llama.context_length": "long"}
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("general.name", ["x"])
    writer.add_string("general.file_type", "Q4")
    for key, value in metadata.items():
        writer.add_string(key, value)
    writer.add_tensor("x", np.zeros(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match="claims None blocks"):
        inspect(path)


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    found = inspect(bare(tmp_path / "a.gguf", "bert", general__name="\x1b[31mred\nline"))
    assert found.name is not None and found.name.isprintable()


def test_parts_of_a_model_that_are_none_by_themselves(tmp_path: Path) -> None:
    holds = {"qwen35.block_count": 3, "qwen35.nextn_predict_layers": 1, "qwen35.embedding_length": 32}
    path = tmp_path / "ahead.gguf"
    write_small_gguf(
        path,
        architecture="qwen35",
        metadata=holds,
        tensors={"token_embd.weight": np.zeros((40, 32)), "blk.2.attn_output.weight": np.zeros((32, 32))},
    )
    assert "predict further tokens (MTP)" in refused(path)
    # As adapters were before general.type.
    matrices = {f"blk.0.attn_q.weight.lora_{half}": np.zeros((4, 4)) for half in "ab"}
    write_small_gguf(path, architecture="llama", metadata={"adapter.type": "lora"}, tensors=matrices)
    assert "adapter (LoRA)" in refused(path)


def test_pieces_of_bytes_and_parts_put_end_to_end(tmp_path: Path) -> None:
    whole = write_tiny_llama(tmp_path / "X.gguf")
    content = whole.read_bytes()
    half = len(content) // 2
    for name, piece in (
        ("X.gguf.part1of2", content[:half]),
        ("X.gguf.part2of2", content[half:]),
        ("X.gguf-split-a", content[:half]),
        ("X.gguf.001", content[half:]),
    ):
        (tmp_path / name).write_bytes(piece)
        with pytest.raises(ModelFileError, match="a piece of a file") as caught:
            GgufFile.open(tmp_path / name)
        assert caught.value.remedy and "> X.gguf" in caught.value.remedy
    parts = split_gguf(whole, tmp_path / "split.gguf", 8)
    joined = tmp_path / "joined.gguf"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(UnsupportedModelError, match="end to end") as error:
        GgufFile.open(joined)
    assert error.value.remedy and "llama-gguf-split --merge" in error.value.remedy
