"""Settings under which llama.cpp loads a tiny model of each architecture.

They follow llama.cpp's own ``tests/test-llama-archs.cpp`` (MIT licence), which builds a random model of
nearly every architecture: one pile of settings, most of which an architecture ignores, and what some need
otherwise.
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 128

_MIXTURE_ONLY = frozenset(
    [
        "llama4",
        "cohere2moe",
        "grok",
        "qwen2moe",
        "qwen3moe",
        "qwen3next",
        "qwen3vlmoe",
        "qwen35moe",
        "phimoe",
        "dbrx",
        "olmoe",
        "arctic",
        "deepseek",
        "deepseek2",
        "deepseek2-ocr",
        "deepseek32",
        "dots3note",
        "glm4moe",
        "glm-dsa",
        "exaone-moe",
        "bailingmoe",
        "bailingmoe2",
        "dots1",
        "afmoe",
        "ernie4_5-moe",
        "hunyuan-moe",
        "hy_v3",
        "gpt-oss",
        "lfm2moe",
        "smallthinker",
        "grovemoe",
        "minimax-m2",
        "minimax-m3",
        "mimo2",
        "mistral4",
        "mellum",
        "laguna",
        "maple",
        "granitemoe",
        "nemotron_h_moe",
        "jamba",
    ]
)
_BOTH = frozenset(["llama", "minicpm", "granite", "mistral3"])
_SLIDING_BY_LAYER = frozenset(
    ["cohere2moe", "mimo2", "spark2_5", "muse-glimmer", "granite_swa", "dots3note", "maple", "gemma4"]
)
_HYBRID = frozenset(["plamo2", "jamba", "nemotron_h", "nemotron_h_moe", "granitehybrid", "lfm2", "lfm2moe"])
_LATENT = frozenset(["deepseek2", "deepseek32", "glm-dsa", "dots3note", "mistral4"])
_QWEN_RWKV = frozenset(("rwkv6qwen2", "arwkv7"))


def variants(architecture: str) -> tuple[bool, ...]:
    """Whether to build it with experts: one or both of False and True."""
    if architecture in _MIXTURE_ONLY:
        return (True,)
    return (False, True) if architecture in _BOTH else (False,)


def settings(architecture: str, *, experts: bool) -> dict[str, Any]:
    """The metadata of a tiny model, keys without the architecture's prefix (``xielu.*`` has none)."""
    hidden, heads, feed_forward, layers = 256, 2, 384, 2
    if architecture == "llama4":
        layers = 4
    elif architecture == "gemma4":
        hidden, feed_forward, layers = 128, 192, 5
    elif architecture in _LATENT:
        hidden, heads, feed_forward = 128, 1, 192
    elif architecture.startswith("nemotron_h"):
        layers = 3
    elif architecture in ("qwen3", "muse-glimmer", "afmoe"):
        heads = 4
    heads_kv = {"qwen3": 1, "muse-glimmer": 2, "afmoe": 2}.get(architecture, heads)
    head = hidden // heads
    # The last block of a hybrid's pair is the recurrent one.
    by_layer = [0 if layer == 1 else heads for layer in range(layers)]
    found: dict[str, Any] = {
        "vocab_size": VOCABULARY if architecture != "chameleon" else 10240,
        "context_length": 256,
        "embedding_length": hidden,
        "features_length": hidden,
        "block_count": layers,
        "leading_dense_block_count": 1,
        "feed_forward_length": feed_forward,
        "use_parallel_residual": False,
        "logit_scale": 1.0,
        "time_mix_extra_dim": 64,
        "time_decay_extra_dim": 128,
        "full_attention_interval": 2,
        "attention.head_count": by_layer if architecture in _HYBRID else heads,
        "attention.head_count_kv": by_layer if architecture in _HYBRID else heads_kv,
        "attention.max_alibi_bias": 8.0,
        "attention.clamp_kqv": 1.0,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.group_norm_epsilon": 1e-5,
        "attention.group_norm_groups": 8,
        "attention.q_lora_rank": 512,
        "attention.kv_lora_rank": 512,
        "attention.relative_buckets_count": 8,
        "attention.sliding_window": 32,
        "attention.sliding_window_pattern": 2,
        "attention.indexer.head_count": heads if architecture == "minimax-m3" else 64,
        "attention.indexer.key_length": 128,
        "attention.indexer.top_k": 131072,
        "attention.indexer.block_size": 4,
        "attention.indexer.local_blocks": 1,
        "rope.dimension_sections": [head // 4] * 4,
        "xielu.alpha_n": [1.0] * layers,
        "xielu.alpha_p": [1.0] * layers,
        "xielu.beta": [1.0] * layers,
        "xielu.eps": [1e-7] * layers,
        "ssm.inner_size": 256 if architecture.startswith(("qwen3next", "qwen35")) else 2 * hidden,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 128,
        "ssm.time_step_rank": heads,
        "ssm.group_count": 0 if architecture == "plamo2" else 2,
        "kda.head_dim": 128,
        "wkv.head_size": head,
        "shortconv.l_cache": 3,
        "residual_scale": 3.5565588200778455,
        "token_shift_count": 1 if architecture in _QWEN_RWKV else 2,
        "attention.decay_lora_rank": 32,
        "attention.iclr_lora_rank": 32,
        "attention.value_residual_mix_lora_rank": 32,
        "attention.gate_lora_rank": 32,
    }
    if architecture in _SLIDING_BY_LAYER:
        found["attention.sliding_window_pattern"] = [layer % 2 for layer in range(layers)]
    if architecture.startswith("nemotron_h"):
        found["feed_forward_length"] = [0 if layer <= 1 else feed_forward for layer in range(layers)]
    if architecture in _LATENT:
        found |= {
            "attention.key_length": 576,
            "attention.value_length": 512,
            "rope.dimension_count": 64,
            "attention.key_length_mla": 192,
            "attention.value_length_mla": 128,
        }
    if architecture == "dots3note":
        found |= {
            "attention.kv_lora_rank_swa": 512,
            "attention.key_length_swa": 576,
            "attention.value_length_swa": 512,
            "attention.key_length_mla_swa": 192,
            "attention.value_length_mla_swa": 128,
            "rope.freq_base_swa": 10000.0,
            "attention.indexer.types": [1 - layer % 2 for layer in range(layers)],
        }
    if architecture == "minimax-m3":
        found["rope.dimension_count"] = 64
    if architecture == "plm":
        found |= {"attention.key_length": 192, "attention.value_length": 128, "rope.dimension_count": 64}
    if architecture == "gemma4":
        found |= {
            "embedding_length_per_layer_input": hidden // 2,
            "attention.shared_kv_layers": 0,
            "attention.key_length_swa": head,
            "attention.value_length_swa": head,
            "rope.freq_base_swa": 10000.0,
            "attention.sliding_window_pattern": [int(layer != layers - 1) for layer in range(layers)],
        }
    if architecture == "maple":
        found["swiglu_clamp_exp"] = 7.0
    if experts:
        found |= {
            "expert_feed_forward_length": feed_forward,
            "expert_shared_feed_forward_length": feed_forward // 2,
            "expert_latent_length": feed_forward,
            "interleave_moe_layer_step": 2,
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_shared_count": 1,
            "expert_gating_func": 2,
            "expert_group_scale": 1.0,
            "experts_per_group": 1,
        }
    return found


def left_out(architecture: str, name: str) -> bool:
    """Optional tensors that llama.cpp would take, but that no real file has together with the others."""
    if architecture == "nemotron_h_moe":
        # With them the architecture is refused (``refused_if``).
        return "ffn_latent" in name
    if architecture == "rwkv6qwen2":
        # Its presence is what tells llama.cpp that the file is the other kind of RWKV 6.
        return "time_mix_first" in name
    if architecture in ("hy_v3", "mimo2"):
        # A block is dense or a mixture: the first one dense, as in the real files.
        mixture = "_exp" in name or "_shexp" in name or "ffn_gate_inp" in name
        dense = any(f".{short}." in name for short in ("ffn_gate", "ffn_up", "ffn_down"))
        return mixture if name.startswith("blk.0.") else dense
    return False
