"""What a model file is, and whether this tool can harden it."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gguf
from pydantic import BaseModel, ConfigDict, field_serializer

from rosi_edge.basics.extras import NOT_TRIED, llama_cpp_is_installed
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.text import encodable, printable
from rosi_edge.errors import RosiEdgeError, UnsupportedModelError
from rosi_edge.models.architectures import (
    Kind,
    WriteMatrix,
    architecture_of,
    block_count,
    hidden_size,
    write_matrices,
)
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.digest import sha256_of_model
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import MetadataArray
from rosi_edge.models.not_a_model import not_a_model
from rosi_edge.models.open_weights import open_weights
from rosi_edge.models.seal import OWN_PREFIX, PADDING_KEY
from rosi_edge.models.trial import objection
from rosi_edge.models.weights import Weights
from rosi_edge.quantization.grid import supported_grids

_LONG = 1024
"""Metadata arrays of more values are not for people to read."""

_T = gguf.GGMLQuantizationType
EDITABLE_TYPES = frozenset(
    {_T.F32, _T.F16, _T.BF16, _T.Q4_0, _T.Q4_1, _T.Q5_0, _T.Q5_1, _T.Q8_0, _T.MXFP4}
    | {_T.Q2_K, _T.Q3_K, _T.Q4_K, _T.Q5_K, _T.Q6_K, _T.TQ1_0, _T.TQ2_0}
    | {_T.IQ1_M, _T.IQ2_S, _T.IQ3_XXS, _T.IQ3_S, _T.IQ4_NL, _T.IQ4_XS}
)
"""Types that gguf-py reads and ggml_quantize_chunk writes."""

_TYPE_REASONS = {
    **dict.fromkeys(
        (_T.IQ1_S, _T.IQ2_XXS, _T.IQ2_XS),
        "which can only be written again with importance data that the file does not hold",
    ),
    _T.NVFP4: "whose separate scales do not go together with the adapters used in the search",
}


class TypeShare(BaseModel):
    """How much of a file is stored in one type."""

    model_config = ConfigDict(frozen=True)
    tensors: int
    bytes: int


class WriteMatrixSummary(BaseModel):
    """A write matrix in words and numbers; see :class:`rosi_edge.models.architectures.WriteMatrix`."""

    model_config = ConfigDict(frozen=True)
    name: str
    block: int
    kind: Kind
    type: str
    shape: tuple[int, ...]
    post_norm: str | None


NO_TEMPLATE = "the file has no chat template, so it is a base model that does not chat"


class Inspection(BaseModel):
    """Facts about a model file.

    ``can_harden`` is false exactly when ``reasons`` is not empty. ``hardened`` holds the file's ``rosi.*``
    metadata, if there is any: whether to harden such a file again is the caller's choice.
    """

    model_config = ConfigDict(frozen=True)
    path: Path
    size: int
    """Bytes."""
    sha256: str | None
    name: str | None
    architecture: str | None
    parameters: int
    block_count: int | None
    hidden_size: int | None
    context_length: int | None
    vocabulary: int | None
    file_type: str | None
    """The name of the quantization mix, such as Q4_K_M."""
    quantization: dict[str, TypeShare]
    """By type, the largest share first."""
    chat_template: bool
    write_matrices: list[WriteMatrixSummary]
    can_harden: bool
    reasons: list[str]
    hardened: dict[str, Any] | None
    warnings: list[str]

    @field_serializer("path", when_used="json")
    def _encodable(self, path: Path) -> str:
        return encodable(str(path))

    def with_template(self) -> Inspection:
        """The same file where a chat template is given beside it."""
        reasons = [reason for reason in self.reasons if reason != NO_TEMPLATE]
        return self.model_copy(update={"reasons": reasons, "can_harden": not reasons})


def inspect(
    model: str | os.PathLike[str] | GgufFile | Checkpoint,
    *,
    with_sha256: bool = False,
    progress: Progress = SILENT,
) -> Inspection:
    """Look at a model file, or a checkpoint folder, without running it.

    Raises:
        ModelFileError: missing, unreadable or damaged.
        UnsupportedModelError: a part of a split model that is not the first. An architecture that cannot be
            hardened is not an error here but a reason in the result.
    """
    weights = nullcontext(model) if isinstance(model, (GgufFile, Checkpoint)) else open_weights(Path(model))
    with weights as gguf_file:
        digest = sha256_of_model(gguf_file, progress) if with_sha256 else None
        return _inspect(gguf_file, digest)


def _inspect(gguf_file: Weights, digest: str | None) -> Inspection:
    architecture = _soft_text(gguf_file, "general.architecture")
    reasons: list[str] = []
    warnings: list[str] = []
    matrices: list[WriteMatrix] = []
    blocks: int | None = None
    hidden: int | None = None
    template = has_chat_template(gguf_file)
    if other := not_a_model(gguf_file):
        reasons.append(other)
    else:
        try:
            if architecture_of(gguf_file).supported:
                blocks, hidden = block_count(gguf_file), hidden_size(gguf_file)
            matrices = write_matrices(gguf_file)
        except UnsupportedModelError as error:
            reasons.append(error.message)
        reasons += _reasons(matrices)
        if not reasons and isinstance(gguf_file, GgufFile):
            if not llama_cpp_is_installed():
                warnings.append(NOT_TRIED)
            elif against := objection(gguf_file):
                reasons.append(f"llama.cpp cannot load it: {against.reason}")
        if not template:
            reasons.append(NO_TEMPLATE)
    hardened = own_metadata(gguf_file)
    if hardened:
        warnings.append("this file has been hardened before")
    return Inspection(
        path=gguf_file.path,
        size=gguf_file.total_size,
        sha256=digest,
        name=_soft_text(gguf_file, "general.name"),
        architecture=architecture,
        parameters=sum(tensor.elements for tensor in gguf_file.tensors.values()),
        block_count=blocks,
        hidden_size=hidden,
        context_length=_soft_integer(gguf_file, f"{architecture}.context_length"),
        vocabulary=_vocabulary(gguf_file),
        file_type=file_type_name(gguf_file),
        quantization=_quantization(gguf_file),
        chat_template=template,
        write_matrices=[
            WriteMatrixSummary(
                name=matrix.name,
                block=matrix.block,
                kind=matrix.kind,
                type=matrix.type.name,
                shape=matrix.shape,
                post_norm=matrix.post_norm,
            )
            for matrix in matrices
        ],
        can_harden=not reasons,
        reasons=reasons,
        hardened=hardened or None,
        warnings=warnings,
    )


def require_hardenable(gguf_file: GgufFile | Checkpoint, template: str | None = None) -> list[WriteMatrix]:
    """The write matrices of a file that can be hardened.

    Args:
        template: a chat template that is given beside the file.

    Raises:
        UnsupportedModelError: it cannot; the message is the first of the reasons ``inspect`` gives.
        ModelFileError: the file contradicts itself.
    """
    inspection = inspect(gguf_file)
    if template is not None:
        inspection = inspection.with_template()
    if inspection.reasons:
        reason = inspection.reasons[0]
        or_template = ", or add --template FILE if it does" if reason == NO_TEMPLATE else ""
        raise UnsupportedModelError(reason, f"Choose another model file{or_template}")
    return write_matrices(gguf_file)


def has_chat_template(gguf_file: Weights) -> bool:
    template = gguf_file.metadata.get("tokenizer.chat_template")
    return isinstance(template, str) and bool(template.strip())


def own_metadata(gguf_file: Weights) -> dict[str, Any]:
    """The ``rosi.*`` keys of a file in plain Python values; empty for a file this tool has not written.

    The vectors of the declared edit are left out: they are for ``verify`` and a few hundred kilobytes long.
    """
    return {
        key: value.values() if isinstance(value, MetadataArray) else value
        for key, value in gguf_file.metadata.items()
        if key.startswith(OWN_PREFIX)
        and key != PADDING_KEY
        and not (isinstance(value, MetadataArray) and len(value) > _LONG)
    }


def file_type_name(gguf_file: Weights) -> str | None:
    """The name of the mix, such as Q4_K_M; None when the file does not say or the number is unknown."""
    number = _soft_integer(gguf_file, "general.file_type")
    try:
        return str(gguf.LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return None


def _reasons(matrices: list[WriteMatrix]) -> list[str]:
    reasons = []
    if scaled := next((matrix for matrix in matrices if matrix.scale), None):
        reasons.append(
            f"{scaled.scale} multiplies what {scaled.name} writes, and an adapter does not pass through it"
        )
    kinds = Counter(matrix.type for matrix in matrices if matrix.type not in EDITABLE_TYPES)
    for kind, count in kinds.items():
        why = _TYPE_REASONS.get(kind, "which cannot be read and written again")
        reasons.append(f"{count} of its write matrices are stored as {kind.name}, {why}")
    stacks = Counter(
        matrix.type
        for matrix in matrices
        if matrix.experts and matrix.type in EDITABLE_TYPES and matrix.type not in supported_grids()
    )
    for kind, count in stacks.items():
        reasons.append(
            f"{count} of its stacks of experts are stored as {kind.name}, a codebook that has no room for an "
            "edit, and a larger type would be needed for all experts of a stack"
        )
    return reasons


def _quantization(gguf_file: Weights) -> dict[str, TypeShare]:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in gguf_file.tensors.values():
        counts[tensor.type.name] += 1
        sizes[tensor.type.name] += tensor.size
    return {kind: TypeShare(tensors=counts[kind], bytes=size) for kind, size in sizes.most_common()}


def _vocabulary(gguf_file: Weights) -> int | None:
    tokens = gguf_file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, MetadataArray):
        return len(tokens)
    return _soft_integer(gguf_file, f"{gguf_file.metadata.get('general.architecture')}.vocab_size")


def _soft_text(gguf_file: Weights, key: str) -> str | None:
    """A description that is nice to have: absent when it has another type."""
    try:
        text = gguf_file.text(key)
    except RosiEdgeError:
        return None
    return printable(text) if text is not None else None


def _soft_integer(gguf_file: Weights, key: str) -> int | None:
    try:
        return gguf_file.integer(key)
    except RosiEdgeError:
        return None
