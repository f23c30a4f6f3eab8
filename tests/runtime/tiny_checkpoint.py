"""Tiny random Hugging Face checkpoints, and the same weights as GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from tiny_gguf import CHATML, SPECIAL_TOKENS, quantize

from rosi_edge.basics.arrays import Float32
from rosi_edge.models.checkpoint import Checkpoint, to_float32

HIDDEN, HEADS, KV_HEADS, BLOCKS, FEED_FORWARD = 64, 4, 2, 3, 128
TEXT = "What is the heart of a tree? Name the things that float in the air, and say why they do not fall."


def write_checkpoint(
    folder: Path,
    model_type: str,
    *,
    dtype: str = "float32",
    shard: str = "1GB",
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Save a random model with a byte-level tokenizer as transformers does."""
    import torch
    import transformers

    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 512,
        # Larger than usual, so that every block has something to say.
        "initializer_range": 0.15,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.AutoConfig.for_model(model_type, **(settings | changes))
    model = transformers.AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith(".bias"):
                # Ones and zeros would hide whether gains and biases are taken into account.
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def _tokenizer() -> Any:
    import tokenizers
    import transformers

    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([TEXT] * 4, trainer)
    end_of_text, _, end_of_turn = SPECIAL_TOKENS
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token=end_of_text, eos_token=end_of_turn, pad_token=end_of_text
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def convert(folder: Path, path: Path, kind: GGMLQuantizationType) -> Path:
    """The checkpoint as GGUF, as llama.cpp's converter does it for the llama and qwen2 families."""
    with Checkpoint.open(folder) as checkpoint:
        architecture = checkpoint.architecture
        config = checkpoint.config
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_block_count(BLOCKS)
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(HIDDEN)
        writer.add_feed_forward_length(FEED_FORWARD)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
        writer.add_vocab_size(config["vocab_size"])
        _add_tokenizer(writer, folder)
        for name in checkpoint.names:
            stored = checkpoint.stored[checkpoint.names[name]]
            weights = to_float32(checkpoint.stored_bytes(stored.name), stored.dtype).reshape(stored.shape)
            if architecture == "llama" and "attn_q" in name:
                weights = _permuted(weights, HEADS)
            elif architecture == "llama" and "attn_k" in name:
                weights = _permuted(weights, KV_HEADS)
            stored_as = kind if weights.ndim == 2 else GGMLQuantizationType.F32
            if stored_as == GGMLQuantizationType.F16:
                writer.add_tensor(name, weights.astype(np.float16))
            else:
                writer.add_tensor(name, quantize(weights, stored_as), raw_dtype=stored_as)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _permuted(weights: Float32, heads: int) -> Float32:
    """llama.cpp rotates neighbouring dimensions, transformers the halves of a head."""
    shape = weights.shape
    halves = weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(shape))


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    tokens = sorted(model["vocab"], key=lambda token: int(model["vocab"][token]))
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in SPECIAL_TOKENS else normal for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(tokens.index(SPECIAL_TOKENS[0]))
    writer.add_eos_token_id(tokens.index(SPECIAL_TOKENS[2]))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
