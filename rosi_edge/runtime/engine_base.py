"""What engines of this process do alike, whoever computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import Advance
from rosi_edge.errors import UnsupportedModelError
from rosi_edge.runtime.chat import ChatTemplate
from rosi_edge.runtime.engine import Conversation, EngineFacts, Generation, Tokens
from rosi_edge.runtime.taps import Capture, TapRequest, Visit


class EngineBase(ABC):
    """See ``Engine`` for the methods."""

    facts: EngineFacts
    _template: ChatTemplate | None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...

    def encode(self, conversations: Sequence[Conversation]) -> list[Tokens]:
        if self._template is None:
            raise UnsupportedModelError(
                "this model has no chat template", "Use a chat model, or give a template with --template FILE"
            )
        return [self._tokenize(self._template.render(conversation)) for conversation in conversations]

    @abstractmethod
    def _tokenize(self, text: str) -> Tokens:
        """Tokens of a rendered template."""

    def capture(
        self,
        prompts: Sequence[Tokens],
        request: TapRequest,
        *,
        share_prefix: bool = True,
        advance: Advance | None = None,
    ) -> Capture:
        capture = Capture()
        self.capture_each(prompts, request, capture.keep, share_prefix=share_prefix, advance=advance)
        return capture

    @abstractmethod
    def capture_each(
        self,
        prompts: Sequence[Tokens],
        request: TapRequest,
        visit: Visit,
        *,
        share_prefix: bool = True,
        advance: Advance | None = None,
    ) -> None: ...

    def next_token_logprobs(self, prompts: Sequence[Tokens], *, advance: Advance | None = None) -> Float32:
        return self.generate_with_logprobs(prompts, max_tokens=0, advance=advance)[1]

    def generate(
        self, prompts: Sequence[Tokens], *, max_tokens: int, advance: Advance | None = None
    ) -> list[Generation]:
        return self._answer(prompts, max_tokens, None, advance)

    def generate_with_logprobs(
        self, prompts: Sequence[Tokens], *, max_tokens: int, advance: Advance | None = None
    ) -> tuple[list[Generation], Float32]:
        logprobs = np.empty((len(prompts), self.facts.vocabulary_size), dtype=np.float32)
        return self._answer(prompts, max_tokens, logprobs, advance), logprobs

    @abstractmethod
    def _answer(
        self, prompts: Sequence[Tokens], max_tokens: int, logprobs: Float32 | None, advance: Advance | None
    ) -> list[Generation]:
        """Greedy answers; fills ``logprobs`` with those of the token after each prompt, where it is given."""
