"""An engine in a child process, so that a crash inside llama.cpp is an error here and not the end.

llama.cpp aborts on some broken files and some unforeseen graphs. The child runs ``LlamaEngine``; calls and
results cross a pipe. When the child dies, the parent raises ``EngineCrashError`` with ggml's last words.
The same boundary lets a caller cancel within moments: closing the engine kills the child.

The child sets ``OMP_WAIT_POLICY=passive`` unless the environment has it already: threads of llama.cpp that
wait for one another sleep, and beside other work cost their share. With ``OMP_WAIT_POLICY=active`` they spin.
That is 4 % faster on a machine that does nothing else, and twice as slow beside another such process.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.child import start
from rosi_edge.basics.progress import Advance
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import EngineCrashError
from rosi_edge.runtime.channel import receive, send
from rosi_edge.runtime.engine import (
    Conversation,
    EditHandle,
    EngineFacts,
    EngineOptions,
    Generation,
    OnText,
    Tokens,
)
from rosi_edge.runtime.taps import Capture, TapRequest, Visit

_TEMPLATE_SECONDS = 60.0
"""A chat template is a program from the net; one that renders for longer than this is refused."""

_PATIENCE = 0.1
"""Seconds between two looks at whether somebody wants to cancel the loading."""


class ChildEngine:
    """``LlamaEngine`` in a process of its own; implements ``Engine``.

    Raises:
        ModelFileError, UnsupportedModelError: as ``LlamaEngine`` does.
        EngineError: this Python cannot start another one.
        EngineCrashError: the child died, here or in any later call.
    """

    def __init__(
        self, path: Path, options: EngineOptions | None = None, *, look: Callable[[], None] | None = None
    ) -> None:
        """
        Args:
            look: called time and again while the model is loaded; what it raises ends the loading.
        """
        self._last_words = tempfile.TemporaryFile(prefix="rosi-edge-")  # noqa: SIM115 - as long as the engine
        self._process, self._connection = start(
            "rosi_edge.runtime.serve", output=self._last_words, defaults={"OMP_WAIT_POLICY": "passive"}
        )
        self._end = weakref.finalize(self, _end, self._process)
        self.path = path
        self._interrupted = False
        try:
            self._send((path, options or EngineOptions()))
            while look is not None and not self._connection.poll(_PATIENCE):
                look()
            self.facts = cast(EngineFacts, self._receive({}, None))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ChildEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._end()
        self._connection.close()
        self._last_words.close()

    @property
    def alive(self) -> bool:
        """Whether calls can still be answered."""
        return not self._interrupted and self._process.poll() is None

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
        listeners = {"advance": advance, "visit": visit, "on_text": on_text}
        wanted = [name for name, listener in listeners.items() if listener is not None]
        self._send((method, arguments, keywords, wanted))
        try:
            return self._receive(listeners, timeout)
        except KeyboardInterrupt:
            # The call goes on in the child and its result would answer the next call.
            self._interrupted = True
            self._process.kill()
            raise

    def _send(self, message: object) -> None:
        try:
            send(self._connection, message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._crash() from None

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
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        if self._interrupted:
            raise KeyboardInterrupt
        code = self._process.returncode
        self._last_words.seek(0)
        lines = self._last_words.read().decode("utf-8", "replace").strip().splitlines()
        said = f": {lines[-1].strip()}" if lines else ""
        if code == 1:
            # So Python ends. llama.cpp aborts.
            return EngineCrashError(
                f"the process for llama.cpp failed{said}",
                f"It is run by {sys.executable}, which has to be a Python where rosi-edge is installed",
            )
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name
        return EngineCrashError(
            f"llama.cpp crashed ({how}) while running {self.path}{said}",
            "`rosi-edge inspect` tells whether llama.cpp takes the file at all; if it does, the model may "
            "need more memory than there is: try a smaller -c",
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
