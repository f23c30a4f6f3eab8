"""Checkpoint folders: safetensors headers read without trust, names and values as GGUF has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.checkpoint import Checkpoint, is_checkpoint, to_float32
from rosi_edge.models.checkpoint_files import INDEX, SINGLE, other_files
from rosi_edge.quantization.codec import dequantize, quantize

CONFIG = {
    "model_type": "qwen2",
    "num_hidden_layers": 1,
    "hidden_size": 4,
    "vocab_size": 8,
    "max_position_embeddings": 64,
}
NAMES = {
    "model.embed_tokens.weight": (8, 4),
    "model.layers.0.self_attn.o_proj.weight": (4, 4),
    "model.layers.0.mlp.down_proj.weight": (4, 6),
    "model.layers.0.post_attention_layernorm.weight": (4,),
    "model.layers.0.post_feedforward_layernorm.weight": (4,),
}


def safetensors(entries: dict[str, Any], data: bytes) -> bytes:
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + data


def from_float32(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.uint8]:
    return quantize(values.reshape(1, -1), gguf.GGMLQuantizationType[dtype]).reshape(-1)


def shard(shapes: dict[str, tuple[int, ...]], dtype: str = "F32", seed: int = 0) -> bytes:
    random = np.random.default_rng(seed)
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, shape in shapes.items():
        raw = from_float32(random.standard_normal(shape).astype(np.float32), dtype).tobytes()
        entries[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return safetensors(entries, data)


def folder(path: Path, *, config: dict[str, Any] | None = None, content: bytes | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG | (config or {})), "utf-8")
    (path / SINGLE).write_bytes(shard(NAMES) if content is None else content)
    return path


def test_names_settings_and_values(tmp_path: Path) -> None:
    with Checkpoint.open(folder(tmp_path / "m")) as checkpoint:
        assert is_checkpoint(checkpoint.path)
        assert checkpoint.names["blk.0.attn_output.weight"] == "model.layers.0.self_attn.o_proj.weight"
        assert [matrix.name for matrix in write_matrices(checkpoint)] == [
            "blk.0.attn_output.weight",
            "blk.0.ffn_down.weight",
        ]
        assert checkpoint.block_name("blk.0.ffn_down.weight") == "model.layers.0"
        assert checkpoint.integer("qwen2.embedding_length") == 4
        assert checkpoint.total_size == (checkpoint.path / SINGLE).stat().st_size
        raw = (checkpoint.path / SINGLE).read_bytes()
        values = dequantize(checkpoint, "blk.0.ffn_down.weight")
        assert values.shape == (4, 6)
        assert values.tobytes() in raw


def test_a_literal_file(tmp_path: Path) -> None:
    """Written out by hand from the format's description: length, JSON, little-endian values."""
    header = b'{"model.layers.0.self_attn.o_proj.weight":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}'
    content = bytes([len(header), 0, 0, 0, 0, 0, 0, 0]) + header + b"\x80\x3f\x00\xc0"
    with Checkpoint.open(folder(tmp_path / "m", content=content)) as checkpoint:
        assert dequantize(checkpoint, "blk.0.attn_output.weight").tolist() == [[1.0, -2.0]]


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text"])
def test_gemma_norms_are_one_more_than_stored(kind: str, tmp_path: Path) -> None:
    with Checkpoint.open(folder(tmp_path / "m", config={"model_type": kind})) as checkpoint:
        name = "blk.0.post_attention_norm.weight"
        stored = to_float32(checkpoint.stored_bytes(checkpoint.names[name]), "F32")
        np.testing.assert_array_equal(dequantize(checkpoint, name), stored + 1)
        assert {matrix.post_norm for matrix in write_matrices(checkpoint)} == {
            name,
            "blk.0.post_ffw_norm.weight",
        }


