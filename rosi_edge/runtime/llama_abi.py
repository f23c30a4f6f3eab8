"""The ctypes edge: every call into llama.cpp and ggml, as numpy arrays and Python values.

Written against llama-cpp-python 0.3.36 (ggml 0.25.3), which pyproject.toml pins: the eval callback hands
out ``struct ggml_tensor`` pointers and the offsets below are that release's. ``check_layout`` compares
them with a tensor that ggml itself made before anything is believed.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# No backtraces through a debugger when ggml aborts: the one line that matters is caught below.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

import llama_cpp
import llama_cpp._ctypes_extensions as _extensions

from rosi_edge.errors import EngineError, ModelFileError

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_LIBRARIES = Path(llama_cpp.__file__).parent / "lib"
_ggml = _extensions.load_shared_library("ggml-base", _LIBRARIES)

OP_MUL_MAT = 29
OP_MUL_MAT_ID = 30
_TYPE_F32 = 0
_TYPE_F16 = 1
_TYPE_I32 = 26
_TYPE_BF16 = 30


# --- tensors seen by the eval callback ---------------------------------------------------------------


class _Tensor(ctypes.Structure):
    """``struct ggml_tensor`` (ggml/include/ggml.h:685 in the pinned release)."""


_Tensor._fields_ = [
    ("type", ctypes.c_int32),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int32),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]
_TensorPointer = ctypes.POINTER(_Tensor)
_SIZEOF_TENSOR = 336
assert ctypes.sizeof(_Tensor) == _SIZEOF_TENSOR

_ggml.ggml_backend_tensor_get.argtypes = [_TensorPointer, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
_ggml.ggml_backend_tensor_get.restype = None


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
                _ggml.ggml_backend_tensor_get(self._pointer, values.ctypes.data, 0, values.nbytes)
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
        _ggml.ggml_backend_tensor_get(self._pointer, buffer, offset, size)
        return buffer.raw


class _InitParameters(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


_ggml.ggml_init.argtypes = [_InitParameters]
_ggml.ggml_init.restype = ctypes.c_void_p
_ggml.ggml_free.argtypes = [ctypes.c_void_p]
_ggml.ggml_free.restype = None
_ggml.ggml_new_tensor_2d.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_ggml.ggml_new_tensor_2d.restype = _TensorPointer
_ggml.ggml_mul_mat.argtypes = [ctypes.c_void_p, _TensorPointer, _TensorPointer]
_ggml.ggml_mul_mat.restype = _TensorPointer
_ggml.ggml_set_name.argtypes = [_TensorPointer, ctypes.c_char_p]
_ggml.ggml_set_name.restype = _TensorPointer


def check_layout() -> None:
    """Compare our ``struct ggml_tensor`` with one that the loaded library builds.

    Raises:
        EngineError: the library is not the release these offsets were read from.
    """
    context = _ggml.ggml_init(_InitParameters(1 << 16, None, True))
    try:
        weight = _ggml.ggml_new_tensor_2d(context, _TYPE_F32, 8, 3)
        inputs = _ggml.ggml_new_tensor_2d(context, _TYPE_F32, 8, 5)
        _ggml.ggml_set_name(weight, b"weight")
        product = _ggml.ggml_mul_mat(context, weight, inputs)
        _ggml.ggml_set_name(product, b"product")
        node = Node(product)
        agrees = (
            node.name == b"product"
            and node.op == OP_MUL_MAT
            and node.shape == (3, 5, 1, 1)
            and node.source(0).name == b"weight"
            and node.source(1).shape == (8, 5, 1, 1)
        )
    finally:
        _ggml.ggml_free(context)
    if not agrees:
        raise EngineError(
            "the installed llama-cpp-python is not the release whose structures this tool reads",
            "Install llama-cpp-python 0.3.36",
        )


# --- devices on other machines -------------------------------------------------------------------------

_SECONDS_TO_CONNECT = 5.0
_ALL_LAYERS = 9999


def add_rpc_servers(servers: Sequence[str]) -> None:
    """Make llama.cpp's ``rpc-server`` processes at ``host:port`` devices of this process, as the option
    ``--rpc`` of its own programs does (common/arg.cpp, ``add_rpc_devices``).

    Raises:
        EngineError: this build of llama-cpp-python has no RPC backend, or a server cannot be reached.
    """
    everything = _extensions.load_shared_library("ggml", _LIBRARIES)
    for name, arguments, result in (
        ("ggml_backend_load_all", [], None),
        ("ggml_backend_reg_by_name", [ctypes.c_char_p], ctypes.c_void_p),
        ("ggml_backend_reg_get_proc_address", [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_void_p),
        ("ggml_backend_register", [ctypes.c_void_p], None),
    ):
        # Some of them lie in ggml-base, which "ggml" is linked to.
        function = getattr(everything, name)
        function.argtypes, function.restype = arguments, result
    backend = everything.ggml_backend_reg_by_name(b"RPC")
    if not backend:
        # One beside the wheel's own, such as GGML_BACKEND_PATH names.
        everything.ggml_backend_load_all()
        backend = everything.ggml_backend_reg_by_name(b"RPC")
    if not backend:
        raise EngineError(
            "this build of llama-cpp-python has no RPC backend, which --rpc needs",
            'Build it with CMAKE_ARGS="-DGGML_RPC=on" pip install --force-reinstall --no-deps '
            "--no-cache-dir llama-cpp-python==0.3.36; see docs/rpc.md",
        )
    address = everything.ggml_backend_reg_get_proc_address(backend, b"ggml_backend_rpc_add_server")
    add_server = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(address)
    for server in servers:
        # Asked for first: llama.cpp aborts when a server does not answer.
        _require_reachable(server)
        found = add_server(server.encode())
        if not found:
            raise EngineError(f"the RPC server {server} offers no device", "Look at what it says")
        everything.ggml_backend_register(found)


def _require_reachable(server: str) -> None:
    host, _, port = server.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 1 << 16:
        raise EngineError(f"{server!r} is no RPC server", "Give --rpc HOST:PORT, or several with commas")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise EngineError(
            f"the RPC server {server} cannot be reached ({error.strerror or error})",
            "Start llama.cpp's ggml-rpc-server there, or check the address",
        ) from error


# --- quantization --------------------------------------------------------------------------------------

_ggml.ggml_quantize_chunk.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_void_p,
]
_ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
_ggml.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
_ggml.ggml_row_size.restype = ctypes.c_size_t
_ggml.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
_ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool


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


_ggml.ggml_get_type_traits.argtypes = [ctypes.c_int]
_ggml.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)


def dequantize(data: npt.NDArray[np.uint8], ggml_type: int, columns: int) -> Float32 | None:
    """(rows, bytes a row) as (rows, columns) by ggml's own dequantizer; None where ggml has none.

    Raises:
        ValueError: the bytes are not that many columns of the type.
    """
    traits = _ggml.ggml_get_type_traits(ggml_type).contents
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
    row_bytes = int(_ggml.ggml_row_size(ggml_type, columns))
    target = np.empty((rows, row_bytes), dtype=np.uint8)
    written = _ggml.ggml_quantize_chunk(
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
    return bool(_ggml.ggml_quantize_requires_imatrix(ggml_type))


# --- log and aborts ------------------------------------------------------------------------------------

_LOG_LEVEL_ERROR = 4
_last_errors: list[str] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: Any) -> None:
    if level >= _LOG_LEVEL_ERROR and len(_last_errors) < 64:
        line = text.decode("utf-8", "replace").strip()
        if line:
            _last_errors.append(line)


_AbortCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_ggml.ggml_set_abort_callback.argtypes = [_AbortCallback]
_ggml.ggml_set_abort_callback.restype = ctypes.c_void_p
_abort_callback: Any = None


def silence() -> None:
    """Keep llama.cpp's log lines in memory instead of on the user's terminal."""
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))


def on_abort(callback: Callable[[str], object]) -> None:
    """Call ``callback`` with ggml's message just before it aborts this process."""
    global _abort_callback
    _abort_callback = _AbortCallback(lambda message: callback(message.decode("utf-8", "replace")))
    _ggml.ggml_set_abort_callback(_abort_callback)


