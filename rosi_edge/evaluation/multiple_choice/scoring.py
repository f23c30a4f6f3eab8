"""Accuracy from log-probabilities, as lm-evaluation-harness defines it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rosi_edge.evaluation.multiple_choice.question import Question


@dataclass(frozen=True)
class Outcome:
    """Whether a question was answered rightly, by either measure; pairs of these feed McNemar's test."""

    acc: bool
    acc_norm: bool


def outcome(question: Question, logprobs: Sequence[float]) -> Outcome:
    """Judge one question by the summed natural-log probabilities of its choices.

    The definitions are those of ``process_results`` for multiple choice in lm-evaluation-harness
    (lm_eval/api/task.py): ``acc`` picks the choice with the largest log-probability, ``acc_norm`` the one
    whose log-probability is largest after division by its number of characters (not bytes, and without the
    space before it). The first of equal ones is picked.

    Args:
        logprobs: one value a choice, the sum over the tokens of its continuation.

    Raises:
        ValueError: the number of values is not that of the choices, or one is not a number.
    """
    if len(logprobs) != len(question.choices):
        raise ValueError(
            f"{len(question.choices)} choices need as many log-probabilities, not {len(logprobs)}"
        )
    if any(math.isnan(value) for value in logprobs):
        raise ValueError(f"a log-probability of the question at {question.place} is not a number")
    normalised = [value / len(choice) for value, choice in zip(logprobs, question.choices, strict=True)]
    return Outcome(
        acc=_first_largest(logprobs) == question.answer,
        acc_norm=_first_largest(normalised) == question.answer,
    )


def _first_largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
