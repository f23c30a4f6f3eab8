"""GGUF files that are sound and hold something other than a language model."""

from __future__ import annotations

from rosi_edge.errors import RosiEdgeError
from rosi_edge.models.weights import Weights

_BY_TYPE = {
    "adapter": "this is an adapter (LoRA), not a model; give the model it belongs to",
    "mmproj": "this is an image or audio projector, not a chat model; give the language model beside it",
    "imatrix": "this is an importance matrix, not a model",
}
_BY_ARCHITECTURE = {
    "clip": _BY_TYPE["mmproj"],
    "controlvector": "this is a control vector, not a model",
}


def not_a_model(weights: Weights) -> str | None:
    """What the file is instead of a whole model, in words; None when it looks like one."""
    architecture = _text(weights, "general.architecture")
    for table, name in ((_BY_TYPE, _text(weights, "general.type")), (_BY_ARCHITECTURE, architecture)):
        if name in table:
            return table[name]
    if not weights.tensors:
        return "the file holds a vocabulary and no weights"
    # Adapters of before general.type was written.
    if all(name.endswith((".lora_a", ".lora_b", ".loraA", ".loraB")) for name in weights.tensors):
        return _BY_TYPE["adapter"]
    blocks = weights.metadata.get(f"{architecture}.block_count")
    ahead = weights.metadata.get(f"{architecture}.nextn_predict_layers")
    if isinstance(blocks, int) and isinstance(ahead, int) and 0 < ahead < blocks:
        held = {name.split(".")[1] for name in weights.tensors if name.startswith("blk.")}
        if held and held <= {str(block) for block in range(max(0, blocks - min(ahead, 64)), blocks)}:
            return (
                "the file holds only the blocks that predict further tokens (MTP), a draft for another file; "
                "give the model it belongs to"
            )
    return None


def _text(weights: Weights, key: str) -> str | None:
    try:
        return weights.text(key)
    except RosiEdgeError:
        return None
