"""llama.cpp at its plainest, to compare engines with: one prompt, one sequence, no taps, no adapters."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import llama_cpp
import numpy as np

from rosi_edge.basics.arrays import Float32


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _ignore(level: int, text: bytes, user_data: Any) -> None:
    pass


def high_level_llama(path: Path, **options: Any) -> llama_cpp.Llama:
    """llama-cpp-python's own class, as an application uses it; without AMX, which dies on virtual machines
    that announce it without granting it."""
    defaults = llama_cpp.llama_model_default_params

    def without_extra_buffers() -> Any:
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    with mock.patch("llama_cpp.llama_cpp.llama_model_default_params", without_extra_buffers):
        return llama_cpp.Llama(str(path), verbose=False, **options)


class PlainLlama:
    """Logits and embeddings of single prompts, straight from llama.cpp's functions."""

    def __init__(
        self, path: Path, *, embeddings: bool = False, context_size: int = 1024, batch_size: int | None = None
    ) -> None:
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(_ignore, ctypes.c_void_p(0))
        model_parameters = llama_cpp.llama_model_default_params()
        # As the engine does: repacked weights round activations differently.
        model_parameters.use_extra_bufts = False
        self._model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), model_parameters)
        assert self._model
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = context_size
        parameters.n_ubatch = batch_size or context_size
        parameters.n_threads = parameters.n_threads_batch = len(os.sched_getaffinity(0))
        parameters.embeddings = embeddings
        parameters.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        self._context: Any = llama_cpp.llama_init_from_model(self._model, parameters)
        assert self._context
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocabulary_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._hidden_size = llama_cpp.llama_model_n_embd(self._model)

    def close(self) -> None:
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def logits(self, tokens: Sequence[int]) -> Float32:
        """Logits after the last token, (vocabulary,)."""
        self._decode(tokens)
        pointer = llama_cpp.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._vocabulary_size,)).copy()

    def embeddings(self, tokens: Sequence[int]) -> Float32:
        """The normalised last hidden state of every token, (tokens, hidden)."""
        self._decode(tokens)
        return np.stack(
            [
                np.ctypeslib.as_array(
                    llama_cpp.llama_get_embeddings_ith(self._context, index), shape=(self._hidden_size,)
                ).copy()
                for index in range(len(tokens))
            ]
        )

    def _decode(self, tokens: Sequence[int]) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                batch.token[index] = ctypes.c_int32(token)
                batch.pos[index] = index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = 1
            assert llama_cpp.llama_decode(self._context, batch) == 0
        finally:
            llama_cpp.llama_batch_free(batch)
