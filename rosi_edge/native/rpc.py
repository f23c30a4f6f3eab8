"""ctypes for ggml's RPC backend."""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Sequence

import llama_cpp._ctypes_extensions as _extensions

from rosi_edge.errors import EngineError
from rosi_edge.native.ggml import LIBRARY_FOLDER

_SECONDS_TO_CONNECT = 5.0


def add_rpc_servers(servers: Sequence[str]) -> None:
    """Make llama.cpp's ``rpc-server`` processes at ``host:port`` devices of this process, as the option
    ``--rpc`` of its own programs does (common/arg.cpp, ``add_rpc_devices``).

    Raises:
        EngineError: this build of llama-cpp-python has no RPC backend, or a server cannot be reached.
    """
    everything = _extensions.load_shared_library("ggml", LIBRARY_FOLDER)
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
            raise EngineError(f"the RPC server {server} offers no device", "Read that server's own output")
        everything.ggml_backend_register(found)


def _require_reachable(server: str) -> None:
    host, _, port = server.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 1 << 16:
        raise EngineError(
            f"{server!r} is not the address of an RPC server", "Give --rpc HOST:PORT, or several with commas"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise EngineError(
            f"the RPC server {server} cannot be reached ({error.strerror or error})",
            "Start llama.cpp's ggml-rpc-server there, or check the address",
        ) from error
