"""llama.cpp reads a file's settings, vocabulary and tensor table, and plans a graph, without its weights."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# No backtraces through a debugger when ggml aborts: the one line that matters is written before.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

import llama_cpp

_WARNING = 3
_LOADING = "loading tensor "
_CONTEXT = 256
_BATCH = 32


def try_loading(path: Path, say: Callable[[str, str], object]) -> None:
    """Load the model as every engine does, except that no weights are read and no memory is taken for them.

    ggml may abort the process, after a line on its standard error.

    Args:
        say: called with ("tensor", name) for each tensor that the model asks for, ("warning", line) and
            ("error", line) for what llama.cpp logs, and at last ("loaded", "") unless it refuses the file.
    """

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def log(level: int, text: bytes, _user_data: Any) -> None:
        line = text.decode("utf-8", "replace").strip()
        if _LOADING in line:
            say("tensor", line.partition(_LOADING)[2])
        elif level in (_WARNING, _WARNING + 1) and line:
            say("error" if level > _WARNING else "warning", line)

    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.no_alloc = True
    parameters.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    parameters.use_extra_bufts = False
    # No devices: the processor alone, and graphics cards stay asleep.
    nothing = (ctypes.c_void_p * 1)(None)
    parameters.devices = ctypes.addressof(nothing)
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        return
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = _CONTEXT
    settings.n_batch = settings.n_ubatch = _BATCH
    settings.n_threads = settings.n_threads_batch = 1
    if llama_cpp.llama_init_from_model(model, settings):
        say("loaded", "")
