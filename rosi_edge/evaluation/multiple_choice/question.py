"""A multiple-choice question, whatever file it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from rosi_edge.errors import PromptSetError
from rosi_edge.prompts.draw import draw


class Benchmark(StrEnum):
    """The benchmarks whose files can be read."""

    MMLU = "mmlu"
    HELLASWAG = "hellaswag"
    ARC = "arc"


@dataclass(frozen=True)
class Question:
    """What the model reads and the texts of which one continues it best.

    Args:
        benchmark: the benchmark whose format it was in.
        context: the prompt in plain text, without a chat template.
        choices: the texts that are scored; for MMLU the letters, which is what its prompt asks for.
        answer: index of the right choice.
        subject: MMLU's subject, or the name of the set.
        place: file and line, for messages.
    """

    benchmark: Benchmark
    context: str
    choices: tuple[str, ...]
    answer: int
    subject: str
    place: str

    @property
    def prefix(self) -> str:
        """The context as it is tokenized: without white space at its end."""
        return self.context.rstrip()

    @property
    def continuations(self) -> tuple[str, ...]:
        """What follows ``prefix``, one text a choice: a space and the choice.

        lm-evaluation-harness moves white space from the end of the context to the continuation, tokenizes
        ``prefix + continuation`` as a whole, and scores the tokens after the first n, where n is the number
        of tokens of ``prefix`` alone. Choices therefore share exactly the tokens of ``prefix`` unless a
        tokenizer joins its end with the space.
        """
        moved = self.context[len(self.prefix) :]
        return tuple(f"{moved} {choice}" for choice in self.choices)


@dataclass(frozen=True)
class QuestionSet:
    """Questions in order, with the hash that a report names them by."""

    name: str
    questions: tuple[Question, ...]
    source: str
    sha256: str

    @classmethod
    def of(cls, name: str, questions: Iterable[Question], source: str) -> Self:
        """Make a set and hash it: contexts, choices and answers, as one line of JSON each."""
        kept = tuple(questions)
        digest = hashlib.sha256()
        for question in kept:
            digest.update(_key(question))
        return cls(name, kept, source, digest.hexdigest())

    def __len__(self) -> int:
        return len(self.questions)

    def __iter__(self) -> Iterator[Question]:
        return iter(self.questions)

    def take(self, n: int, seed: int = 0) -> Self:
        """Draw at most ``n`` questions, as evenly over the subjects as their sizes allow.

        A report's seed gives the same sample on any machine, see :func:`rosi_edge.prompts.draw.draw`. The
        questions keep their order.

        Raises:
            PromptSetError: ``n`` is below 1.
        """
        if n < 1:
            raise PromptSetError(f"A sample of {n} questions was asked for", "Ask for at least 1 question")
        if n >= len(self):
            return self
        keys = ((question.subject.encode(), _key(question)) for question in self.questions)
        drawn = (self.questions[index] for index in draw(keys, n, seed))
        return type(self).of(self.name, drawn, self.source)


def _key(question: Question) -> bytes:
    return json.dumps([question.context, question.choices, question.answer]).encode() + b"\n"
