"""The architecture table is well formed, and fits real tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tiny_gguf import ARCHITECTURES, write_tiny_llama

from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.models.architectures import (
    Architecture,
    architecture_of,
    block_count,
    hidden_size,
    known_architectures,
    write_matrices,
)
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.sources.resolve import resolve

KNOWN = known_architectures()


def write(
    path: Path,
    architecture: str,
    tensors: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, Any] | None = None,
) -> GgufFile:
    """A file with the given tensors (all zeros) and settings; not one that llama.cpp would load."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in ({"block_count": 1, "embedding_length": 32} | dict(metadata or {})).items():
        if isinstance(value, bool):
            writer.add_bool(f"{architecture}.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"{architecture}.{key}", value)
        else:
            writer.add_uint32(f"{architecture}.{key}", value)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile.open(path)


def plain(architecture: Architecture, block: int = 0, hidden: int = 32) -> dict[str, tuple[int, ...]]:
    """The tensors that the table expects of a block."""
    tensors: dict[str, tuple[int, ...]] = {}
    for short in architecture.writes:
        experts = short.endswith(("_exps", "_chexps"))
        tensors[f"blk.{block}.{short}.weight"] = (4, hidden, 64) if experts else (hidden, 64)
    for names in architecture.post_norm.values():
        tensors[f"blk.{block}.{names[-1]}"] = (hidden,)
    return tensors


def test_the_table_knows_every_architecture_of_gguf_py() -> None:
    """gguf-py is older than the llama.cpp the table was read from, so it must know no more."""
    assert set(gguf.MODEL_ARCH_NAMES.values()) - {"mmproj"} <= set(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_entry(name: str, tmp_path: Path) -> None:
    architecture = KNOWN[name]
    assert architecture.name == name
    assert architecture.stream_name(7).endswith("-7")
    if not architecture.supported:
        assert architecture.refused
        # A clause that follows "cannot be hardened:".
        assert architecture.refused[0].islower() and not architecture.refused.endswith(".")
        with write(tmp_path / "a.gguf", name, {}) as model, pytest.raises(UnsupportedModelError) as caught:
            write_matrices(model)
        assert architecture.refused in str(caught.value)
        return
    tensors = plain(architecture)
    for refusal in architecture.refused_if:
        if refusal.tensor:
            tensors.pop(refusal.tensor.format(i=0), None)
    with write(tmp_path / "a.gguf", name, tensors) as model:
        found = write_matrices(model)
        assert architecture_of(model) == architecture
    assert [matrix.name for matrix in found] == [tensor for tensor in tensors if len(tensors[tensor]) > 1]
    for matrix in found:
        assert (matrix.post_norm is not None) == bool(architecture.post_norm)
        assert matrix.experts == (4 if len(matrix.shape) == 3 else 0)
        assert matrix.shape[-2] == 32


def test_who_is_supported() -> None:
    supported = {name for name, architecture in KNOWN.items() if architecture.supported}
    assert {
        "llama",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3",
        "phi3",
        "granite",
        "mamba",
        "falcon",
    } <= supported
    assert {
        "olmo2",
        "glm4",
        "command-r",
        "starcoder2",
        "mistral3",
        "smollm3",
        "qwen2moe",
        "gpt-oss",
    } <= supported
    refused = set(KNOWN) - supported
    assert {
        "t5",
        "bert",
        "clip",
        "gemma3n",
        "deepseek4",
        "llada",
        "hrm_text",
        "kimi-linear",
        "rwkv6",
    } <= refused


def test_post_norms_are_those_of_the_usual_suspects() -> None:
    with_norms = {name for name, architecture in KNOWN.items() if architecture.post_norm}
    gemma = {"gemma2", "gemma3", "gemma4"}
    assert with_norms - gemma == {
        "afmoe",
        "exaone4",
        "glm4",
        "grok",
        "muse-glimmer",
        "olmo2",
        "plamo2",
        "plamo3",
    }
    assert gemma <= with_norms
    # These call the norm *before* the MLP post_attention_norm.
    assert not with_norms & {"qwen3next", "qwen35", "glm4moe", "gpt-oss", "seed_oss"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tiny_models(name: str, tmp_path: Path) -> None:
    with GgufFile.open(write_tiny_llama(tmp_path / "a.gguf", architecture=name, layers=3)) as model:
        found = write_matrices(model)
        assert (block_count(model), hidden_size(model)) == (3, 64)
    if name == "mamba":
        assert [(matrix.name, matrix.kind) for matrix in found] == [
            (f"blk.{block}.ssm_out.weight", "mixer") for block in range(3)
        ]
        return
    expected = [(f"blk.{block}.{short}.weight", kind) for block in range(3) for short, kind in
                (("attn_output", "attention"), ("ffn_down", "mlp"))]  # fmt: skip
    assert [(matrix.name, matrix.kind) for matrix in found] == expected
    norms = ["post_attention_norm", "post_ffw_norm"] if name in {"gemma2", "gemma3", "olmo2"} else []
    assert [matrix.post_norm for matrix in found[:2]] == (
        [f"blk.0.{norm}.weight" for norm in norms] or [None, None]
    )
    assert [matrix.shape for matrix in found[:2]] == [(64, 64), (64, 128)]


def test_only_the_main_stream_counts(tmp_path: Path) -> None:
    tensors = plain(KNOWN["glm4moe"], 0) | plain(KNOWN["glm4moe"], 1)
    settings = {"block_count": 2, "nextn_predict_layers": 1}
    with write(tmp_path / "a.gguf", "glm4moe", tensors, settings) as model:
        assert {matrix.block for matrix in write_matrices(model)} == {0}


def test_companions_only_where_they_are_applied(tmp_path: Path) -> None:
    extra = {"blk.0.attn_output.bias": (32,), "blk.0.attn_output.scale": (1,), "blk.0.ffn_down.scale": (1,)}
    with write(tmp_path / "a.gguf", "llama", plain(KNOWN["llama"]) | extra) as model:
        attention, mlp, *_ = write_matrices(model)
    assert (attention.bias, attention.scale) == ("blk.0.attn_output.bias", "blk.0.attn_output.scale")
    assert (mlp.bias, mlp.scale) == (None, "blk.0.ffn_down.scale")
    with write(tmp_path / "b.gguf", "phi3", plain(KNOWN["phi3"]) | extra) as model:
        attention, mlp = write_matrices(model)
    assert (attention.bias, attention.scale, mlp.scale) == (None, "blk.0.attn_output.scale", None)


def test_grok_has_two_names_for_a_norm(tmp_path: Path) -> None:
    tensors = plain(KNOWN["grok"]) | {"blk.0.layer_output_norm.weight": (32,)}
    with write(tmp_path / "a.gguf", "grok", tensors) as model:
        assert [matrix.post_norm for matrix in write_matrices(model)][1] == "blk.0.layer_output_norm.weight"


@pytest.mark.parametrize(
    ("name", "extra", "settings", "reason"),
    [
        ("chameleon", {}, {"swin_norm": True}, "swin_norm"),
        ("nanbeige", {}, {"num_loops": 2}, "several times over"),
        ("nemotron_h", {"blk.0.ffn_latent_up.weight": (32, 8)}, {}, "latent space"),
        ("deci", {"blk.1.attn_output.weight": (32, 64)}, {"block_count": 2}, "have no MLP"),
        ("gemma4", {"blk.0.ffn_down_exps.weight": (4, 32, 64)}, {}, "three norms"),
    ],
)
def test_variants_that_are_refused(
    name: str, extra: dict[str, tuple[int, ...]], settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with (
        write(tmp_path / "a.gguf", name, plain(KNOWN[name]) | extra, settings) as model,
        pytest.raises(UnsupportedModelError, match=reason),
    ):
        write_matrices(model)


@pytest.mark.parametrize(
    ("tensors", "settings", "reason"),
    [
        ({}, {"block_count": 10**9}, "claims 1000000000 blocks"),
        ({}, {"block_count": 0}, "claims 0 blocks"),
        ({}, {"block_count": "many"}, "should be a whole number"),
        ({}, {"embedding_length": 64}, r"has the shape \(32, 64\), but the hidden size is 64"),
        ({}, {"embedding_length": 0}, "embedding_length is 0"),
        ({}, {"nextn_predict_layers": 1}, "1 of its 1 blocks"),
        ({"output.weight": (8, 32)}, {"block_count": 2}, "block 1 of 2 has no blk.1.attn_output.weight"),
        ({"blk.0.ffn_down.weight": (4, 32, 64)}, {}, "the hidden size is 32"),
        ({"blk.0.post_ffw_norm.weight": (16,)}, {}, "blk.0.post_ffw_norm.weight has the shape"),
        ({"blk.0.post_ffw_norm.weight": None}, {}, "post_ffw_norm.weight is missing"),
    ],
)
def test_lies(tensors: dict[str, Any], settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    all_tensors = plain(KNOWN["gemma3"]) | tensors
    present = {name: shape for name, shape in all_tensors.items() if shape is not None}
    with (
        write(tmp_path / "a.gguf", "gemma3", present, settings) as model,
        pytest.raises(ModelFileError, match=reason),
    ):
        write_matrices(model)


def test_unknown_and_nameless_architectures(tmp_path: Path) -> None:
    with (
        write(tmp_path / "a.gguf", "future", {}) as model,
        pytest.raises(UnsupportedModelError, match="not known to this version") as caught,
    ):
        architecture_of(model)
    assert "'future'" in str(caught.value)
    empty = tmp_path / "b.gguf"
    empty.write_bytes(b"GGUF\x03\0\0\0" + bytes(16))
    with (
        GgufFile.open(empty) as model,
        pytest.raises(ModelFileError, match="does not say which architecture"),
    ):
        architecture_of(model)


@pytest.mark.model
def test_the_demo_model() -> None:
    with GgufFile.open(resolve("demo")) as model:
        found = write_matrices(model)
    assert len(found) == 48
    assert {matrix.type.name for matrix in found} == {"Q5_0", "Q4_K", "Q6_K"}
    assert {matrix.shape for matrix in found} == {(896, 896), (896, 4864)}
