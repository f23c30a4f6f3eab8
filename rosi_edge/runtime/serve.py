"""What ``ChildEngine`` starts: makes an engine, then answers calls until the parent goes away."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from rosi_edge.basics.child import pipe_to_parent
from rosi_edge.errors import RosiEdgeError
from rosi_edge.runtime.channel import receive, send
from rosi_edge.runtime.engine import EngineOptions


def serve(connection: Connection) -> None:
    """Answer calls by messages of (kind, value): what listeners are told, and then "result", "error" (one for
    the user) or "failure" (a traceback). A call is (method, arguments, keywords, names of listeners).

    Raises:
        EOFError, BrokenPipeError, ConnectionResetError: the parent is gone.
    """
    path, options = cast(tuple[Path, EngineOptions], receive(connection))
    try:
        from rosi_edge.native.log import on_abort
        from rosi_edge.runtime.llama_engine import LlamaEngine

        on_abort(lambda message: os.write(2, f"{message}\n".encode()))
        engine = LlamaEngine(path, options)
    except RosiEdgeError as error:
        send(connection, ("error", error))
        return
    except Exception:
        send(connection, ("failure", traceback.format_exc()))
        return
    send(connection, ("result", engine.facts))
    while True:
        method, arguments, keywords, wanted = cast(tuple[Any, ...], receive(connection))
        keywords |= {name: _sender(connection, name) for name in wanted}
        try:
            send(connection, ("result", getattr(engine, method)(*arguments, **keywords)))
        except RosiEdgeError as error:
            send(connection, ("error", error))
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception:
            send(connection, ("failure", traceback.format_exc()))


def _sender(connection: Connection, listener: str) -> Callable[..., None]:
    """A listener of the parent's, as the engine in the child calls it."""
    return lambda *values: send(connection, (listener, values))


if __name__ == "__main__":
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(pipe_to_parent())
