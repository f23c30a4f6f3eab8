"""Which tensors of a file write to the residual stream.

The knowledge itself is data, ``architectures.json``; this module puts it to a file's tensors and refuses
what it does not fit.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, NoReturn

import gguf
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rosi_edge.basics.text import printable
from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.models.gguf_header import TensorInfo
from rosi_edge.models.not_a_model import not_a_model
from rosi_edge.models.weights import Weights

Companion = Literal["bias", "scale", "scale_before_adapters"]
"""A tensor beside a write matrix that the graph applies to its output; the last one multiplies what the
matrix wrote, but not what a LoRA adapter adds to it."""

Kind = Literal["attention", "mixer", "mlp", "embedding"]
"""The sublayer that a write matrix ends: attention, what stands in its place (state space, convolution,
RWKV's time mixing), the MLP, or a per-layer embedding."""

_DAMAGED = "Download the file again"


@dataclass(frozen=True, slots=True)
class WriteMatrix:
    """A tensor whose output is added to the residual stream.

    ``shape`` is (hidden size, input size), or (experts, hidden size, input size) for stacked experts.
    ``experts`` is 0 for a single matrix. ``post_norm``, ``bias`` and ``scale`` name the tensors of the file,
    None where there is none: a norm between the matrix and the addition, a bias, and a multiplier of the
    output, each only if llama.cpp applies it. ``scale_before_adapters``: that multiplier leaves out what a
    LoRA adapter adds.
    """

    name: str
    block: int
    kind: Kind
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    post_norm: str | None = None
    bias: str | None = None
    scale: str | None = None
    experts: int = 0
    scale_before_adapters: bool = False

    @property
    def parts(self) -> Sequence[int | None]:
        """Its matrices, as ``RankOneEdit.expert`` names them."""
        return range(self.experts) if self.experts else (None,)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MatrixKind(_Frozen):
    """What the tensors ``blk.{i}.NAME.weight`` are, in every architecture that has them."""

    kind: Kind
    dimensions: Literal[2, 3]


class Refusal(_Frozen):
    """A property of a file for which a supported architecture is refused; one of the first three."""

    tensor: str | None = None
    """Refused when any block has it."""
    missing_in_any_block: str | None = None
    metadata: str | None = None
    """Refused when true, or a number above ``above``."""
    above: int = 0
    reason: str

    @property
    def condition(self) -> str:
        """When it applies, in words."""
        if self.tensor is not None:
            return f"a block has {self.tensor.format(i='N')}"
        if self.missing_in_any_block is not None:
            return f"a block lacks {self.missing_in_any_block.format(i='N')}"
        return f"{self.metadata} is true" if self.above == 0 else f"{self.metadata} is above {self.above}"

    def applies(self, gguf_file: Weights, blocks: int) -> bool:
        if self.tensor is not None:
            return any(self.tensor.format(i=block) in gguf_file.tensors for block in range(blocks))
        if self.missing_in_any_block is not None:
            name = self.missing_in_any_block
            return any(name.format(i=block) not in gguf_file.tensors for block in range(blocks))
        value = gguf_file.metadata.get(self.metadata or "")
        return isinstance(value, (bool, int)) and value > self.above


class Architecture(_Frozen):
    """What is known of one of llama.cpp's architectures."""

    name: str
    refused: str | None = None
    """Why this tool does not edit it, in words that follow its name."""
    writes: dict[str, tuple[Companion, ...]] = Field(default_factory=dict)
    """For each write matrix, by its short name, the companion tensors that the graph applies."""
    post_norm: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    stream: str = "l_out-{i}"
    parallel: Literal["always", "sometimes"] | None = None
    residual_scale: str | None = None
    last_block: Literal["all rows"] | None = None
    refused_if: tuple[Refusal, ...] = ()
    note: str = ""

    @model_validator(mode="after")
    def _coherent(self) -> Architecture:
        if bool(self.refused) == bool(self.writes):
            raise ValueError(f"{self.name}: either write matrices or a reason to refuse")
        if self.post_norm and set(self.post_norm) != set(self.writes):
            raise ValueError(f"{self.name}: a norm for every write matrix or for none")
        return self

    @property
    def supported(self) -> bool:
        return self.refused is None

    def stream_name(self, block: int) -> str:
        """The graph's name for the residual stream after ``block``."""
        return self.stream.format(i=block)


class _Table(_Frozen):
    about: list[str]
    stream: str
    matrices: dict[str, MatrixKind]
    architectures: dict[str, Architecture]

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: dict[str, dict[str, dict[str, object]]]) -> dict[str, object]:
        entries = data["architectures"]
        filled = {name: {"name": name, "stream": data["stream"]} | entry for name, entry in entries.items()}
        return {**data, "architectures": filled}

    @model_validator(mode="after")
    def _known_matrices(self) -> _Table:
        for architecture in self.architectures.values():
            if unknown := set(architecture.writes) - set(self.matrices):
                raise ValueError(f"{architecture.name}: unknown matrices {unknown}")
        return self


@functools.cache
def table() -> _Table:
    """The contents of ``architectures.json``, checked."""
    text = resources.files("rosi_edge.models").joinpath("architectures.json").read_text("utf-8")
    return _Table.model_validate(json.loads(text))


def known_architectures() -> dict[str, Architecture]:
    """Every architecture of llama.cpp by name, the refused ones too."""
    return dict(table().architectures)


