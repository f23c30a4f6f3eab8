"""ctypes for ggml: tensors by their offsets, quantization, dequantization.

The eval callback hands out ``struct ggml_tensor`` pointers, and the offsets below are those of ggml 0.25.3,
which the pinned llama-cpp-python 0.3.36 holds. ``check_layout`` compares them with a tensor that ggml itself
made before anything is believed.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp
import llama_cpp._ctypes_extensions as _extensions
import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32, Int32
from rosi_edge.errors import EngineError

LIBRARY_FOLDER = Path(llama_cpp.__file__).parent / "lib"
libggml = _extensions.load_shared_library("ggml-base", LIBRARY_FOLDER)
OP_MUL_MAT = 29
OP_MUL_MAT_ID = 30
_TYPE_F32 = 0
_TYPE_F16 = 1
_TYPE_I32 = 26
_TYPE_BF16 = 30


class Tensor(ctypes.Structure):
    """``struct ggml_tensor`` (ggml/include/ggml.h:685 in the pinned release)."""


Tensor._fields_ = [
    ("type", ctypes.c_int32),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int32),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]
TensorPointer = ctypes.POINTER(Tensor)
_SIZEOF_TENSOR = 336
assert ctypes.sizeof(Tensor) == _SIZEOF_TENSOR
libggml.ggml_backend_tensor_get.argtypes = [TensorPointer, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
libggml.ggml_backend_tensor_get.restype = None


class Node:
    """One graph node offered by the eval callback; valid only during that call."""

    __slots__ = ("_pointer", "_tensor")

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self._tensor = pointer.contents

    @property
    def name(self) -> bytes:
        return bytes(self._tensor.name)

    @property
    def op(self) -> int:
        return int(self._tensor.op)

    @property
    def shape(self) -> tuple[int, ...]:
        """ggml order: columns first."""
        return tuple(self._tensor.ne)

    def source(self, index: int) -> Node:
        return Node(self._tensor.src[index])

    def rows(self) -> Float32:
        """The node's values as (rows, columns) float32, all higher dimensions folded into rows.

        Works wherever the tensor lives, because ``ggml_backend_tensor_get`` copies from any backend.

        Raises:
            EngineError: the node is strided or of a type that activations never have.
        """
        tensor = self._tensor
        ne = list(tensor.ne)
        nb = list(tensor.nb)
        width = {_TYPE_F32: 4, _TYPE_F16: 2, _TYPE_BF16: 2}.get(tensor.type)
        if width is None:
            raise EngineError(f"the activation {self.name.decode()} has an unexpected type {tensor.type}")
        count = ne[1] * ne[2] * ne[3]
        if nb[0] == width and nb[1] >= width * ne[0] and ne[2] == ne[3] == 1 and nb[1] != width * ne[0]:
            # A view with padded rows: fetched row by row.
            raw = b"".join(self._bytes(row * nb[1], width * ne[0]) for row in range(ne[1]))
        else:
            contiguous = (
                nb[0] == width
                and nb[1] == width * ne[0]
                and nb[2] == nb[1] * ne[1]
                and nb[3] == nb[2] * ne[2]
            )
            if not contiguous:
                raise EngineError(f"the activation {self.name.decode()} is not contiguous")
            if width == 4:
                values = np.empty((count, ne[0]), dtype=np.float32)
                libggml.ggml_backend_tensor_get(self._pointer, values.ctypes.data, 0, values.nbytes)
                return values
            raw = self._bytes(0, width * ne[0] * count)
        if tensor.type == _TYPE_F32:
            flat = np.frombuffer(raw, dtype=np.float32)
        elif tensor.type == _TYPE_F16:
            flat = np.frombuffer(raw, dtype=np.float16).astype(np.float32)
        else:
            flat = (np.frombuffer(raw, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32)
        return flat.reshape(count, ne[0]).copy()

    def integers(self) -> Int32:
        """The values of a two-dimensional int32 node, (rows, columns), such as the experts that a router
        chose: a view of the first columns of all of them, whose rows are padded.

        Raises:
            EngineError: the node is something else.
        """
        tensor = self._tensor
        columns, rows, *others = tensor.ne
        stride = tensor.nb[1]
        plain = tensor.type == _TYPE_I32 and others == [1, 1] and tensor.nb[0] == 4 and stride >= 4 * columns
        if not plain:
            raise EngineError(f"the node {self.name.decode()} is not a table of integers")
        raw = self._bytes(0, stride * (rows - 1) + 4 * columns) if rows else b""
        return np.ndarray((rows, columns), dtype=np.int32, buffer=raw, strides=(stride, 4)).copy()

    def _bytes(self, offset: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        libggml.ggml_backend_tensor_get(self._pointer, buffer, offset, size)
        return buffer.raw


class _InitParameters(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


libggml.ggml_init.argtypes = [_InitParameters]
libggml.ggml_init.restype = ctypes.c_void_p
libggml.ggml_free.argtypes = [ctypes.c_void_p]
libggml.ggml_free.restype = None
libggml.ggml_new_tensor_2d.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
libggml.ggml_new_tensor_2d.restype = TensorPointer
libggml.ggml_mul_mat.argtypes = [ctypes.c_void_p, TensorPointer, TensorPointer]
libggml.ggml_mul_mat.restype = TensorPointer
libggml.ggml_set_name.argtypes = [TensorPointer, ctypes.c_char_p]
libggml.ggml_set_name.restype = TensorPointer


def check_layout() -> None:
    """Compare our ``struct ggml_tensor`` with one that the loaded library builds.

    Raises:
        EngineError: the library is not the release these offsets were read from.
    """
    context = libggml.ggml_init(_InitParameters(1 << 16, None, True))
    try:
        weight = libggml.ggml_new_tensor_2d(context, _TYPE_F32, 8, 3)
        inputs = libggml.ggml_new_tensor_2d(context, _TYPE_F32, 8, 5)
        libggml.ggml_set_name(weight, b"weight")
        product = libggml.ggml_mul_mat(context, weight, inputs)
        libggml.ggml_set_name(product, b"product")
        node = Node(product)
        agrees = (
            node.name == b"product"
            and node.op == OP_MUL_MAT
            and node.shape == (3, 5, 1, 1)
            and node.source(0).name == b"weight"
            and node.source(1).shape == (8, 5, 1, 1)
        )
    finally:
        libggml.ggml_free(context)
    if not agrees:
        raise EngineError(
            "the installed llama-cpp-python is not the release whose structures this tool reads",
            "Install llama-cpp-python 0.3.36",
        )


class _TypeTraits(ctypes.Structure):
    """``struct ggml_type_traits`` (ggml/include/ggml.h), as far as it is needed."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_columns", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


