"""What the rest of the tool asks of a running model, whoever runs it.

llama.cpp is the first engine (``llama_engine``), in this process or in a child (``child_engine``). A second
one only has to implement ``Engine``; prompts → activations → direction → edits never look behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import Advance
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.runtime.taps import Capture, TapRequest, Visit

Tokens = list[int]

SESSION_OPENING = 64
"""Tokens at the opening of a session, its system prompt, that never fall out of the window."""


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True)
class Message:
    role: Role
    content: str


Conversation = tuple[Message, ...]
OnText = Callable[[str], None]
"""Receives the next piece of an answer."""


def ask(request: str, system: str | None = None) -> Conversation:
    """A single user turn, under a system prompt when one is given."""
    user = Message(Role.USER, request)
    return (Message(Role.SYSTEM, system), user) if system else (user,)


@dataclass(frozen=True)
class EngineFacts:
    """What a running model is."""

    architecture: str
    layers: int
    hidden_size: int
    vocabulary_size: int
    context_size: int
    has_chat_template: bool


@dataclass(frozen=True)
class EngineOptions:
    """How to run a model; the names in brackets are llama.cpp's flags."""

    gpu_layers: int = 0  # -ngl
    context_size: int = 4096  # -c: cells that all sequences of a batch share
    batch_size: int = 512  # -b: tokens in one micro-batch
    threads: int | None = None  # -t: None takes every core this process may use
    sequences: int = 32  # prompts decoded side by side
    held: int = 0  # prompts that ``Engine.hold`` can keep; each needs memory for a row of logits
    template: str | None = None  # a chat template instead of the file's own
    rpc: tuple[str, ...] = ()  # --rpc: other machines that compute as well, host:port each


@dataclass(frozen=True)
class Generation:
    """A greedy answer. ``finished``: the model ended it by itself; otherwise it was cut."""

    text: str
    tokens: Tokens = field(repr=False)
    finished: bool


EditHandle = int
"""A set of edits that the engine holds ready, to be switched on at any strength."""


class Engine(Protocol):
    """A loaded model. Engines are context managers; after ``close`` nothing else may be called."""

    @property
    def facts(self) -> EngineFacts: ...

    def encode(self, conversations: Sequence[Conversation]) -> list[Tokens]:
        """Tokens of each conversation through the model's chat template, opened for the answer.

        Raises:
            UnsupportedModelError: the file has no chat template, or it cannot be rendered.
        """
        ...

    def encode_text(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of plain texts, no template, with the vocabulary's own opening token if it adds one."""
        ...

    def capture(
        self,
        prompts: Sequence[Tokens],
        request: TapRequest,
        *,
        share_prefix: bool = True,
        advance: Advance | None = None,
    ) -> Capture:
        """Read activations while decoding. With ``share_prefix`` the tokens that all prompts begin with
        are decoded once and not captured; ``advance`` counts prompts."""
        ...

    def capture_each(
        self,
        prompts: Sequence[Tokens],
        request: TapRequest,
        visit: Visit,
        *,
        share_prefix: bool = True,
        advance: Advance | None = None,
    ) -> None:
        """The same, handing over one tap's result at a time: for captures too large to hold twice."""
        ...

    def next_token_logprobs(self, prompts: Sequence[Tokens], *, advance: Advance | None = None) -> Float32:
        """Natural-log probabilities of the token after each prompt, shape (prompts, vocabulary)."""
        ...

    def hold(self, prompts: Sequence[Tokens], *, tail: int) -> None:
        """Keep prompts at hand for ``held_logprobs``, which many sets of edits will be tried on.

        Their tokens but for the last ``tail`` are computed once, by the unedited model: meant for edits that
        act at the end of a prompt. An engine that cannot keep them (``EngineOptions.held``, the size of its
        context, a recurrent memory) computes them whole each time.
        """
        ...

    def held_logprobs(self) -> Float32:
        """Natural-log probabilities of the token after each held prompt, shape (prompts, vocabulary), under
        the edits applied now. Holding goes on until ``hold`` is called again."""
        ...

    def generate(
        self, prompts: Sequence[Tokens], *, max_tokens: int, advance: Advance | None = None
    ) -> list[Generation]:
        """Greedy answers of at most ``max_tokens`` tokens."""
        ...

    def stream(self, prompt: Tokens, *, max_tokens: int, on_text: OnText) -> None:
        """One greedy answer, handed over piece by piece as it is written."""
        ...

    def generate_with_logprobs(
        self, prompts: Sequence[Tokens], *, max_tokens: int, advance: Advance | None = None
    ) -> tuple[list[Generation], Float32]:
        """Both of the above from one pass over the prompts."""
        ...

    def score_continuations(
        self, groups: Sequence[tuple[Tokens, Sequence[Tokens]]], *, advance: Advance | None = None
    ) -> list[list[Float32]]:
        """Natural-log probabilities of each token of each continuation, given its context.

        Args:
            groups: (context, continuations); a context is decoded once, its continuations are branches.

        Returns:
            for each group and continuation an array of (tokens,). ``advance`` counts groups.
        """
        ...

    def continuation_logprobs(
        self, prompts: Sequence[Tokens], continuations: Sequence[Tokens]
    ) -> list[Float32]:
        """The whole distribution before each token of one continuation a prompt, each (tokens, vocabulary).

        A token costs four bytes times the vocabulary; pass a few prompts at a time.
        """
        ...

    def extend_session(self, tokens: Tokens, *, window: int) -> None:
        """Append tokens to one long session. Beyond ``window`` tokens the oldest half falls out, except for
        the opening (llama.cpp's context shift). Every other method ends the session.

        Raises:
            EngineError: this model's memory cannot be shifted.
        """
        ...

    def generate_in_session(self, prompts: Sequence[Tokens], *, max_tokens: int) -> list[Generation]:
        """Greedy answers to prompts that go on from the session; the session itself stays as it is."""
        ...

    def load_edits(self, edits: Sequence[RankOneEdit]) -> EditHandle:
        """Hold edits ready at strength zero."""
        ...

    def load_adapter(self, path: Path) -> EditHandle:
        """Hold a LoRA adapter file ready at strength zero."""
        ...

    def apply(self, strengths: Mapping[EditHandle, float]) -> None:
        """Make exactly these edits active; ``{}`` restores the model as it is in its file."""
        ...

    def unload(self, handle: EditHandle) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exception: object) -> None: ...


class StoppableEngine(Engine, Protocol):
    """An engine that another thread can stop in the middle of a call."""

    @property
    def alive(self) -> bool:
        """Whether calls can still be answered."""
        ...

    def cancel(self) -> None:
        """End the call that another thread is waiting for, with KeyboardInterrupt; the engine is gone."""
        ...

    def __enter__(self) -> StoppableEngine: ...


@contextmanager
def edits_applied(
    engine: Engine, edits: Sequence[RankOneEdit], strength: float = 1.0
) -> Iterator[EditHandle]:
    """Edits that are active until the end, and no others; afterwards none are."""
    handle = engine.load_edits(edits)
    try:
        engine.apply({handle: strength})
        yield handle
    finally:
        engine.apply({})
        engine.unload(handle)
