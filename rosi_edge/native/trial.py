"""llama.cpp reads a file's settings, vocabulary and tensor table, and plans a graph, without its weights."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rosi_edge.basics.child import pipe_to_parent

if __name__ == "__main__" and (package := importlib.util.find_spec("llama_cpp")):
    # Its bindings and nothing else: importing the whole package, numpy and Jinja with it, is most of the time
    # that a trial takes.
    sys.modules["llama_cpp"] = ModuleType("llama_cpp")
    sys.modules["llama_cpp"].__path__ = list(package.submodule_search_locations or ())

# No backtraces through a debugger when ggml aborts: the one line that matters is written before.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

from llama_cpp import llama_cpp

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


def main() -> None:
    """The child's part of ``rosi_edge.models.trial``."""
    connection = pipe_to_parent()

    def say(kind: str, text: str) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send_bytes(f"{kind} {text}".encode())

    try_loading(Path(os.fsdecode(connection.recv_bytes())), say)
    # Nothing is tidied up: what llama.cpp frees here has been made by a file that nobody trusts.
    os._exit(0)


if __name__ == "__main__":
    main()
