"""A module of this project in a Python process of its own, and a pipe to it.

``multiprocessing`` would import the caller's script again in the child: a script without ``if __name__ ==
"__main__":`` would start over there. Here the child runs the module that is named, and nothing else.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO

from rosi_edge.errors import EngineError


def start(
    module: str, *, output: IO[bytes], defaults: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start ``python -m module``, which finds the other end of the pipe with ``pipe_to_parent``.

    Args:
        output: a file for whatever it prints, errors included.
        defaults: environment variables that it gets unless they are set here.

    Raises:
        EngineError: Python cannot be started.
    """
    ours, theirs = Pipe()
    with theirs, _interrupts_blocked():
        handle = theirs.fileno()
        # -P and the path: the child finds what this process finds, and nothing more in the current folder.
        command = [sys.executable, "-P", "-m", module, str(handle)]
        environment = {**defaults, **os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
        try:
            if sys.platform == "win32":
                os.set_handle_inheritable(handle, True)
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    startupinfo=subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]}),
                )
            else:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    pass_fds=(handle,),
                )
        except OSError as error:
            ours.close()
            raise EngineError(
                f"{sys.executable or 'Python'} cannot be started: {error.strerror}",
                "llama.cpp runs in a Python process of its own; sys.executable has to name a Python",
            ) from error
    return process, ours


def pipe_to_parent() -> Connection:
    """In a process that ``start`` started: the pipe to whoever did."""
    # Where signals cannot be blocked across the start, at least from here on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handle = int(sys.argv[1])
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection

        return PipeConnection(handle)
    return Connection(handle)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C reaches the whole process group, and the parent decides what it means. A process started in here
    inherits the block, so that it cannot die of Ctrl-C, with a traceback, while it is still importing."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
