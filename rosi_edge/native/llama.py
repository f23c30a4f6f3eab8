"""ctypes for llama.cpp: models and contexts, as numpy arrays and Python values.

Written against llama-cpp-python 0.3.36 (ggml 0.25.3), which pyproject.toml pins.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32, Int32
from rosi_edge.native.ggml import (
    Node,
    TensorPointer,
    check_layout,
)
from rosi_edge.native.log import first_error, forget_errors, silence
from rosi_edge.native.rpc import add_rpc_servers
from rosi_edge.native.words import in_plain_words

# No backtraces through a debugger when ggml aborts: the one line that matters is caught below.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

import llama_cpp

from rosi_edge.errors import EngineError, ModelFileError

_ALL_LAYERS = 9999


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
        forget_errors()
        pointer = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
        if not pointer:
            reason, advice = in_plain_words(first_error("no reason given"))
            raise ModelFileError(f"llama.cpp cannot load {path}: {reason}", advice)
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
        forget_errors()
        pointer = llama_cpp.llama_adapter_lora_init(self.pointer, os.fsencode(path))
        if not pointer:
            raise EngineError(f"llama.cpp cannot load the adapter {path}: {first_error('no reason given')}")
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
        forget_errors()
        pointer = llama_cpp.llama_init_from_model(model.pointer, parameters)
        if not pointer:
            reason = first_error("not enough memory?")
            raise EngineError(
                f"llama.cpp cannot make a context of {context_size} tokens: {reason}",
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
            return self._on_node(Node(ctypes.cast(pointer, TensorPointer)), asked)
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
        forget_errors()
        status = llama_cpp.llama_decode(self.pointer, batch)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if status != 0:
            raise EngineError(
                f"llama.cpp cannot decode a batch of {count} tokens: {first_error(f'status {status}')}",
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
            raise EngineError(f"llama.cpp cannot apply the adapter: {first_error('no reason given')}")


def _as_pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
