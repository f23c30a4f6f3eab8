"""What llama.cpp's ggml-rpc-server does (its tools/rpc), on the CPU: ``python rpc_server.py PORT``."""

from __future__ import annotations

import ctypes
import sys

from llama_cpp import _ctypes_extensions

from rosi_edge.native import rpc
from rosi_edge.native.ggml import LIBRARY_FOLDER

CPU = 0
"""GGML_BACKEND_DEVICE_TYPE_CPU."""


def main() -> None:
    rpc.add_rpc_servers([])
    ggml = _ctypes_extensions.load_shared_library("ggml", LIBRARY_FOLDER)
    ggml.ggml_backend_reg_by_name.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_reg_by_name.restype = ctypes.c_void_p
    ggml.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    ggml.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    backend = ggml.ggml_backend_reg_by_name(b"RPC")
    ggml.ggml_backend_dev_by_type.argtypes = [ctypes.c_int]
    ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    devices = (ctypes.c_void_p * 1)(ggml.ggml_backend_dev_by_type(CPU))
    kind = ctypes.CFUNCTYPE(
        None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p
    )
    start = kind(ggml.ggml_backend_reg_get_proc_address(backend, b"ggml_backend_rpc_start_server"))
    start(f"127.0.0.1:{int(sys.argv[1])}".encode(), None, 1, 1, ctypes.cast(devices, ctypes.c_void_p))


if __name__ == "__main__":
    main()
