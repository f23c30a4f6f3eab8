"""A Hugging Face checkpoint folder: ``config.json`` and safetensors files, read without running anything.

Tensors are known by their GGUF names; gguf-py's own name map, which llama.cpp's converter uses, says which is
which. Format: https://github.com/huggingface/safetensors#format (eight bytes of length, JSON, data).
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Bytes
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.text import printable
from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.models.checkpoint_files import CONFIG, OWN_FACTS, SINGLE, other_files, shards
from rosi_edge.models.gguf_header import TensorInfo
from rosi_edge.models.safetensors_header import (
    DOWNLOAD_AGAIN,
    MAX_JSON_BYTES,
    StoredTensor,
    damaged_file,
    json_object,
    read_header,
)

ADAPTER = "adapter_config.json"
"""Makes transformers load other weights on top, from wherever it names."""


_MOST_BLOCKS = 1024
"""Several times those of the deepest models; gguf-py's name map grows with them."""
_STEP = 1 << 22

_T = gguf.GGMLQuantizationType
_TYPES = {"F32": _T.F32, "F16": _T.F16, "BF16": _T.BF16}

# transformers' model_type: llama.cpp's architecture. Only models whose write matrices are plain Linear
# modules that the converter takes over as they are, without turning, splitting or joining them.
ARCHITECTURES = {
    "cohere": "command-r",
    "cohere2": "cohere2",
    "exaone4": "exaone4",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "glm4": "glm4",
    "granite": "granite",
    "llama": "llama",
    "mistral": "llama",
    "nemotron": "nemotron",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "phi": "phi2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "seed_oss": "seed_oss",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}
_NORM_PLUS_ONE = frozenset(("gemma", "gemma2", "gemma3", "nemotron"))
"""Their norms multiply by 1 + weight; GGUF files hold the sum."""

_BLOCK = re.compile(r"^(.*\.(\d+))\.")


class Checkpoint:
    """An opened checkpoint folder, read only. Implements ``Weights``.

    Attributes:
        config: contents of ``config.json``.
        stored: every tensor by its name in the checkpoint, in file order.
        names: the checkpoint's name of each tensor of ``tensors``.
        files: the safetensors files, in order.
        total_size: theirs together, in bytes, when they were opened.
    """

    path: Path
    config: Mapping[str, Any]
    stored: Mapping[str, StoredTensor]
    names: Mapping[str, str]
    files: tuple[str, ...]
    total_size: int
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read the folder's settings and the headers of its safetensors files.

        Raises:
            ModelFileError: not such a folder, or a file of it is damaged.
            UnsupportedModelError: quantized weights, or a kind of model that is not covered here.
        """
        return cls(Path(path))

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / CONFIG).is_file():
            raise ModelFileError(
                f"{path} is a folder and no checkpoint: it has no {CONFIG}",
                "Give a GGUF file, or a folder that transformers can load",
            )
        other_files(path)  # Says at once what cannot be taken over.
        self.config = json_object(path / CONFIG)
        self.files = shards(path)
        stored: dict[str, StoredTensor] = {}
        for file in self.files:
            for tensor in read_header(path / file):
                if tensor.name in stored:
                    damaged_file(
                        path / file, f"it holds {tensor.name!r}, and so does {stored[tensor.name].file}"
                    )
                stored[tensor.name] = tensor
        self.stored = stored
        self.total_size = sum((path / file).stat().st_size for file in self.files)
        self._maps: dict[str, npt.NDArray[np.uint8]] = {}
        self.architecture = self._architecture()
        self.metadata = self._metadata()
        self.names, self.tensors = self._named()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; views that are still held stay valid."""
        self._maps.clear()

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        if value is None or isinstance(value, str):
            return value
        raise ModelFileError(f"{self.path.name} is damaged: {key} should be text", DOWNLOAD_AGAIN)

    def integer(self, key: str) -> int | None:
        value = self.metadata.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise ModelFileError(f"{self.path.name} is damaged: {key} should be a whole number", DOWNLOAD_AGAIN)

    def tensor_bytes(self, name: str) -> Bytes:
        """The bytes of the tensor with this GGUF name as a GGUF file would hold them, (size,).

        Raises:
            KeyError: no such tensor.
        """
        raw = self.stored_bytes(self.names[name])
        if not self._plus_one(name):
            return raw
        stored = self.stored[self.names[name]]
        return np.ascontiguousarray(to_float32(raw, stored.dtype) + np.float32(1)).view(np.uint8)

    def read_tensor(self, name: str, start: int = 0, size: int | None = None) -> Bytes:
        """A copy of the stored bytes of the tensor with this GGUF name, from ``start`` on, ``size`` of them
        or all that follow."""
        raw = self.stored_bytes(self.names[name])
        return raw[start : None if size is None else start + size].copy()

    def stored_bytes(self, name: str) -> Bytes:
        """A tensor's bytes by its name in the checkpoint: a read-only view."""
        tensor = self.stored[name]
        if tensor.file not in self._maps:
            self._maps[tensor.file] = np.memmap(self.path / tensor.file, dtype=np.uint8, mode="r")
        return self._maps[tensor.file][tensor.offset : tensor.offset + tensor.size]

    def block_name(self, tensor: str) -> str:
        """The module that is the whole block of a tensor (its GGUF name): ``model.layers.3``, say."""
        found = _BLOCK.match(self.names[tensor])
        if found is None:
            raise UnsupportedModelError(f"{self.names[tensor]} does not belong to a block")
        return found[1]

    def sha256(self, progress: Progress = SILENT) -> str:
        """SHA-256, in hexadecimal, of its safetensors files one after the other."""
        digest = hashlib.sha256()
        with progress.stage(f"Hashing {self.path.name}", self.total_size) as advance:
            for file in self.files:
                with (self.path / file).open("rb") as stream:
                    while piece := stream.read(_STEP):
                        digest.update(piece)
                        advance(len(piece))
        return digest.hexdigest()

    def settings_sha256(self) -> str:
        """SHA-256, in hexadecimal, of the files beside the weights, names included: what it answers depends
        on its settings, its template and its tokenizer as well."""
        digest = hashlib.sha256()
        for name in other_files(self.path):
            content = hashlib.sha256((self.path / name).read_bytes())
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + content.digest())
        return digest.hexdigest()

    # --- reading the folder ----------------------------------------------------------------------------

    def _architecture(self) -> str:
        if quantized := self.config.get("quantization_config"):
            method = quantized.get("quant_method") if isinstance(quantized, dict) else None
            raise UnsupportedModelError(
                f"{self.path.name} is quantized ({printable(str(method or 'in an unknown way'))[:40]})",
                "Give the full-precision checkpoint it was made from, or a GGUF file",
            )
        if "transformers_weights" in self.config:
            raise UnsupportedModelError(
                f"{self.path.name} names its weights in {CONFIG}, which is not covered",
                f"Name the file {SINGLE} and take transformers_weights out of {CONFIG}",
            )
        if (self.path / ADAPTER).exists():
            raise UnsupportedModelError(
                f"{self.path.name} is an adapter, or has one beside its weights: {ADAPTER}",
                "Merge it into the weights first (merge_and_unload of the package peft)",
            )
        kind = self.config.get("model_type")
        known = ARCHITECTURES.get(kind) if isinstance(kind, str) else None
        if known is None:
            raise UnsupportedModelError(
                f"checkpoints of the type {printable(str(kind))[:80]!r} are not covered",
                "Convert it with llama.cpp's convert_hf_to_gguf.py and give the GGUF file",
            )
        return known

    def _metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "general.architecture": self.architecture,
            "general.name": self.path.name,
        }
        for key, setting in (
            ("block_count", "num_hidden_layers"),
            ("embedding_length", "hidden_size"),
            ("context_length", "max_position_embeddings"),
            ("vocab_size", "vocab_size"),
        ):
            value = self.config.get(setting)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    damaged_file(self.path / CONFIG, f"{setting} should be a whole number above 0")
                found[f"{self.architecture}.{key}"] = value
        template = _chat_template(self.path)
        if template is not None:
            found["tokenizer.chat_template"] = template
        if (self.path / OWN_FACTS).is_file():
            own = json_object(self.path / OWN_FACTS).get("metadata")
            if not isinstance(own, dict):
                damaged_file(self.path / OWN_FACTS, "it has no metadata")
            found |= {key: value for key, value in own.items() if key.startswith("rosi.") and _plain(value)}
        return found

    def _named(self) -> tuple[dict[str, str], dict[str, TensorInfo]]:
        blocks = self.metadata.get(f"{self.architecture}.block_count", 0)
        most = min(len(self.stored), _MOST_BLOCKS)
        if not 1 <= blocks <= most:
            damaged_file(
                self.path / CONFIG, f"it claims {blocks} blocks; the tensors are enough for {most} at most"
            )
        arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture)
        translate = gguf.get_tensor_name_map(arch, blocks)
        names: dict[str, str] = {}
        tensors: dict[str, TensorInfo] = {}
        for tensor in self.stored.values():
            name = translate.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
            kind = _TYPES.get(tensor.dtype)
            if name is None or kind is None or name in names:
                continue
            names[name] = tensor.name
            size = tensor.size
            if self._plus_one(name):
                kind, size = _T.F32, 4 * math.prod(tensor.shape)
            part = self.files.index(tensor.file)
            tensors[name] = TensorInfo(name, tensor.shape, kind, tensor.offset, size, part)
        return names, tensors

    def _plus_one(self, name: str) -> bool:
        return self.architecture in _NORM_PLUS_ONE and name.endswith("_norm.weight")


