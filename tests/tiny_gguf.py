"""Writes tiny random models that llama.cpp really loads.

Good for structure (shapes, taps, adapters, rewriting), useless for behaviour: the weights are noise.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MERGES = ("t h", "th e", "i n", "a n", "Ġ t", "Ġ a", "e r", "o n", "r e", "h e", "s t", "e n", "a t", "o r")


@dataclass(frozen=True)
class Shape:
    """What differs from one architecture to the next."""

    pre_norms: bool = True
    post_norms: bool = False
    head_norms: bool = False
    wide_head_norms: bool = False
    """Norms over all heads at once instead of each."""
    query_bias: bool = False
    output: bool = False
    """Needs an output matrix of its own."""
    settings: tuple[tuple[str, float | int], ...] = ()


ARCHITECTURES: dict[str, Shape] = {
    "llama": Shape(),
    "qwen2": Shape(query_bias=True),
    "qwen3": Shape(head_norms=True),
    "gemma": Shape(),
    "gemma2": Shape(post_norms=True, settings=(("attention.sliding_window", 4096),)),
    "gemma3": Shape(post_norms=True, head_norms=True, settings=(("attention.sliding_window", 512),)),
    "granite": Shape(settings=(("logit_scale", 8.0), ("residual_scale", 0.22), ("embedding_scale", 12.0))),
    "olmo2": Shape(pre_norms=False, post_norms=True, wide_head_norms=True, output=True),
    "mamba": Shape(),
}


def write_tiny_llama(
    path: Path,
    *,
    architecture: str = "llama",
    layers: int = 2,
    hidden: int = 64,
    feed_forward: int = 128,
    heads: int = 4,
    heads_kv: int | None = None,
    experts: int = 0,
    types: GGMLQuantizationType | Mapping[str, GGMLQuantizationType] = GGMLQuantizationType.F32,
    chat_template: str | None = CHATML,
    seed: int = 0,
    vocabulary: int = 320,
    context: int = 512,
    alignment: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    change: Callable[[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]] | None = None,
) -> Path:
    """Write a model with random weights and a byte-level tokenizer.

    Args:
        architecture: one of ``ARCHITECTURES``.
        types: a type for every matrix, or types by the short name (``ffn_down``, ``token_embd``), F32 for the
            others. K-quants need rows of a multiple of 256 values.
        experts: more than 0 makes the MLP a mixture (llama only).
        metadata: extra keys (str, bool, int, float or list).
        change: may alter the weights of a tensor before they are quantized.
    """
    shape = ARCHITECTURES[architecture]
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_type("model")
    writer.add_name(f"Tiny {architecture}")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(feed_forward)
    writer.add_layer_norm_rms_eps(1e-5)
    if architecture == "mamba":
        writer.add_head_count(0)
        for key, number in {
            "conv_kernel": 4,
            "inner_size": 2 * hidden,
            "state_size": 8,
            "time_step_rank": 8,
        }.items():
            writer.add_uint32(f"mamba.ssm.{key}", number)
    else:
        writer.add_head_count(heads)
        writer.add_head_count_kv(heads_kv or heads)
    if architecture.startswith("gemma"):
        writer.add_key_length(hidden // heads)
        writer.add_value_length(hidden // heads)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(min(2, experts))
    for key, value in shape.settings:
        if isinstance(value, int):
            writer.add_uint32(f"{architecture}.{key}", value)
        else:
            writer.add_float32(f"{architecture}.{key}", value)
    _add_tokenizer(writer, vocabulary, chat_template)
    for key, value in (metadata or {}).items():
        _add_value(writer, key, value)

    def add(name: str, *extents: int, spread: float | None = None, around: float = 0.0) -> None:
        scale = extents[-1] ** -0.5 if spread is None else spread
        weights = (around + scale * random.standard_normal(extents)).astype(np.float32)
        if change is not None:
            weights = np.ascontiguousarray(change(name, weights), dtype=np.float32)
        short = name.removesuffix(".weight").rpartition(".")[2]
        kind = types.get(short, GGMLQuantizationType.F32) if isinstance(types, Mapping) else types
        # As in real files: vectors stay in full precision, and so do state-space parameters.
        if len(extents) == 1 or short in {"ssm_conv1d", "ssm_a", "ffn_gate_inp"}:
            kind = GGMLQuantizationType.F32
        writer.add_tensor(name, quantize(weights, kind), raw_dtype=kind)

    def norm(name: str, size: int) -> None:
        add(name, size, spread=0.1, around=1.0)

    add("token_embd.weight", vocabulary, hidden, spread=1.0 / hidden**0.5)
    norm("output_norm.weight", hidden)
    if shape.output:
        add("output.weight", vocabulary, hidden)
    head = hidden // heads
    width_kv = head * (heads_kv or heads)
    for block in range(layers):
        prefix = f"blk.{block}"
        if architecture == "mamba":
            norm(f"{prefix}.attn_norm.weight", hidden)
            inner = 2 * hidden
            add(f"{prefix}.ssm_in.weight", 2 * inner, hidden)
            add(f"{prefix}.ssm_conv1d.weight", inner, 4)
            add(f"{prefix}.ssm_conv1d.bias", inner, spread=0.1)
            add(f"{prefix}.ssm_x.weight", 8 + 2 * 8, inner)
            add(f"{prefix}.ssm_dt.weight", inner, 8)
            add(f"{prefix}.ssm_dt.bias", inner, spread=0.1)
            add(f"{prefix}.ssm_a", inner, 8, spread=0.1, around=-1.0)
            add(f"{prefix}.ssm_d", inner, spread=0.1, around=1.0)
            add(f"{prefix}.ssm_out.weight", hidden, inner)
            continue
        if shape.pre_norms:
            norm(f"{prefix}.attn_norm.weight", hidden)
        for part, width in (("q", hidden), ("k", width_kv), ("v", width_kv)):
            add(f"{prefix}.attn_{part}.weight", width, hidden)
            if shape.query_bias:
                add(f"{prefix}.attn_{part}.bias", width, spread=0.1)
        if shape.head_norms or shape.wide_head_norms:
            norm(f"{prefix}.attn_q_norm.weight", hidden if shape.wide_head_norms else head)
            norm(f"{prefix}.attn_k_norm.weight", width_kv if shape.wide_head_norms else head)
        add(f"{prefix}.attn_output.weight", hidden, hidden)
        if shape.post_norms:
            norm(f"{prefix}.post_attention_norm.weight", hidden)
        if shape.pre_norms:
            norm(f"{prefix}.ffn_norm.weight", hidden)
        if experts:
            add(f"{prefix}.ffn_gate_inp.weight", experts, hidden)
            add(f"{prefix}.ffn_gate_exps.weight", experts, feed_forward, hidden)
            add(f"{prefix}.ffn_up_exps.weight", experts, feed_forward, hidden)
            add(f"{prefix}.ffn_down_exps.weight", experts, hidden, feed_forward)
        else:
            add(f"{prefix}.ffn_gate.weight", feed_forward, hidden)
            add(f"{prefix}.ffn_up.weight", feed_forward, hidden)
            add(f"{prefix}.ffn_down.weight", hidden, feed_forward)
        if shape.post_norms:
            norm(f"{prefix}.post_ffw_norm.weight", hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantize(weights: npt.NDArray[np.float32], kind: GGMLQuantizationType) -> npt.NDArray[Any]:
    """The weights as stored in ``kind``: by gguf-py where it can, by ggml otherwise."""
    if kind == GGMLQuantizationType.F32:
        return weights
    try:
        return gguf.quants.quantize(weights, kind)
    except NotImplementedError:
        columns = weights.shape[-1]
        rows = weights.size // columns
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        stored = np.empty((*weights.shape[:-1], columns // block * block_bytes), dtype=np.uint8)
        written = _ggml().ggml_quantize_chunk(
            int(kind), weights.ctypes.data, stored.ctypes.data, 0, rows, columns, None
        )
        assert written == stored.nbytes
        return stored


@functools.cache
def _ggml() -> ctypes.CDLL:
    import llama_cpp

    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base.*"))))
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int, chat_template: str | None) -> None:
    merged = ["".join(merge.split()) for merge in _MERGES]
    tokens = [*_byte_tokens(), *merged, *SPECIAL_TOKENS]
    if vocabulary < len(tokens):
        raise ValueError(f"at least {len(tokens)} tokens are needed")
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL_TOKENS))
    kinds += [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
    kinds += [gguf.TokenType.UNUSED] * (vocabulary - len(tokens))
    tokens += [f"<unused{number}>" for number in range(vocabulary - len(tokens))]
    end_of_text, _, end_of_turn = (tokens.index(token) for token in SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(list(_MERGES))
    writer.add_bos_token_id(end_of_text)
    writer.add_eos_token_id(end_of_turn)
    writer.add_add_bos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _byte_tokens() -> list[str]:
    """GPT-2's printable stand-in for every byte, in byte order."""
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def _add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    adders: list[tuple[type, Callable[[str, Any], None]]] = [
        (str, writer.add_string),
        (bool, writer.add_bool),
        (int, writer.add_uint32),
        (float, writer.add_float32),
        (list, writer.add_array),
    ]
    next(add for kind, add in adders if isinstance(value, kind))(key, value)
