"""Multiple choice by log-likelihood: MMLU, HellaSwag and ARC, defined as lm-evaluation-harness does."""

from __future__ import annotations

from rosi_edge.evaluation.multiple_choice.question import Benchmark, Question, QuestionSet
from rosi_edge.evaluation.multiple_choice.reader import bundled, load_questions
from rosi_edge.evaluation.multiple_choice.scoring import Outcome, outcome

__all__ = [
    "Benchmark",
    "Outcome",
    "Question",
    "QuestionSet",
    "bundled",
    "load_questions",
    "outcome",
]
