"""What llama.cpp logs, and why it aborts."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp

from rosi_edge.native.ggml import GGML

_LOG_LEVEL_ERROR = 4
last_errors: list[str] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: Any) -> None:
    if level >= _LOG_LEVEL_ERROR and len(last_errors) < 64:
        line = text.decode("utf-8", "replace").strip()
        if line:
            last_errors.append(line)


AbortCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
GGML.ggml_set_abort_callback.argtypes = [AbortCallback]
GGML.ggml_set_abort_callback.restype = ctypes.c_void_p
_abort_callback: Any = None


def silence() -> None:
    """Keep llama.cpp's log lines in memory instead of on the user's terminal."""
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))


def on_abort(callback: Callable[[str], object]) -> None:
    """Call ``callback`` with ggml's message just before it aborts this process."""
    global _abort_callback
    _abort_callback = AbortCallback(lambda message: callback(message.decode("utf-8", "replace")))
    GGML.ggml_set_abort_callback(_abort_callback)


def last_reason(default: str) -> str:
    # llama.cpp logs the cause first and wraps it afterwards, so the first line says most.
    reason = last_errors[0] if last_errors else default
    last_errors.clear()
    prefix, separator, rest = reason.partition(": ")
    return rest if separator and " " not in prefix else reason