libggml.ggml_quantize_chunk.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_void_p,
]
libggml.ggml_quantize_chunk.restype = ctypes.c_size_t
libggml.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
libggml.ggml_row_size.restype = ctypes.c_size_t
libggml.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
libggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
libggml.ggml_get_type_traits.argtypes = [ctypes.c_int]
libggml.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)


def dequantize(data: npt.NDArray[np.uint8], ggml_type: int, columns: int) -> Float32 | None:
    """(rows, bytes a row) as (rows, columns) by ggml's own dequantizer; None where ggml has none.

    Raises:
        ValueError: the bytes are not that many columns of the type.
    """
    traits = libggml.ggml_get_type_traits(ggml_type).contents
    if not traits.to_float:
        return None
    data = np.ascontiguousarray(data)
    if (
        columns % traits.block_columns
        or data.shape[1] != columns // traits.block_columns * traits.block_bytes
    ):
        raise ValueError(f"{data.shape[1]} bytes are not {columns} columns of this type")
    weights = np.empty((len(data), columns), dtype=np.float32)
    traits.to_float(data.ctypes.data, weights.ctypes.data, weights.size)
    return weights


def quantize(values: Float32, ggml_type: int, importance: Float32 | None = None) -> npt.NDArray[np.uint8]:
    """Quantize a (rows, columns) matrix with ggml's own quantizer; returns (rows, bytes per row).

    Args:
        importance: (columns,), the weight of each column's error; None for no such weights.
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    rows, columns = values.shape
    if importance is not None:
        importance = np.ascontiguousarray(importance, dtype=np.float32)
        if importance.shape != (columns,):
            raise ValueError(f"an importance of shape {importance.shape} for {columns} columns")
    row_bytes = int(libggml.ggml_row_size(ggml_type, columns))
    target = np.empty((rows, row_bytes), dtype=np.uint8)
    written = libggml.ggml_quantize_chunk(
        ggml_type,
        values.ctypes.data,
        target.ctypes.data,
        0,
        rows,
        columns,
        None if importance is None else importance.ctypes.data,
    )
    if written != target.nbytes:
        raise EngineError(f"ggml quantized {written} bytes where {target.nbytes} were expected")
    return target


def requires_importance_matrix(ggml_type: int) -> bool:
    """Whether ggml cannot quantize to this type without an importance matrix (the smallest IQ types)."""
    return bool(libggml.ggml_quantize_requires_imatrix(ggml_type))
