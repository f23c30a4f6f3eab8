"""Other quantizations of a model, by llama.cpp's own quantizer."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import llama_cpp

from rosi_edge.native import log


def quantize(source: Path, target: Path, kind: int, threads: int | None = None) -> Path:
    """``source`` as another type; it may be quantized itself, as the demo model is.

    Args:
        kind: one of ``llama_cpp.LLAMA_FTYPE_*``.
    """
    log.silence()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread = threads or len(os.sched_getaffinity(0))
    parameters.ftype = kind
    parameters.allow_requantize = True
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)):
        sys.exit(f"llama.cpp cannot quantize {source.name}")
    return target