def architecture_of(gguf_file: Weights) -> Architecture:
    """What is known of the file's architecture; it may be one that is refused.

    Raises:
        ModelFileError: the file does not name its architecture.
        UnsupportedModelError: a name this tool has never heard of.
    """
    name = gguf_file.text("general.architecture")
    if not name:
        raise ModelFileError(f"{gguf_file.path.name} does not say which architecture it has", _DAMAGED)
    known = table().architectures.get(name)
    if known is None:
        raise UnsupportedModelError(
            f"the architecture {name[:80]!r} is not known to this version",
            "Update rosi-edge, or choose another model",
        )
    return known


def hidden_size(gguf_file: Weights) -> int:
    """The width of the residual stream. Raises ModelFileError when the file gives none or an absurd one."""
    size = _setting(gguf_file, "embedding_length")
    if size is None or not 1 <= size < 1 << 31:
        _damaged(gguf_file, f"its embedding_length is {size}")
    return size


def block_count(gguf_file: Weights) -> int:
    """The blocks of the main stream; trailing blocks that predict further tokens are not counted.

    Raises:
        ModelFileError: the file does not say, or claims more blocks than its tensors can be.
    """
    blocks = _setting(gguf_file, "block_count")
    if blocks is None or blocks < 1 or blocks > len(gguf_file.tensors):
        _damaged(gguf_file, f"it claims {blocks} blocks and holds {len(gguf_file.tensors)} tensors")
    ahead = _setting(gguf_file, "nextn_predict_layers") or 0
    if not 0 <= ahead < blocks:
        _damaged(gguf_file, f"{ahead} of its {blocks} blocks are said to predict further tokens")
    return blocks - ahead


def write_matrices(gguf_file: Weights) -> list[WriteMatrix]:
    """The file's write matrices, block by block, attention before MLP.

    Raises:
        UnsupportedModelError: it is no model, or the architecture, or this variant of it, is refused; the
            message says why.
        ModelFileError: the settings contradict the tensors, or a block has no write matrix at all.
    """
    architecture = architecture_of(gguf_file)
    if architecture.refused is not None:
        _refuse(architecture, architecture.refused)
    if other := not_a_model(gguf_file):
        raise UnsupportedModelError(other, "Give a whole model")
    hidden, blocks = hidden_size(gguf_file), block_count(gguf_file)
    for refusal in architecture.refused_if:
        if refusal.applies(gguf_file, blocks):
            _refuse(architecture, refusal.reason)
    found: list[WriteMatrix] = []
    for block in range(blocks):
        in_block = [
            _write_matrix(gguf_file, architecture, short, block, tensor, hidden)
            for short in architecture.writes
            if (tensor := gguf_file.tensors.get(f"blk.{block}.{short}.weight")) is not None
        ]
        if not in_block:
            expected = " or ".join(f"blk.{block}.{short}.weight" for short in architecture.writes)
            _damaged(gguf_file, f"block {block} of {blocks} has no {expected}")
        found += in_block
    return found


def expert_counts(matrices: Sequence[WriteMatrix]) -> dict[str, int]:
    """How many matrices each stack of experts holds, by its name."""
    return {matrix.name: matrix.experts for matrix in matrices if matrix.experts}


def _write_matrix(
    gguf_file: Weights, architecture: Architecture, short: str, block: int, tensor: TensorInfo, hidden: int
) -> WriteMatrix:
    matrix = table().matrices[short]
    if len(tensor.shape) != matrix.dimensions or tensor.shape[-2] != hidden:
        _damaged(gguf_file, f"{tensor.name} has the shape {tensor.shape}, but the hidden size is {hidden}")

    def companion(*kinds: Companion) -> str | None:
        name = f"blk.{block}.{short}.{kinds[0]}"
        applied = any(kind in architecture.writes[short] for kind in kinds)
        return name if applied and name in gguf_file.tensors else None

    scale = companion("scale", "scale_before_adapters")

    return WriteMatrix(
        name=tensor.name,
        block=block,
        kind=matrix.kind,
        shape=tensor.shape,
        type=tensor.type,
        post_norm=_post_norm(gguf_file, architecture, short, block, hidden),
        bias=companion("bias"),
        scale=scale,
        experts=tensor.shape[0] if matrix.dimensions == 3 else 0,
        scale_before_adapters=scale is not None and "scale_before_adapters" in architecture.writes[short],
    )


def _post_norm(
    gguf_file: Weights, architecture: Architecture, short: str, block: int, hidden: int
) -> str | None:
    if short not in architecture.post_norm:
        return None
    names = [f"blk.{block}.{name}" for name in architecture.post_norm[short]]
    norm = next((gguf_file.tensors[name] for name in names if name in gguf_file.tensors), None)
    if norm is None:
        _damaged(gguf_file, f"{' or '.join(names)} is missing")
    if norm.shape != (hidden,):
        _damaged(gguf_file, f"{norm.name} has the shape {norm.shape}, but the hidden size is {hidden}")
    return norm.name


def _setting(gguf_file: Weights, key: str) -> int | None:
    return gguf_file.integer(f"{gguf_file.text('general.architecture')}.{key}")


def _refuse(architecture: Architecture, reason: str) -> NoReturn:
    raise UnsupportedModelError(
        f"models of the architecture {architecture.name} cannot be hardened: {reason}", "Choose another model"
    )


def _damaged(gguf_file: Weights, what: str) -> NoReturn:
    raise ModelFileError(f"{gguf_file.path.name} contradicts itself: {printable(what)}", _DAMAGED)
