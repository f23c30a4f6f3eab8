"""llama.cpp's RPC backend: refused with a reason where there is none, and two servers on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from tiny_gguf import write_tiny_llama

from rosi_edge.errors import EngineError
from rosi_edge.native import rpc
from rosi_edge.runtime.child_engine import ChildEngine
from rosi_edge.runtime.engine import EngineOptions, ask
from rosi_edge.runtime.taps import TapRequest

OPTIONS = EngineOptions(threads=1, context_size=512)


def _has_rpc() -> bool:
    try:
        rpc.add_rpc_servers([])
    except EngineError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def servers() -> Iterator[tuple[str, ...]]:
    if not _has_rpc():
        pytest.skip(
            "this build of llama-cpp-python has no RPC backend; docs/rpc.md says how to build one, or name "
            "a libggml-rpc.so of the same release in GGML_BACKEND_PATH"
        )
    ports = [_free_port(), _free_port()]
    program = Path(__file__).with_name("rpc_server.py")
    processes = [subprocess.Popen([sys.executable, str(program), str(port)]) for port in ports]
    try:
        for port, process in zip(ports, processes, strict=True):
            while not _answers(port):
                assert process.poll() is None, "the server ended"
                time.sleep(0.2)
        yield tuple(f"127.0.0.1:{port}" for port in ports)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_two_servers_give_what_one_machine_gives(servers: tuple[str, ...], tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf", layers=4)
    request = TapRequest(blocks=(0, 1, 2, 3), inputs=("blk.1.ffn_down.weight", "blk.3.ffn_down.weight"))
    found = []
    for workers in ((), servers):
        with ChildEngine(path, EngineOptions(threads=1, context_size=512, rpc=workers)) as engine:
            prompts = engine.encode([ask("What floats?"), ask("Name a tree.")])
            capture = engine.capture(prompts, request)
            rows = [capture.stream_rows(block) for block in request.blocks]
            rows += [capture.inputs[name].rows for name in request.inputs]
            found.append((rows, engine.next_token_logprobs(prompts)))
    for one, two in zip(*(rows for rows, _ in found), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=0, atol=1e-2)


def test_a_build_without_rpc_is_refused(tmp_path: Path) -> None:
    if llama_cpp.llama_supports_rpc() or _has_rpc():
        pytest.skip("this build of llama-cpp-python has the RPC backend")
    path = write_tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(EngineError, match="no RPC backend") as caught:
        ChildEngine(path, EngineOptions(rpc=("127.0.0.1:50052",)))
    assert "GGML_RPC=on" in caught.value.remedy


@pytest.mark.parametrize("server", ["", "host", ":50052", "host:", "host:port", "host:70000", "host:0"])
def test_what_is_no_server(server: str) -> None:
    with pytest.raises(EngineError, match="is not the address of an RPC server"):
        rpc._require_reachable(server)


def test_a_server_that_does_not_answer() -> None:
    with pytest.raises(EngineError, match="cannot be reached"):
        rpc._require_reachable(f"127.0.0.1:{_free_port()}")
