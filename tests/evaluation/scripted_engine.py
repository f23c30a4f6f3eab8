"""A model that says what a script tells it, for suites: what they make of it is then known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import Advance
from rosi_edge.evaluation.judges.keyword import KeywordJudge
from rosi_edge.evaluation.kept import Kept
from rosi_edge.evaluation.suites.suite import Subject
from rosi_edge.runtime.engine import Conversation, EngineFacts, Generation, Tokens

VOCABULARY = 256
REFUSAL = "I'm sorry, but I can't help with that request."
COMPLIANCE = "Sure! First gather what you need, then follow these three simple steps in order."
BROKEN = "the the the the the the the the the the"


def as_tokens(text: str) -> Tokens:
    return list(text.encode())


def render(conversation: Conversation) -> str:
    turns = "".join(f"<{turn.role}>{turn.content}</{turn.role}>" for turn in conversation)
    return f"{turns}<assistant>"


def last_request(prompt: str) -> str:
    return prompt.rpartition("<user>")[2].partition("</user>")[0]


class ScriptedEngine:
    """The parts of ``Engine`` that suites use; a token is a byte.

    Args:
        say: the answer to a rendered prompt, in a session the text since its beginning.
        logits: the logits after a text, (vocabulary,).
    """

    def __init__(
        self,
        say: Callable[[str], str] = lambda prompt: REFUSAL,
        logits: Callable[[str], Float32] | None = None,
        *,
        context_size: int = 100_000,
        vocabulary: int = VOCABULARY,
    ) -> None:
        self.facts = EngineFacts("scripted", 1, 1, vocabulary, context_size, True)
        self._say = say
        self._logits = logits
        self.asked: list[str] = []
        self.probed_at: list[int] = []
        self.session = ""
        self.longest_extension = 0
        self.scored = 0
        self.closed = False

    def encode(self, conversations: Sequence[Conversation]) -> list[Tokens]:
        return [as_tokens(render(conversation)) for conversation in conversations]

    def encode_text(self, texts: Sequence[str]) -> list[Tokens]:
        return [as_tokens(text) for text in texts]

    def generate(
        self, prompts: Sequence[Tokens], *, max_tokens: int, advance: Advance | None = None
    ) -> list[Generation]:
        texts = [bytes(prompt).decode() for prompt in prompts]
        self.asked += texts
        if advance is not None:
            advance(len(prompts))
        return [self._answer(text, max_tokens) for text in texts]

    def _answer(self, text: str, max_tokens: int) -> Generation:
        whole = as_tokens(self._say(text))
        # Judges want words; here max_tokens counts bytes only where a test wants it to.
        cut = whole[:max_tokens] if self._logits is not None else whole
        return Generation(bytes(cut).decode("utf-8", "replace"), cut, len(whole) <= len(cut))

    def score_continuations(
        self, groups: Sequence[tuple[Tokens, Sequence[Tokens]]], *, advance: Advance | None = None
    ) -> list[list[Float32]]:
        self.scored += len(groups)
        if advance is not None:
            advance(len(groups))
        return [
            [
                rows[np.arange(len(tokens)), tokens]
                for tokens in continuations
                for rows in [self._rows(context, tokens)]
            ]
            for context, continuations in groups
        ]

    def continuation_logprobs(
        self, prompts: Sequence[Tokens], continuations: Sequence[Tokens]
    ) -> list[Float32]:
        return [self._rows(p, c) for p, c in zip(prompts, continuations, strict=True)]

    def _rows(self, context: Tokens, continuation: Tokens) -> Float32:
        assert continuation, "an empty continuation cannot be scored"
        assert self._logits is not None
        rows = []
        for end in range(len(continuation)):
            logits = self._logits(bytes([*context, *continuation[:end]]).decode("utf-8", "replace"))
            rows.append(logits - np.log(np.exp(logits).sum()))
        return np.array(rows, dtype=np.float32)

    def extend_session(self, tokens: Tokens, *, window: int) -> None:
        assert window <= self.facts.context_size
        assert len(tokens) <= window
        self.longest_extension = max(self.longest_extension, len(tokens))
        self.session += bytes(tokens).decode()

    def generate_in_session(self, prompts: Sequence[Tokens], *, max_tokens: int) -> list[Generation]:
        self.probed_at.append(len(self.session))
        texts = [self.session + bytes(prompt).decode() for prompt in prompts]
        self.asked += texts
        return [Generation(self._say(text), [1], True) for text in texts]

    def close(self) -> None:
        self.closed = True


def subject(
    engine: ScriptedEngine | Callable[[], ScriptedEngine],
    *,
    base: Subject | None = None,
    path: Path | None = None,
    sha256: str = "0" * 64,
) -> Subject:
    """A subject that runs a scripted engine, judged by keywords."""
    open_engine = engine if callable(engine) else lambda: engine
    return Subject("Model", sha256, open_engine, Kept(path, {"model": sha256}), KeywordJudge(), base)  # type: ignore[arg-type]
