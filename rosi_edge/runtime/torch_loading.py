"""Loads a checkpoint folder with transformers, obeying none of its code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rosi_edge.basics.text import printable
from rosi_edge.errors import EngineError, ModelFileError
from rosi_edge.models.checkpoint import Checkpoint

try:
    import torch
    import transformers
except ImportError:
    torch = None
    transformers = None
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_NOT_OBEYED = frozenset(
    (
        # Code: classes in files of the folder, and kernels that are fetched from wherever they are named.
        "auto_map",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
        # Gives any other key the meaning of one of these.
        "attribute_map",
        # Without it a model answers with a bare tuple.
        "return_dict",
        "use_return_dict",
        # Tables of any size, for classifiers.
        "num_labels",
        "id2label",
        "label2id",
    )
)
"""Keys of config.json that no chat model needs."""


def device_for(gpu_layers: int) -> Any:
    if gpu_layers == 0:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    raise EngineError("torch finds no GPU here", "Leave out -ngl, or install a torch with CUDA")


def load_model(checkpoint: Checkpoint, device: Any) -> Any:
    path = checkpoint.path
    # Progress is this tool's to show.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    dtype: Any = torch.float32 if device.type == "cpu" else "auto"
    try:
        config = _config(checkpoint)
        _require_size(checkpoint, config)
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            str(path),
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        end_tokens(model, None)
    except ModelFileError:
        raise
    except Exception as error:  # each check of a setting raises its own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFileError(
            f"transformers cannot load {path}: {first.rstrip('.')}", "Check the folder, or download it again"
        ) from error
    # What is missing or has another shape has been filled with random numbers.
    for what, names in (
        ("it lacks", loaded["missing_keys"]),
        ("its settings want another shape of", (entry[0] for entry in loaded["mismatched_keys"])),
    ):
        if name := min(names, default=None):
            raise ModelFileError(f"{path} is damaged: {what} {printable(str(name))}", "Download it again")
    return model.to(device).eval()


def _config(checkpoint: Checkpoint) -> Any:
    """The folder's settings, without those that make transformers load anything but this folder's weights."""
    settings = {key: value for key, value in checkpoint.config.items() if key not in _NOT_OBEYED}
    config = type(transformers.AutoConfig.for_model(settings["model_type"])).from_dict(settings)
    # However they came there.
    config._attn_implementation_internal = config._experts_implementation_internal = None
    return config


def _require_size(checkpoint: Checkpoint, config: Any) -> None:
    """Raise ModelFileError for settings of a much larger model than the files hold: what they lack would be
    made up, and take memory, before it is missed."""
    with torch.device("meta"):
        described = transformers.AutoModelForCausalLM.from_config(config)
    # Buffers, too: tables of rotations, say.
    wanted = sum(values.numel() for values in (*described.parameters(), *described.buffers()))
    held = sum(math.prod(tensor.shape) for tensor in checkpoint.stored.values())
    if wanted > 2 * held:
        raise ModelFileError(
            f"{checkpoint.path} is damaged: its settings are those of a model of {wanted / 1e6:,.1f} million "
            f"weights, and its files hold {held / 1e6:,.1f}",
            "Download it again",
        )


def load_tokenizer(path: Path, config: Any) -> Any:
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        # transformers makes up an empty one.
        raise ModelFileError(
            f"{path} has no tokenizer",
            "The folder needs tokenizer.json, or tokenizer.model and sentencepiece",
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(path), config=config, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # each tokenizer class raises its own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFileError(
            f"the tokenizer of {path} cannot be loaded: {first.rstrip('.')}",
            "The folder needs tokenizer.json, or tokenizer.model and the package sentencepiece",
        ) from error


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    for source in (model.generation_config, model.config, tokenizer):
        ends = getattr(source, "eos_token_id", None)
        if ends is not None:
            found.update(int(end) for end in (ends if isinstance(ends, list) else [ends]))
    return frozenset(found)
