"""Does it still know what it knew? Multiple choice by log-likelihood, in process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from rosi_edge.basics.progress import Progress
from rosi_edge.basics.statistics import proportion
from rosi_edge.evaluation.multiple_choice import Question, QuestionSet, bundled, load_questions, outcome
from rosi_edge.evaluation.suites.suite import (
    InputSet,
    Series,
    Subject,
    Suite,
    SuiteChoices,
    SuiteResult,
    item_id,
    refuse_nan,
)
from rosi_edge.runtime.engine import Engine, Tokens

_PIECE = 32


@dataclass(frozen=True)
class Utility(Suite):
    """MMLU, HellaSwag and ARC as lm-evaluation-harness scores them, without a chat template."""

    name: ClassVar[str] = "utility"
    description: ClassVar[str] = "MMLU, HellaSwag and ARC"
    needs_judge: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("utility",)

    sets: tuple[QuestionSet, ...]

    @classmethod
    def of(cls, choices: SuiteChoices) -> Self:
        if choices.utility:
            sets = [load_questions(reference) for reference in choices.utility]
        else:
            sets = list(bundled().values())
        if choices.limit is not None:
            sets = [questions.take(choices.limit, choices.seed) for questions in sets]
        return cls(tuple(sets))

    @property
    def inputs(self) -> tuple[InputSet, ...]:
        return tuple(InputSet(questions.name, len(questions), questions.sha256) for questions in self.sets)

    @property
    def settings(self) -> dict[str, Any]:
        return {"sources": [questions.source for questions in self.sets]}

    def measure(self, subject: Subject, progress: Progress) -> SuiteResult:
        scored = self._score(subject, progress)
        figures: list[Series] = []
        details: dict[str, Any] = {}
        names = _unique([questions.name for questions in self.sets])
        for name, questions, logprobs in zip(names, self.sets, scored, strict=True):
            outcomes = [outcome(q, values) for q, values in zip(questions, logprobs, strict=True)]
            items = tuple(item_id(f"{q.context}\n{q.choices}") for q in questions)
            shown = name.replace("_", " ")
            plain, normalised = zip(*((each.acc, each.acc_norm) for each in outcomes), strict=True)
            figures += [
                Series(f"{name}_acc", f"{shown}: accuracy", items, plain, "higher"),
                Series(f"{name}_acc_norm", f"{shown}: … length-normalised", items, normalised, "higher"),
            ]
            by_subject: dict[str, list[bool]] = {}
            for question, each in zip(questions, outcomes, strict=True):
                by_subject.setdefault(question.subject, []).append(each.acc)
            details[name] = {
                "acc_by_subject": {
                    part: proportion(sum(right), len(right)).model_dump()
                    for part, right in by_subject.items()
                }
            }
        if len(figures) > 2:
            every = [
                pair for series in figures[::2] for pair in zip(series.items, series.values, strict=True)
            ]
            items, right = zip(*every, strict=True)
            figures.append(Series("utility_acc", "all questions: accuracy", items, right, "higher"))
        return SuiteResult(tuple(figures), details)

    def _score(self, subject: Subject, progress: Progress) -> list[list[list[float]]]:
        """Summed log-probabilities of each choice of each question of each set."""
        pieces: list[tuple[int, list[Question], Any]] = []
        for index, questions in enumerate(self.sets):
            everything = list(questions)
            for start in range(0, len(everything), _PIECE):
                piece = everything[start : start + _PIECE]
                pieces.append((index, piece, {"choices": [[q.context, q.choices] for q in piece]}))
        kept = [_kept(subject.kept.get(name), piece) for _, piece, name in pieces]
        missing = sum(len(piece) for (_, piece, _), found in zip(pieces, kept, strict=True) if found is None)
        scored: list[list[list[float]]] = [[] for _ in self.sets]
        with progress.stage(f"{subject.title}: utility", missing) as advance:
            for (index, piece, name), found in zip(pieces, kept, strict=True):
                if found is None:
                    groups = [tokenized(subject.engine, question) for question in piece]
                    rows = subject.engine.score_continuations(groups, advance=advance)
                    found = [[float(np.sum(row, dtype=np.float64)) for row in rows_of] for rows_of in rows]
                    refuse_nan(value for values in found for value in values)
                    subject.kept.put(name, found)
                scored[index] += found
        return scored


def tokenized(engine: Engine, question: Question) -> tuple[Tokens, list[Tokens]]:
    """A question's context and continuations, cut as lm-evaluation-harness cuts them (``_encode_pair`` in
    lm_eval/api/model.py): the whole is tokenized, and what follows as many tokens as the context alone has is
    the continuation."""
    context, *wholes = engine.encode_text(
        [question.prefix, *(question.prefix + continuation for continuation in question.continuations)]
    )
    # A choice that the tokenizer swallows into the context's last token still has to be scored by something.
    return context, [whole[len(context) :] or whole[-1:] for whole in wholes]


def _unique(names: Sequence[str]) -> list[str]:
    return [
        name if names.count(name) == 1 else f"{name}_{names[: index + 1].count(name)}"
        for index, name in enumerate(names)
    ]


def _kept(result: Any, piece: Sequence[Question]) -> list[list[float]] | None:
    """Scores out of a checkpoint, or None when they are not there or not what was put in."""
    if not isinstance(result, list) or len(result) != len(piece):
        return None
    try:
        scores = [[float(value) for value in values] for values in result]
    except (TypeError, ValueError):
        return None
    matches = all(len(values) == len(q.choices) for values, q in zip(scores, piece, strict=True))
    return scores if matches and not any(math.isnan(v) for values in scores for v in values) else None


SUITE = Utility