def test_several_files(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / SINGLE).unlink()
    halves = [dict(list(NAMES.items())[:2]), dict(list(NAMES.items())[2:])]
    table = {}
    for number, half in enumerate(halves):
        name = f"model-{number}.safetensors"
        (path / name).write_bytes(shard(half, "F16", seed=number))
        table |= dict.fromkeys(half, name)
    (path / INDEX).write_text(json.dumps({"weight_map": table}), "utf-8")
    with Checkpoint.open(path) as checkpoint:
        assert set(checkpoint.stored) == set(NAMES)
        assert dequantize(checkpoint, "blk.0.ffn_down.weight").dtype == np.float32
        assert checkpoint.tensors["blk.0.ffn_down.weight"].part == 1


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
def test_bfloat16_is_rounded_to_nearest_even(values: list[float]) -> None:
    """Against ml_dtypes' definition in integers: the nearest of the two neighbours, the even one in a tie."""
    array = np.array(values, dtype=np.float32)
    with np.errstate(over="ignore"):
        stored = to_float32(from_float32(array, "BF16"), "BF16").astype(np.float64)
    bits = array.view(np.uint32)
    low = (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    high_bits = (bits & np.uint32(0xFFFF0000)) + np.uint32(0x10000)
    high = high_bits.view(np.float32).astype(np.float64)
    for value, got, down, up, odd in zip(
        array.astype(np.float64), stored, low, high, (bits >> np.uint32(16)) & np.uint32(1), strict=True
    ):
        if not np.isfinite(up):
            continue
        to_down, to_up = abs(value - down), abs(up - value)
        expected = down if to_down < to_up or (to_down == to_up and not odd) else up
        assert got == expected


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header claims"),
        (b"\x01", "header claims"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "header claims"),
        ((3).to_bytes(8, "little") + b"{}", "header claims"),
        ((2).to_bytes(8, "little") + b"[]", "not a JSON object"),
        ((4).to_bytes(8, "little") + b"{\xff\xff}", "not valid JSON"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "not valid JSON"),
        (safetensors({"a": 3}, b""), "is no object"),
        (safetensors({"a": ENTRY | {"dtype": "F33"}}, bytes(16)), "cannot be understood"),
        (safetensors({"a": ENTRY | {"shape": [-2, -2]}}, bytes(16)), "cannot be understood"),
        (safetensors({"a": ENTRY | {"shape": [True, 4]}}, bytes(16)), "cannot be understood"),
        (safetensors({"a": ENTRY | {"shape": [1] * 20_000 + [4]}}, bytes(16)), "cannot be understood"),
        (safetensors({"\ud800": ENTRY}, bytes(16)), "not valid JSON"),
        (safetensors({"a": ENTRY | {"data_offsets": [0]}}, bytes(16)), "cannot be understood"),
        (safetensors({"a": ENTRY | {"data_offsets": [0, 1 << 60]}}, bytes(16)), "cannot be understood"),
        (safetensors({"a": ENTRY | {"data_offsets": [16, 0]}}, bytes(16)), "has -16 bytes"),
        (safetensors({"a": ENTRY | {"shape": [2, 3]}}, bytes(16)), "has 16 bytes for the shape"),
        (safetensors({"a": ENTRY}, bytes(15)), "end at byte"),
        (safetensors({"a": ENTRY}, bytes(17)), "end at byte"),
        (safetensors({"a": ENTRY | {"data_offsets": [4, 20]}}, bytes(20)), "leaves a gap"),
        (safetensors({"a": ENTRY, "b": ENTRY}, bytes(16)), "overlaps"),
        (
            (lambda h: len(h).to_bytes(8, "little") + h + bytes(16))(
                b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
                b'"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
            ),
            "not valid JSON",
        ),
    ],
)
def test_hostile_headers(content: bytes, reason: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "m", content=content)
    with pytest.raises(ModelFileError, match=reason) as caught:
        Checkpoint.open(path)
    assert str(caught.value).isprintable()


def _index(names: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / SINGLE).unlink()
        (path / INDEX).write_text(json.dumps({"weight_map": names}), "utf-8")

    return change


