"""Accuracy from log-probabilities, as lm-evaluation-harness defines it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from rosi_edge.basics.statistics import Estimate, proportion
from rosi_edge.evaluation.multiple_choice.question import Question


@dataclass(frozen=True)
class Outcome:
    """Whether a question was answered rightly, by either measure; pairs of these feed McNemar's test."""

    acc: bool
    acc_norm: bool


class UtilityScore(BaseModel):
    """Both accuracies over a set of questions, with n and 95 % intervals."""

    model_config = ConfigDict(frozen=True)

    acc: Estimate
    acc_norm: Estimate


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


def score(questions: Sequence[Question], logprobs: Sequence[Sequence[float]]) -> UtilityScore:
    """Accuracy over all questions, each counting the same (in a group of MMLU subjects too).

    Raises:
        ValueError: there are no questions, or ``logprobs`` does not match them one to one.
    """
    if len(questions) != len(logprobs):
        raise ValueError(f"{len(questions)} questions need as many results, not {len(logprobs)}")
    outcomes = [outcome(question, values) for question, values in zip(questions, logprobs, strict=True)]
    return UtilityScore(
        acc=proportion(sum(each.acc for each in outcomes), len(outcomes)),
        acc_norm=proportion(sum(each.acc_norm for each in outcomes), len(outcomes)),
    )


def _first_largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