def _reason(default: str) -> str:
    # llama.cpp logs the cause first and wraps it afterwards, so the first line says most.
    reason = _last_errors[0] if _last_errors else default
    _last_errors.clear()
    prefix, separator, rest = reason.partition(": ")
    return rest if separator and " " not in prefix else reason


# --- model ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter loaded into a model; freed with it."""

    pointer: Any
    path: Path


class Model:
    """A loaded model with its vocabulary.

    Args:
        path: a GGUF file.
        gpu_layers: llama.cpp's ``-ngl``.
        rpc: servers that compute as well, ``host:port`` each; all layers go to devices then, unless
            ``gpu_layers`` says how many.

    Raises:
        ModelFileError: llama.cpp does not load the file.
        EngineError: a server cannot be used.
    """

    def __init__(self, path: Path, *, gpu_layers: int = 0, rpc: Sequence[str] = ()) -> None:
        check_layout()
        silence()
        llama_cpp.llama_backend_init()
        if rpc:
            add_rpc_servers(rpc)
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers or (_ALL_LAYERS if rpc else 0)
        # AMX and weight repacking off: AMX dies with "Illegal instruction" on virtual machines that
        # announce it without granting it, and repacked buffers cannot be read back.
        parameters.use_extra_bufts = False
        _last_errors.clear()
        pointer = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
        if not pointer:
            raise ModelFileError(
                f"llama.cpp cannot load {path}: {_reason('no reason given')}",
                "Check the file with `rosi-edge inspect`, or download it again",
            )
        self.pointer: Any = pointer
        self._vocabulary = llama_cpp.llama_model_get_vocab(pointer)
        self.layers = int(llama_cpp.llama_model_n_layer(pointer))
        self.hidden_size = int(llama_cpp.llama_model_n_embd(pointer))
        self.vocabulary_size = int(llama_cpp.llama_vocab_n_tokens(self._vocabulary))
        self.training_context = int(llama_cpp.llama_model_n_ctx_train(pointer))
        # State-space and hybrid models split batches by sequence, so rows no longer follow batch order.
        self.recurrent = bool(
            llama_cpp.llama_model_is_recurrent(pointer) or llama_cpp.llama_model_is_hybrid(pointer)
        )

    def close(self) -> None:
        if self.pointer:
            llama_cpp.llama_model_free(self.pointer)
            self.pointer = None

    @property
    def chat_template(self) -> str | None:
        raw = llama_cpp.llama_model_chat_template(self.pointer, None)
        return raw.decode("utf-8", "replace") if raw else None

    def special_text(self, which: str) -> str:
        """The text of the ``bos`` or ``eos`` token, empty when the vocabulary has none."""
        token = {"bos": llama_cpp.llama_vocab_bos, "eos": llama_cpp.llama_vocab_eos}[which](self._vocabulary)
        if token < 0:
            return ""
        text = llama_cpp.llama_vocab_get_text(self._vocabulary, token)
        return text.decode("utf-8", "replace") if text else ""

    def adds_bos(self) -> bool:
        return bool(llama_cpp.llama_vocab_get_add_bos(self._vocabulary))

    def ends_generation(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self._vocabulary, token))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        raw = text.encode("utf-8")
        capacity = len(raw) + 8
        buffer = (ctypes.c_int32 * capacity)()
        count = llama_cpp.llama_tokenize(
            self._vocabulary, raw, len(raw), buffer, capacity, add_special, parse_special
        )
        if count < 0:
            raise EngineError(f"llama.cpp cannot tokenize a text of {len(raw)} bytes")
        return list(buffer[:count])

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Plain text of ``tokens``, special tokens left out."""
        if not len(tokens):
            return ""
        source = (ctypes.c_int32 * len(tokens))(*tokens)
        capacity = 16 * len(tokens) + 64
        for _ in range(2):
            buffer = ctypes.create_string_buffer(capacity)
            written = llama_cpp.llama_detokenize(
                self._vocabulary,
                source,
                len(tokens),
                ctypes.cast(buffer, ctypes.c_char_p),
                capacity,
                False,
                False,
            )
            if written >= 0:
                return buffer.raw[:written].decode("utf-8", "replace")
            capacity = -written
        raise EngineError("llama.cpp cannot turn tokens back into text")

    def load_adapter(self, path: Path) -> Adapter:
        _last_errors.clear()
        pointer = llama_cpp.llama_adapter_lora_init(self.pointer, os.fsencode(path))
        if not pointer:
            raise EngineError(f"llama.cpp cannot load the adapter {path}: {_reason('no reason given')}")
        return Adapter(pointer, path)

    def free_adapter(self, adapter: Adapter) -> None:
        llama_cpp.llama_adapter_lora_free(adapter.pointer)


# --- context -------------------------------------------------------------------------------------------

NodeCallback = Callable[[Node, bool], bool]
"""(node, asked) → whether the value is wanted (asked) or whether to go on computing (not asked)."""


class Context:
    """A context with many sequences in one unified KV cache, decoding one micro-batch a call.

    Each call to ``decode`` is exactly one micro-batch, so that the rows a tap sees are the batch's rows.
    """

    def __init__(
        self,
        model: Model,
        *,
        context_size: int,
        batch_size: int,
        sequences: int,
        threads: int,
        on_node: NodeCallback | None,
    ) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context_size
        parameters.n_batch = batch_size
        parameters.n_ubatch = batch_size
        parameters.n_seq_max = sequences
        # Reading the last block at all positions asks for every token's output. The space reserved for their
        # logits is never touched, because taps stop the graph before the vocabulary projection.
        # llama.cpp also wants a row for every sequence, however small the batch, and aborts without.
        parameters.n_outputs_max = max(batch_size, sequences)
        parameters.n_threads = threads
        parameters.n_threads_batch = threads
        parameters.kv_unified = True
        # Taken from the sliding-window models' full cache: branches of a shared prefix may be long.
        parameters.swa_full = True
        parameters.no_perf = True
        self.failure: BaseException | None = None
        self._on_node = on_node
        if on_node is not None:
            parameters.cb_eval = llama_cpp.ggml_backend_sched_eval_callback(self._callback)
        self._keep = parameters.cb_eval
        _last_errors.clear()
        pointer = llama_cpp.llama_init_from_model(model.pointer, parameters)
        if not pointer:
            raise EngineError(
                f"llama.cpp cannot make a context of {context_size} tokens: {_reason('not enough memory?')}",
                "Use a smaller -c or -b",
            )
        self.pointer: Any = pointer
        self._memory = llama_cpp.llama_get_memory(pointer)
        self._vocabulary_size = model.vocabulary_size
        self.size = int(llama_cpp.llama_n_ctx(pointer))
        self.batch_size = int(llama_cpp.llama_n_ubatch(pointer))
        self.sequences = int(llama_cpp.llama_n_seq_max(pointer))

    def close(self) -> None:
        if self.pointer:
            llama_cpp.llama_free(self.pointer)
            self.pointer = None

    def _callback(self, pointer: int, asked: bool, _user_data: Any) -> bool:
        # An exception must not unwind through C: keep it, stop computing, raise it after the decode.
        try:
            assert self._on_node is not None
            return self._on_node(Node(ctypes.cast(pointer, _TensorPointer)), asked)
        except BaseException as failure:
            self.failure = failure
            return False

    def decode(self, tokens: Int32, positions: Int32, sequences: Int32, wanted: npt.NDArray[np.int8]) -> None:
        """Run one micro-batch; all arrays have shape (n,), ``wanted`` marks tokens whose logits are kept.

        Raises:
            EngineError: llama.cpp reports a failure (no room in the context, for one).
        """
        count = len(tokens)
        if count > self.batch_size:
            raise EngineError(f"a batch of {count} tokens is larger than -b {self.batch_size}")
        one_each = np.ones(count, dtype=np.int32)
        pointers = (sequences.ctypes.data + 4 * np.arange(count)).astype(np.uint64)
        batch = llama_cpp.llama_batch()
        batch.n_tokens = count
        batch.token = _as_pointer(tokens, ctypes.c_int32)
        batch.embd = None
        batch.pos = _as_pointer(positions, ctypes.c_int32)
        batch.n_seq_id = _as_pointer(one_each, ctypes.c_int32)
        batch.seq_id = ctypes.cast(
            ctypes.c_void_p(pointers.ctypes.data), ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))
        )
        batch.logits = _as_pointer(wanted, ctypes.c_int8)
        _last_errors.clear()
        status = llama_cpp.llama_decode(self.pointer, batch)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if status != 0:
            raise EngineError(
                f"llama.cpp cannot decode a batch of {count} tokens: {_reason(f'status {status}')}",
                "Use a larger -c, or shorter prompts",
            )

    def logits(self, rows: int) -> Float32:
        """A view of the last decode's wanted logits, shape (rows, vocabulary); valid until the next one."""
        pointer = llama_cpp.llama_get_logits(self.pointer)
        return np.ctypeslib.as_array(pointer, shape=(rows, self._vocabulary_size))

    def copy_sequence(self, source: int, target: int) -> None:
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def remove_sequence(self, sequence: int, start: int = -1) -> None:
        """Forget a sequence, or its positions from ``start`` on (which recurrent states cannot)."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def shift_sequence(self, sequence: int, start: int, end: int) -> None:
        """Drop positions [start, end) of a sequence and move what follows into their place.

        Raises:
            EngineError: this kind of memory cannot be shifted.
        """
        if not llama_cpp.llama_memory_can_shift(self._memory) or not llama_cpp.llama_memory_seq_rm(
            self._memory, sequence, start, end
        ):
            raise EngineError("this model's memory cannot drop its oldest tokens")
        llama_cpp.llama_memory_seq_add(self._memory, sequence, end, -1, start - end)

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, False)

    def set_adapters(self, adapters: Sequence[tuple[Adapter, float]]) -> None:
        """Replace the active adapters; an adapter's effect is its strength times its rank-one update."""
        count = len(adapters)
        pointers = (llama_cpp.llama_adapter_lora_p_ctypes * max(count, 1))(*(a.pointer for a, _ in adapters))
        scales = (ctypes.c_float * max(count, 1))(*(scale for _, scale in adapters))
        if llama_cpp.llama_set_adapters_lora(self.pointer, pointers, count, scales) != 0:
            raise EngineError(f"llama.cpp cannot apply the adapter: {_reason('no reason given')}")


def _as_pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
