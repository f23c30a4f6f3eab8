"""A model made of a few numbers, whose right answers are known: for the search and the direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import Advance
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.evaluation.verdicts import Verdict
from rosi_edge.prompts.sets import Prompt, PromptSet
from rosi_edge.runtime.engine import Conversation, EngineFacts, Generation, OnText, Tokens
from rosi_edge.runtime.taps import Capture, Tapped, TapRequest, Visit

REFUSAL, ANSWER = 0, 1
"""The vocabulary; an answer is one such token."""


class FakeEngine:
    """Implements ``Engine``. A prompt is refused when the push on it reaches its threshold.

    Args:
        thresholds: for each request the push from which on it is refused.
        push: (request, layer, strength) → the push of an edit whose output is the layer's direction, which is
            the layer's unit vector.
        rows: (conversation, layer) → (hidden,), the stream at the last token.
    """

    def __init__(
        self,
        layers: int,
        thresholds: Mapping[str, float],
        push: Callable[[str, int, float], float] = lambda request, layer, strength: strength,
        rows: Callable[[Conversation, int], Float32] | None = None,
        hidden: int | None = None,
    ) -> None:
        self.facts = EngineFacts("fake", layers, hidden or layers, 2, 1000, True)
        self._thresholds = thresholds
        self._push = push
        self._rows = rows
        self.conversations: list[Conversation] = []
        self.loaded: dict[int, Sequence[RankOneEdit]] = {}
        self.active: dict[int, float] = {}
        self.strengths: list[float] = []
        self.answered = 0
        self.held: list[Tokens] = []

    def encode(self, conversations: Sequence[Conversation]) -> list[Tokens]:
        first = len(self.conversations)
        self.conversations += conversations
        return [[index] for index in range(first, len(self.conversations))]

    def encode_text(self, texts: Sequence[str]) -> list[Tokens]:
        raise AssertionError("nobody should tokenize plain text here")

    def capture(
        self,
        prompts: Sequence[Tokens],
        request: TapRequest,
        *,
        share_prefix: bool = True,
        advance: Advance | None = None,
    ) -> Capture:
        assert self._rows is not None
        capture = Capture()
        for layer in request.blocks:
            rows = np.stack([self._rows(self.conversations[tokens[0]], layer) for tokens in prompts])
            capture.streams[layer] = Tapped(
                len(rows), rows=rows, prompts=np.arange(len(rows), dtype=np.int32)
            )
        if advance:
            advance(len(prompts))
        return capture

    def capture_each(
        self,
        prompts: Sequence[Tokens],
        request: TapRequest,
        visit: Visit,
        *,
        share_prefix: bool = True,
        advance: Advance | None = None,
    ) -> None:
        capture = self.capture(prompts, request, share_prefix=share_prefix, advance=advance)
        for layer, tapped in capture.streams.items():
            visit(layer, tapped)

    def next_token_logprobs(self, prompts: Sequence[Tokens], *, advance: Advance | None = None) -> Float32:
        scores = np.array([self._score(tokens) for tokens in prompts])
        return np.stack([-np.logaddexp(0, -scores), -np.logaddexp(0, scores)], axis=1).astype(np.float32)

    def hold(self, prompts: Sequence[Tokens], *, tail: int) -> None:
        self.held = list(prompts)

    def held_logprobs(self) -> Float32:
        return self.next_token_logprobs(self.held)

    def stream(self, prompt: Tokens, *, max_tokens: int, on_text: OnText) -> None:
        on_text(self.generate([prompt], max_tokens=max_tokens)[0].text)

    def generate(
        self, prompts: Sequence[Tokens], *, max_tokens: int, advance: Advance | None = None
    ) -> list[Generation]:
        self.answered += len(prompts)
        answers = [REFUSAL if self._score(tokens) >= 0 else ANSWER for tokens in prompts]
        if advance:
            advance(len(prompts))
        return [Generation("no" if token == REFUSAL else "yes", [token], True) for token in answers]

    def generate_with_logprobs(
        self, prompts: Sequence[Tokens], *, max_tokens: int, advance: Advance | None = None
    ) -> tuple[list[Generation], Float32]:
        return self.generate(prompts, max_tokens=max_tokens, advance=advance), self.next_token_logprobs(
            prompts
        )

    def score_continuations(
        self, groups: Sequence[tuple[Tokens, Sequence[Tokens]]], *, advance: Advance | None = None
    ) -> list[list[Float32]]:
        raise AssertionError("neither the search nor the direction scores continuations")

    def continuation_logprobs(
        self, prompts: Sequence[Tokens], continuations: Sequence[Tokens]
    ) -> list[Float32]:
        raise AssertionError("neither the search nor the direction scores continuations")

    def extend_session(self, tokens: Tokens, *, window: int) -> None:
        raise AssertionError("neither the search nor the direction holds a session")

    def generate_in_session(self, prompts: Sequence[Tokens], *, max_tokens: int) -> list[Generation]:
        raise AssertionError("neither the search nor the direction holds a session")

    def load_edits(self, edits: Sequence[RankOneEdit]) -> int:
        handle = max(self.loaded, default=0) + 1
        self.loaded[handle] = edits
        return handle

    def load_adapter(self, path: Path) -> int:
        raise AssertionError("the search loads edits")

    def apply(self, strengths: Mapping[int, float]) -> None:
        assert set(strengths) <= set(self.loaded)
        self.active = dict(strengths)
        self.strengths += strengths.values()

    def unload(self, handle: int) -> None:
        del self.loaded[handle]
        self.active.pop(handle, None)

    def close(self) -> None: ...

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def _score(self, tokens: Tokens) -> float:
        """Log-odds of a refusal."""
        request = self.conversations[tokens[0]][-1].content
        push = sum(
            self._push(request, int(np.argmax(self.loaded[handle][0].output)), strength)
            for handle, strength in self.active.items()
        )
        return push - self._thresholds[request]


class FakeJudge:
    """Judges the answers of ``FakeEngine``."""

    name = "fake"

    def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        return [{"no": Verdict.REFUSED, "yes": Verdict.COMPLIED}[answer] for answer in answers]


def prompt_set(name: str, texts: Sequence[str]) -> PromptSet:
    return PromptSet.of(name, [Prompt(text) for text in texts], "made up")
