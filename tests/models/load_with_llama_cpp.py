"""Loads each model named on the command line with llama.cpp, weights and all, and prints whether it did.

A process for each, because llama.cpp aborts over some. Knows nothing of rosi_edge: tests compare with it.
"""

from __future__ import annotations

import os
import sys

os.environ["GGML_NO_BACKTRACE"] = "1"

import llama_cpp


def loads(path: str) -> bool:
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
    if not model:
        return False
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_threads = 64, 32, 1
    return bool(llama_cpp.llama_init_from_model(model, settings))


for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        os._exit(0 if loads(name) else 1)
    sys.stdout.write(f"{int(os.waitpid(child, 0)[1] == 0)}\n")
    sys.stdout.flush()
