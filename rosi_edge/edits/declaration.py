"""What a hardened file says was done to it, in its own metadata: enough to check it against its base.

Every edit is declared whole, its output and its input vector, so that the file can be compared with what it
claims, and the exact adapter of the edit can be written from it at any time. For each edited tensor there
are two hashes: of the bytes it came from and of the bytes it has. A few hundred kilobytes in all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.edits.rank_one import MOST_DIRECTIONS, RankOneEdit
from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import MAX_ARRAY_ELEMENTS, MetadataArray
from rosi_edge.models.rewrite import NewValue

PREFIX: Final = "rosi.edit."
MOST_CORRECTION: Final = 0.25
"""How far what was asked for may be from the edit, in parts of the length of its input vector."""

_FORMAT: Final = 1
_BLANK_HASH: Final = "0" * 64
_HASH: Final = re.compile("[0-9a-f]{64}")
KEYS: Final = frozenset(
    PREFIX + key
    for key in (
        *("format", "rounding", "tensors", "tensor_of", "output_of", "outputs", "inputs", "asked_inputs"),
        *("expert_of", "base_sha256", "sha256", "aims", "rescaled"),
    )
)
"""Every key of a declaration."""


@dataclass(frozen=True)
class DeclaredTensor:
    """An edited tensor: hashes (SHA-256, hexadecimal) of its bytes in the base and in the file."""

    name: str
    base_sha256: str
    sha256: str


@dataclass(frozen=True)
class Declaration:
    """What was done.

    Attributes:
        rounding: how the edits were put into blocks, ``grid`` or ``requantize``.
        tensors: every edited tensor, in file order.
        edits: at full strength, in the order of their tensors.
        aims: for each edit, how much of it was asked for so that all of it arrives.
        rescaled: for each edit, whether its matrix got other scales
            (``rosi_edge.baking.measure.BakedTensor``).
        asked: what the rounding was asked for, edit by edit: the edits, but for what bias correction took
            off their push (``rosi_edge.baking.bias_correction``).
    """

    rounding: str
    tensors: tuple[DeclaredTensor, ...]
    edits: tuple[RankOneEdit, ...]
    aims: tuple[float, ...]
    asked: tuple[RankOneEdit, ...]
    rescaled: tuple[bool, ...]


def near(edit: RankOneEdit, asked: RankOneEdit) -> bool:
    """Whether ``asked`` is the edit but for a correction; no file may declare one edit and hold another."""
    given, wanted = asked.input.astype(np.float64), edit.input.astype(np.float64)
    return bool(np.linalg.norm(given - wanted) <= 1.01 * MOST_CORRECTION * np.linalg.norm(wanted))


def declare(
    rounding: str,
    names: Sequence[str],
    edits: Sequence[RankOneEdit],
    asked: Sequence[RankOneEdit],
) -> dict[str, NewValue]:
    """The metadata of a declaration, with blanks where its hashes will stand.

    Args:
        names: the edited tensors.
        edits: at full strength; one or more for each of ``names``.
        asked: what the rounding is asked for, one for each of ``edits`` and with its output; mostly the same.

    Raises:
        UnsupportedModelError: there are more numbers in them than a file's metadata may hold.
    """
    if not edits:
        return {}
    numbers = sum(len(edit.input) for edit in edits)  # of each array
    if numbers > MAX_ARRAY_ELEMENTS:
        raise UnsupportedModelError(
            f"the {len(edits)} edits hold {numbers} numbers, and a file can declare {MAX_ARRAY_ELEMENTS}",
            "Use --method conditional, which edits fewer experts",
        )
    outputs: dict[bytes, int] = {}
    vectors: list[Float32] = []
    output_of: list[int] = []
    for edit in edits:
        # The same direction goes into most matrices: stored once.
        key = edit.output.tobytes()
        if key not in outputs:
            outputs[key] = len(outputs)
            vectors.append(edit.output)
        output_of.append(outputs[key])
    place = {name: index for index, name in enumerate(names)}
    metadata: dict[str, NewValue] = {
        f"{PREFIX}format": _FORMAT,
        f"{PREFIX}rounding": rounding,
        f"{PREFIX}tensors": list(names),
        f"{PREFIX}tensor_of": [place[edit.tensor] for edit in edits],
        f"{PREFIX}output_of": output_of,
        f"{PREFIX}outputs": np.concatenate(vectors, dtype=np.float32),
        f"{PREFIX}inputs": np.concatenate([edit.input for edit in edits], dtype=np.float32),
    }
    if any(edit is not wanted for edit, wanted in zip(edits, asked, strict=True)):
        metadata[f"{PREFIX}asked_inputs"] = np.concatenate([edit.input for edit in asked], dtype=np.float32)
    if any(edit.expert is not None for edit in edits):
        metadata[f"{PREFIX}expert_of"] = [-1 if edit.expert is None else edit.expert for edit in edits]
    blank = [_BLANK_HASH] * len(names)
    return metadata | declare_results(blank, blank, [1.0] * len(edits), [False] * len(edits))


def declare_results(
    base_sha256: Iterable[str], sha256: Iterable[str], aims: Iterable[float], rescaled: Iterable[bool]
) -> dict[str, NewValue]:
    """What is known after the rounding: the hashes of the tensors' old and new bytes, in the order of the
    names, how much was asked for of each edit, and whether its matrix got other scales."""
    return {
        f"{PREFIX}base_sha256": list(base_sha256),
        f"{PREFIX}sha256": list(sha256),
        f"{PREFIX}aims": [float(aim) for aim in aims],
        f"{PREFIX}rescaled": [int(each) for each in rescaled],
    }


def read_declaration(file: GgufFile) -> Declaration | None:
    """The declaration of a file; None when it holds none.

    Raises:
        ModelFileError: it contradicts itself or the file's tensors, or is of another format.
    """
    if f"{PREFIX}format" not in file.metadata:
        return None
    version = file.integer(f"{PREFIX}format")
    if version != _FORMAT:
        raise ModelFileError(
            f"{file.path.name} declares its edit in format {version}; format {_FORMAT} can be read",
            "Update rosi-edge",
        )
    rounding = file.text(f"{PREFIX}rounding") or ""
    names = _strings(file, "tensors")
    base, new = _strings(file, "base_sha256"), _strings(file, "sha256")
    if not names or len(set(names)) != len(names) or not len(names) == len(base) == len(new):
        raise _contradiction(file)
    if not all(_HASH.fullmatch(each) and each != _BLANK_HASH for each in (*base, *new)):
        raise _contradiction(file)
    tensors = tuple(DeclaredTensor(*entry) for entry in zip(names, base, new, strict=True))
    edits = tuple(_edits(file, names))
    aims = _array(file, "aims").values()
    if len(aims) != len(edits) or not all(isinstance(aim, float) and 0 < aim < 10 for aim in aims):
        raise _contradiction(file)
    # Files of earlier versions do not say; all their scales stayed.
    rescaled: Sequence[int] = [0] * len(edits)
    if f"{PREFIX}rescaled" in file.metadata:
        rescaled = _numbers(file, "rescaled")
    if len(rescaled) != len(edits) or not set(rescaled) <= {0, 1}:
        raise _contradiction(file)
    asked = edits
    if f"{PREFIX}asked_inputs" in file.metadata:
        inputs = _vector(file, "asked_inputs")
        ends = np.cumsum([len(edit.input) for edit in edits])
        if len(inputs) != ends[-1] or not np.isfinite(inputs).all():
            raise _contradiction(file)
        parts = np.split(inputs, ends[:-1])
        asked = tuple(replace(edit, input=part) for edit, part in zip(edits, parts, strict=True))
    return Declaration(rounding, tensors, edits, tuple(aims), asked, tuple(map(bool, rescaled)))


def _edits(file: GgufFile, names: Sequence[str]) -> list[RankOneEdit]:
    tensor_of, output_of = _numbers(file, "tensor_of"), _numbers(file, "output_of")
    experts: Sequence[int] = [-1] * len(tensor_of)
    if f"{PREFIX}expert_of" in file.metadata:
        experts = _numbers(file, "expert_of")
    outputs, inputs = _vector(file, "outputs"), _vector(file, "inputs")
    if not tensor_of or not len(tensor_of) == len(output_of) == len(experts):
        raise _contradiction(file)
    if set(tensor_of) != set(range(len(names))):
        raise _contradiction(file)
    # Before anything is built: no more edits than the matrices in the file may have.
    if max(Counter(zip(tensor_of, experts, strict=True)).values()) > MOST_DIRECTIONS:
        raise _contradiction(file)
    shapes = []
    for index in tensor_of:
        tensor = file.tensors.get(names[index])
        if tensor is None or len(tensor.shape) not in (2, 3):
            raise _contradiction(file)
        shapes.append(tensor.shape)
    # All tensors with one output have as many rows, so the lengths of the outputs follow in their order.
    rows: dict[int, int] = {}
    for index, shape in zip(output_of, shapes, strict=True):
        if rows.setdefault(index, shape[-2]) != shape[-2]:
            raise _contradiction(file)
    if sorted(rows) != list(range(len(rows))):
        raise _contradiction(file)
    starts = np.cumsum([0, *(rows[index] for index in range(len(rows)))])
    ends = np.cumsum([shape[-1] for shape in shapes])
    if starts[-1] != len(outputs) or ends[-1] != len(inputs):
        raise _contradiction(file)
    edits = []
    for number, (index, which, expert, shape) in enumerate(
        zip(tensor_of, output_of, experts, shapes, strict=True)
    ):
        if not (-1 <= expert < shape[0] if len(shape) == 3 else expert == -1):
            raise _contradiction(file)
        try:
            edits.append(
                RankOneEdit(
                    names[index],
                    outputs[starts[which] : starts[which + 1]],
                    inputs[ends[number] - shape[-1] : ends[number]],
                    None if expert == -1 else expert,
                )
            )
        except ValueError:
            raise _contradiction(file) from None
    return edits


def _contradiction(file: GgufFile) -> ModelFileError:
    return ModelFileError(f"the edit that {file.path.name} declares contradicts itself or the file")


def _array(file: GgufFile, key: str) -> MetadataArray:
    value = file.metadata.get(PREFIX + key)
    if not isinstance(value, MetadataArray):
        raise _contradiction(file)
    return value


def _strings(file: GgufFile, key: str) -> list[str]:
    values: list[Any] = _array(file, key).values()
    if not all(isinstance(value, str) for value in values):
        raise _contradiction(file)
    return values


def _numbers(file: GgufFile, key: str) -> list[int]:
    values: list[Any] = _array(file, key).values()
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise _contradiction(file)
    return values


def _vector(file: GgufFile, key: str) -> Float32:
    array = _array(file, key)
    try:
        numbers = array.numbers()
    except ValueError:
        raise _contradiction(file) from None
    if numbers.dtype != np.float32:
        raise _contradiction(file)
    return np.ascontiguousarray(numbers)
