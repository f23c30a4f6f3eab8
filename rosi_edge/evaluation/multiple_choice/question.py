"""A multiple-choice question, whatever file it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, zip_longest
from typing import Self

from rosi_edge.errors import PromptSetError


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

        The draw depends on the questions and the seed only, so that a report's seed gives the same sample
        on any machine. The questions keep their order.

        Raises:
            PromptSetError: ``n`` is below 1.
        """
        if n < 1:
            raise PromptSetError(f"A sample of {n} questions was asked for", "Ask for at least 1 question")
        if n >= len(self):
            return self
        groups: dict[str, list[int]] = {}
        for index, question in enumerate(self.questions):
            groups.setdefault(question.subject, []).append(index)
        subjects = sorted(groups, key=lambda subject: _rank(seed, subject.encode()))
        ranked = [sorted(groups[s], key=lambda i: _rank(seed, _key(self.questions[i]))) for s in subjects]
        rounds = chain.from_iterable(zip_longest(*ranked))
        drawn = [index for index in rounds if index is not None][:n]
        return type(self).of(self.name, (self.questions[index] for index in sorted(drawn)), self.source)


def _key(question: Question) -> bytes:
    return json.dumps([question.context, question.choices, question.answer]).encode() + b"\n"


def _rank(seed: int, key: bytes) -> bytes:
    return hashlib.sha256(f"{seed}\n".encode() + key).digest()