def _settings(content: object) -> Callable[[Path], None]:
    return lambda path: (path / "tokenizer_config.json").write_text(json.dumps(content), "utf-8") and None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: (path / SINGLE).unlink(), "holds no model.safetensors"),
        (lambda path: (path / "config.json").unlink(), "has no config.json"),
        (lambda path: (path / "config.json").write_text("{", "utf-8"), "not valid JSON"),
        (_index({}), "no weight_map"),
        (_index({"a": "../secret.safetensors"}), "names '../secret.safetensors' as a file"),
        (_index({"a": "/etc/passwd"}), "names '/etc/passwd' as a file"),
        (_index({"a": "gone.safetensors"}), "gone.safetensors is missing"),
        (_index({"a": 5000 * "a" + ".safetensors"}), "names 'aaaa"),
        (_index({"a": 100 * "ä" + ".safetensors"}), "names 'ääää"),
        (_index({"a": "a\0.safetensors"}), "names 'a.x00"),
        (_index({"a": "\ud800.safetensors"}), "not valid JSON"),
        (_settings({"chat_template": "\udfff"}), "not valid JSON"),
        (lambda path: (path / INDEX).write_text('{"weight_map": {"a": "a"}}', "utf-8"), "holds two models"),
    ],
)
def test_hostile_folders(change: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    change(path)
    with pytest.raises(ModelFileError, match=reason):
        Checkpoint.open(path)


@pytest.mark.parametrize(
    ("config", "kind", "reason"),
    [
        ({"model_type": "mamba"}, UnsupportedModelError, "'mamba' are not covered"),
        ({"model_type": ["qwen2"]}, UnsupportedModelError, "are not covered"),
        ({"model_type": "\x1b[2J"}, UnsupportedModelError, "are not covered"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedModelError, r"quantized \(gptq\)"),
        ({"num_hidden_layers": 10**9}, ModelFileError, "claims 1000000000 blocks; .* 5 at most"),
        ({"num_hidden_layers": "1"}, ModelFileError, "should be a whole number"),
        ({"max_position_embeddings": -5}, ModelFileError, "should be a whole number above 0"),
        (
            {"transformers_weights": "b.safetensors"},
            UnsupportedModelError,
            "names its weights in config.json",
        ),
    ],
)
def test_settings_that_are_refused(
    config: dict[str, Any], kind: type[Exception], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=reason) as caught:
        Checkpoint.open(folder(tmp_path / "m", config=config))
    assert str(caught.value).isprintable()


def test_more_blocks_than_any_model_has(tmp_path: Path) -> None:
    """gguf-py makes a table of names of every block."""
    names = {f"a{number}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for number in range(5000)}
    with pytest.raises(ModelFileError, match=r"claims 5000 blocks; .* 1024 at most"):
        Checkpoint.open(
            folder(tmp_path / "m", config={"num_hidden_layers": 5000}, content=safetensors(names, b""))
        )


def test_an_adapter_is_no_checkpoint(tmp_path: Path) -> None:
    """transformers would load whatever weights it names."""
    path = folder(tmp_path / "m")
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}', "utf-8")
    with pytest.raises(UnsupportedModelError, match="is an adapter, or has one"):
        Checkpoint.open(path)


def test_only_plain_facts_of_a_hardened_folder_are_read(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    plain = {"rosi.a": "x", "rosi.b": 0.5, "rosi.c": ["y"], "rosi.d": True}
    odd = {"rosi.e": [[]], "rosi.f": {"a": 1}, "rosi.g": float("nan"), "rosi.h": 1 << 80, "other": 1}
    (path / "rosi-edge.json").write_text(json.dumps({"metadata": plain | odd}), "utf-8")
    with Checkpoint.open(path) as model:
        assert {key: model.metadata[key] for key in model.metadata if key[:5] == "rosi."} == plain


def test_links_that_lead_out_of_the_folder(tmp_path: Path) -> None:
    """What they lead to would be published with the hardened model."""
    path = folder(tmp_path / "m")
    (tmp_path / "secret").write_text("key", "utf-8")
    (path / "LICENSE").write_text("text", "utf-8")
    (path / "NOTICE").symlink_to("LICENSE")
    assert other_files(path) == ["LICENSE", "NOTICE", "config.json"]
    (path / ".git").mkdir()
    (path / ".git" / "config").write_text("token", "utf-8")
    (tmp_path / "elsewhere").mkdir()
    for place, target in (
        (path / "README.md", tmp_path / "secret"),
        (path / "templates" / "a.jinja", tmp_path / "secret"),
        (path / "rosi-edge.json", tmp_path / "secret"),
        (path / "more.safetensors", tmp_path / "secret"),
        (path / "TERMS", path / ".git" / "config"),
        (path / "additional_chat_templates", tmp_path / "elsewhere"),
        (path / "dangling", tmp_path / "nowhere"),
    ):
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(target)
        with pytest.raises(ModelFileError, match="is a link that leads out of the checkpoint"):
            Checkpoint.open(path)
        place.unlink()
    Checkpoint.open(path)


def test_folders_nested_without_end(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "/".join(["a"] * 40)).mkdir(parents=True)
    with pytest.raises(ModelFileError, match="nested too deep"):
        Checkpoint.open(path)


def test_the_links_of_a_download_cache(tmp_path: Path) -> None:
    """huggingface_hub keeps files as blobs, and a revision is a folder of links to them."""
    cached = tmp_path / "models--org--name"
    blobs, path = cached / "blobs", cached / "snapshots" / "0f"
    for place in (blobs, path.parent):
        place.mkdir(parents=True)
    folder(path)
    (path / "config.json").rename(blobs / "abc")
    (path / "config.json").symlink_to("../../blobs/abc")
    with Checkpoint.open(path) as model:
        assert model.architecture == "qwen2"


def test_what_lies_beside_the_weights_has_a_hash(tmp_path: Path) -> None:
    """Answers depend on it, and kept ones must not outlive it."""
    path = folder(tmp_path / "m")
    with Checkpoint.open(path) as model:
        weights, before = model.sha256(), model.settings_sha256()
        (path / "chat_template.jinja").write_text("J", "utf-8")
        assert model.sha256() == weights
        changed = model.settings_sha256()
        (path / "chat_template.jinja").rename(path / "other.jinja")
        assert len({before, changed, model.settings_sha256()}) == 3


def test_the_template_that_the_tokenizer_has(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    assert Checkpoint.open(path).text("tokenizer.chat_template") is None
    several = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}), "utf-8")
    assert Checkpoint.open(path).text("tokenizer.chat_template") == "D"
    (path / "chat_template.jinja").write_text("J", "utf-8")
    assert Checkpoint.open(path).text("tokenizer.chat_template") == "J"


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_against_the_safetensors_library(dtype: str, tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    path = folder(tmp_path / "m", content=shard(NAMES, dtype))
    theirs = library.load_file(path / SINGLE)
    with Checkpoint.open(path) as checkpoint:
        assert set(theirs) == set(checkpoint.stored)
        for name, tensor in theirs.items():
            mine: npt.NDArray[np.float32] = to_float32(checkpoint.stored_bytes(name), dtype)
            np.testing.assert_array_equal(mine.reshape(NAMES[name]), tensor.float().numpy())
