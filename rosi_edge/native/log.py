"""What llama.cpp logs, and why it aborts."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp

from rosi_edge.native.ggml import libggml

_LOG_LEVEL_ERROR = 4
_errors: list[str] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: Any) -> None:
    if level >= _LOG_LEVEL_ERROR and len(_errors) < 64:
        line = text.decode("utf-8", "replace").strip()
        if line:
            _errors.append(line)


_AbortCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
libggml.ggml_set_abort_callback.argtypes = [_AbortCallback]
libggml.ggml_set_abort_callback.restype = ctypes.c_void_p
_abort_callback: Any = None


def silence() -> None:
    """Keep llama.cpp's log lines in memory instead of on the user's terminal."""
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))


def on_abort(callback: Callable[[str], object]) -> None:
    """Call ``callback`` with ggml's message just before it aborts this process."""
    global _abort_callback
    _abort_callback = _AbortCallback(lambda message: callback(message.decode("utf-8", "replace")))
    libggml.ggml_set_abort_callback(_abort_callback)


def forget_errors() -> None:
    """Before a call, so that ``first_error`` is one of this call's."""
    _errors.clear()


def first_error(default: str) -> str:
    """The first error that was logged since then: llama.cpp logs the cause first and wraps it afterwards."""
    reason = _errors[0] if _errors else default
    prefix, separator, rest = reason.partition(": ")
    return rest if separator and " " not in prefix else reason
