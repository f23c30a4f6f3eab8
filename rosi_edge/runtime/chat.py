"""From conversations to the text a model was trained on: the file's own chat template, in a sandbox."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from rosi_edge.errors import UnsupportedModelError
from rosi_edge.runtime.engine import Conversation, Message, Role

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_MEMORY = 2**30
"""Bytes that rendering may take on top of what is in use already. A prompt takes some thousands."""

_LONGEST = 2**22
"""Characters of a prompt; a context of a million tokens. Tokenizing takes some fifty bytes for each, and lies
outside the limit of memory."""

_STATM = Path("/proc/self/statm")
_one_at_a_time = threading.Lock()
"""The limit is the whole process's: two renderings at once would restore each other's."""


class ChatTemplate:
    """A chat template. It is compiled when it is first rendered, under the same limits: compiling works out
    what is constant in it, which can take as much time and memory as rendering."""

    def __init__(self, template: str, *, bos: str, eos: str) -> None:
        self._compile = partial(Jinja2ChatFormatter, template=template, bos_token=bos, eos_token=eos)
        self._formatter: Jinja2ChatFormatter | None = None

    def render(self, conversation: Conversation) -> str:
        """The prompt text, opened for the assistant's answer.

        Templates without a system role (Gemma's, for one) raise or drop it: there the system prompt goes
        in front of the first user turn, as their authors advise.

        Raises:
            UnsupportedModelError: the template is not valid Jinja, raises an error, needs too much memory
                or makes too long a prompt.
        """
        text = self._try(conversation)
        system = [message.content for message in conversation if message.role is Role.SYSTEM]
        foldable = bool(system) and not isinstance(text, _TooLargeError)
        if foldable and (isinstance(text, Exception) or system[0].strip() not in text):
            text = self._try(_fold_system(conversation))
        if isinstance(text, _TooLargeError):
            raise UnsupportedModelError(
                f"the chat template needs more than {_MEMORY // 2**20} MiB of memory to be rendered",
                "It may be hostile; give another one with --template FILE",
            )
        if isinstance(text, Exception):
            what = "parsed" if isinstance(text, jinja2.TemplateSyntaxError) else "rendered"
            raise UnsupportedModelError(
                f"the chat template cannot be {what}: {text}", "Give a working one with --template FILE"
            ) from text
        if len(text) > _LONGEST:
            raise UnsupportedModelError(
                f"the chat template makes a prompt of {len(text)} characters; {_LONGEST} are allowed",
                "It may be hostile; give another one with --template FILE",
            )
        return text

    def _try(self, conversation: Conversation) -> str | Exception:
        messages: Any = [{"role": str(m.role), "content": m.content} for m in conversation]
        try:
            with _memory_limited():
                self._formatter = self._formatter or self._compile()
                return str(self._formatter(messages=messages).prompt)
        except MemoryError:
            # Not the error itself: its traceback holds on to all that was rendered so far.
            return _TooLargeError()
        except Exception as error:  # a template is a program of the file's author: it may raise anything
            return error


class _TooLargeError(Exception):
    """Rendering met the limit of memory."""


@contextmanager
def _memory_limited() -> Iterator[None]:
    """Memory for what is done inside, and no more, where the system can limit it.

    The limit is the process's, so it is lifted again at once; meanwhile other threads share what it leaves.
    """
    with _one_at_a_time:
        if resource is None or not _STATM.exists():
            yield
            return
        before = resource.getrlimit(resource.RLIMIT_AS)
        try:
            _limit_memory(*before)
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


def _limit_memory(soft: int, hard: int) -> None:
    used = int(_STATM.read_text("ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    wanted = used + _MEMORY
    # A limit that somebody else has set is only ever made tighter.
    if all(each == resource.RLIM_INFINITY or each > wanted for each in (soft, hard)):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def _fold_system(conversation: Conversation) -> Conversation:
    system = "\n\n".join(m.content for m in conversation if m.role is Role.SYSTEM)
    rest = [m for m in conversation if m.role is not Role.SYSTEM]
    first = next((i for i, m in enumerate(rest) if m.role is Role.USER), None)
    if first is None:
        return tuple(rest)
    rest[first] = Message(Role.USER, f"{system}\n\n{rest[first].content}")
    return tuple(rest)