def is_checkpoint(path: Path) -> bool:
    """Whether a MODEL argument means a checkpoint folder rather than a GGUF file."""
    return path.is_dir()


def to_float32(data: Bytes, dtype: str) -> npt.NDArray[np.float32]:
    """Values of a stored tensor, flat. Raises UnsupportedModelError for anything but F32, F16 and BF16."""
    if dtype == "F32":
        return data.view(np.float32)
    if dtype == "F16":
        return data.view(np.float16).astype(np.float32)
    if dtype == "BF16":
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise UnsupportedModelError(f"tensors of type {dtype} cannot be edited")


def _chat_template(path: Path) -> str | None:
    """The tokenizer's template: a file of its own, or an entry of its settings, maybe one of several."""
    alone = path / "chat_template.jinja"
    if alone.is_file() and alone.stat().st_size <= MAX_JSON_BYTES:
        return alone.read_text("utf-8", "replace")
    settings = path / "tokenizer_config.json"
    if not settings.is_file():
        return None
    template = json_object(settings).get("chat_template")
    if isinstance(template, list):
        named = [one for one in template if isinstance(one, dict) and one.get("name") == "default"]
        template = named[-1].get("template") if named else None
    return template if isinstance(template, str) and template.strip() else None


def _plain(value: object) -> bool:
    """Whether a value is one that a GGUF file could hold as metadata."""
    if isinstance(value, list):
        return all(isinstance(one, str) for one in value)
    return isinstance(value, str | bool) or (
        isinstance(value, int | float) and abs(value) < 1 << 63  # No NaN either.
    )
