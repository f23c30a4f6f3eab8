"""An engine in a child process, so that a crash inside llama.cpp is an error here and not the end.

llama.cpp aborts on some broken files and some unforeseen graphs. The child runs ``LlamaEngine``; calls and
results cross a pipe. When the child dies, the parent raises ``EngineCrashError`` with ggml's last words.
The same boundary lets a caller cancel within moments: closing the engine kills the child.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar, cast

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import Advance
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import EngineCrashError, RosiEdgeError
from rosi_edge.native.words import in_plain_words
from rosi_edge.runtime.channel import receive, send
from rosi_edge.runtime.engine import (
    Conversation,
    EditHandle,
    EngineOptions,
    Generation,
    ModelFacts,
    OnText,
    Tokens,
)
from rosi_edge.runtime.taps import Capture, TapRequest, Visit

Result = TypeVar("Result")

_TEMPLATE_SECONDS = 60.0
"""A chat template is a program from the net; one that renders for longer than this is refused."""

_PATIENCE = 0.1
"""Seconds between two looks at whether somebody wants to cancel the loading."""


class ChildEngine:
    """``LlamaEngine`` in a process of its own; implements ``Engine``.

    Raises:
        ModelFileError, UnsupportedModelError: as ``LlamaEngine`` does.
        EngineCrashError: the child died, here or in any later call.
    """

    def __init__(
        self, path: Path, options: EngineOptions | None = None, *, look: Callable[[], None] | None = None
    ) -> None:
        """
        Args:
            look: called time and again while the model is loaded; what it raises ends the loading.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._last_words = tempfile.NamedTemporaryFile(  # noqa: SIM115 - lives as long as the engine
            prefix="rosi-edge-", suffix=".log"
        )
        self._process = context.Process(
            target=_serve,
            args=(theirs, path, options or EngineOptions(), self._last_words.name),
            daemon=True,
            name="rosi-edge-engine",
        )
        with _interrupts_blocked():
            self._process.start()
        theirs.close()
        self.path = path
        self._interrupted = False
        try:
            while look is not None and not self._connection.poll(_PATIENCE):
                look()
            self.facts = cast(ModelFacts, self._receive({}, None))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ChildEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._last_words.close()

    @property
    def alive(self) -> bool:
        """Whether calls can still be answered."""
        return not self._interrupted and self._process.is_alive()

    def cancel(self) -> None:
        """End the call that another thread is waiting for, with KeyboardInterrupt; the engine is gone."""
        self._interrupted = True
        self._process.kill()

    def encode(self, conversations: Sequence[Conversation]) -> list[Tokens]:
        return cast(list[Tokens], self._call("encode", conversations, timeout=_TEMPLATE_SECONDS))

    def encode_text(self, texts: Sequence[str]) -> list[Tokens]:
        return cast(list[Tokens], self._call("encode_text", texts))

    def capture(
        self,
        prompts: Sequence[Tokens],
        request: TapRequest,
        *,
        share_prefix: bool = True,
        advance: Advance | None = None,
    ) -> Capture:
        return cast(
            Capture, self._call("capture", prompts, request, share_prefix=share_prefix, advance=advance)
        )

    def capture_each(
        self,
        prompts: Sequence[Tokens],
        request: TapRequest,
        visit: Visit,
        *,
        share_prefix: bool = True,
        advance: Advance | None = None,
    ) -> None:
        self._call("capture_each", prompts, request, share_prefix=share_prefix, advance=advance, visit=visit)

    def next_token_logprobs(self, prompts: Sequence[Tokens], *, advance: Advance | None = None) -> Float32:
        return cast(Float32, self._call("next_token_logprobs", prompts, advance=advance))

    def hold(self, prompts: Sequence[Tokens], *, tail: int) -> None:
        self._call("hold", prompts, tail=tail)

    def held_logprobs(self) -> Float32:
        return cast(Float32, self._call("held_logprobs"))

    def generate(
        self, prompts: Sequence[Tokens], *, max_tokens: int, advance: Advance | None = None
    ) -> list[Generation]:
        return cast(list[Generation], self._call("generate", prompts, max_tokens=max_tokens, advance=advance))

    def generate_with_logprobs(
        self, prompts: Sequence[Tokens], *, max_tokens: int, advance: Advance | None = None
    ) -> tuple[list[Generation], Float32]:
        return cast(
            tuple[list[Generation], Float32],
            self._call("generate_with_logprobs", prompts, max_tokens=max_tokens, advance=advance),
        )

    def stream(self, prompt: Tokens, *, max_tokens: int, on_text: OnText) -> None:
        self._call("stream", prompt, max_tokens=max_tokens, on_text=on_text)

    def score_continuations(
        self, groups: Sequence[tuple[Tokens, Sequence[Tokens]]], *, advance: Advance | None = None
    ) -> list[list[Float32]]:
        return cast(list[list[Float32]], self._call("score_continuations", groups, advance=advance))

    def continuation_logprobs(
        self, prompts: Sequence[Tokens], continuations: Sequence[Tokens]
    ) -> list[Float32]:
        return cast(list[Float32], self._call("continuation_logprobs", prompts, continuations))

    def extend_session(self, tokens: Tokens, *, window: int) -> None:
        self._call("extend_session", tokens, window=window)

    def generate_in_session(self, prompts: Sequence[Tokens], *, max_tokens: int) -> list[Generation]:
        return cast(list[Generation], self._call("generate_in_session", prompts, max_tokens=max_tokens))

    def load_edits(self, edits: Sequence[RankOneEdit]) -> EditHandle:
        return cast(EditHandle, self._call("load_edits", edits))

    def load_adapter(self, path: Path) -> EditHandle:
        return cast(EditHandle, self._call("load_adapter", path))

    def apply(self, strengths: Mapping[EditHandle, float]) -> None:
        self._call("apply", dict(strengths))

    def unload(self, handle: EditHandle) -> None:
        self._call("unload", handle)

    def _call(
        self,
        method: str,
        *arguments: Any,
        advance: Advance | None = None,
        visit: Visit | None = None,
        on_text: OnText | None = None,
        timeout: float | None = None,
        **keywords: Any,
    ) -> object:
        if self._interrupted:
            # Whoever tidies up after an interruption (`engine.apply({})`) must not wait for a dead child, nor
            # turn the interruption into another error.
            raise KeyboardInterrupt
        try:
            listeners = {"advance": advance, "visit": visit, "on_text": on_text}
            wanted = [name for name, listener in listeners.items() if listener is not None]
            send(self._connection, (method, arguments, keywords, wanted))
        except (BrokenPipeError, ConnectionResetError):
            raise self._crash() from None
        try:
            return self._receive(listeners, timeout)
        except KeyboardInterrupt:
            # The call goes on in the child and its result would answer the next call.
            self._interrupted = True
            self._process.kill()
            raise

    def _receive(self, listeners: Mapping[str, Callable[..., None] | None], timeout: float | None) -> object:
        while True:
            try:
                if timeout is not None and not self._connection.poll(timeout):
                    self._process.kill()
                    raise EngineCrashError(
                        f"the chat template of {self.path} has been rendering for {timeout:.0f} seconds",
                        "It may be hostile; give another one with --template FILE",
                    )
                kind, value = cast(tuple[str, Any], receive(self._connection))
            except EOFError:
                raise self._crash() from None
            if (listener := listeners.get(kind)) is not None:
                listener(*value)
            elif kind == "result":
                return value
            elif kind == "error":
                raise value
            else:
                raise RuntimeError(f"the engine's process failed:\n{value}")

    def _crash(self) -> EngineCrashError:
        self._process.join(5)
        if self._interrupted:
            raise KeyboardInterrupt
        code = self._process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name
        lines = Path(self._last_words.name).read_text("utf-8", "replace").strip().splitlines()
        said = f": {in_plain_words(lines[-1].strip())[0]}" if lines else ""
        return EngineCrashError(
            f"llama.cpp crashed ({how}) while running {self.path}{said}",
            "`rosi-edge inspect` tells whether llama.cpp takes the file at all; if it does, the model may "
            "need more memory than there is: try a smaller -c",
        )


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C reaches the whole process group, and the parent decides what it means. A process started in here
    inherits the block, so that it cannot die of Ctrl-C, with a traceback, while it is still importing."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Started here because starting it unblocks the signal (Python 3.11).
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, path: Path, options: EngineOptions, last_words: str) -> None:
    """The child: make an engine, then answer calls until the parent goes away."""
    # Where signals cannot be blocked across the start, at least from here on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = os.open(last_words, os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 2)
    os.dup2(log, 1)
    sys.stderr = sys.stdout = open(log, "w", buffering=1, closefd=False)  # noqa: SIM115

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            # Imported here: the parent need never load llama.cpp.
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
