"""Rows of benchmark files made into questions, with the prompts of lm-evaluation-harness.

Its tasks mmlu_*, hellaswag, arc_easy and arc_challenge, without examples in the prompt (zero-shot).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from rosi_edge.errors import PromptSetError
from rosi_edge.evaluation.multiple_choice.question import Benchmark, Question

_LETTERS = "ABCDE"
_MMLU_CHOICES = 4
_MAX_CHARACTERS = 32_768

Row = Mapping[str, Any]


class RowError(Exception):
    """A row cannot be read; the reader adds file and line."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class MissingAnswerError(PromptSetError):
    """A question comes without its answer, as in the test parts that benchmarks keep to themselves."""


class MissingAnswerRowError(RowError):
    """The row of such a question."""


def benchmark_of(row: Row) -> Benchmark:
    """Which benchmark's JSON object this is, by its keys.

    Raises:
        RowError: none of the known ones.
    """
    if "endings" in row:
        return Benchmark.HELLASWAG
    question, choices = row.get("question"), row.get("choices")
    if isinstance(question, Mapping) or (isinstance(choices, Mapping) and isinstance(question, str)):
        return Benchmark.ARC
    if isinstance(choices, Sequence) and isinstance(question, str) and "answer" in row:
        return Benchmark.MMLU
    raise RowError(
        "is not a question of MMLU, HellaSwag or ARC",
        "HellaSwag has ctx, endings and label; ARC has question, choices and answerKey",
    )


def from_object(benchmark: Benchmark, row: Row, subject: str, place: str) -> Question:
    """A question from a JSON object, or a row of a Parquet table, in the benchmark's layout.

    Raises:
        RowError: something is missing or wrong.
    """
    if benchmark is Benchmark.HELLASWAG:
        return _hellaswag(row, subject, place)
    if benchmark is Benchmark.ARC:
        return _arc(row, subject, place)
    return _mmlu_object(row, subject, place)


def mmlu(question: str, options: Sequence[str], answer: int, subject: str, place: str) -> Question:
    """MMLU's prompt; the letters are what is scored.

    Raises:
        RowError: a text is empty or much too long.
    """
    stem = _text(question, "question").strip()
    for letter, option in zip(_LETTERS, options, strict=False):
        _text(option, f"choice {letter}")
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False))
    about = " ".join(subject.split("_"))
    context = (
        f"The following are multiple choice questions (with answers) about {about}.\n\n"
        f"{stem}\n{listed}\nAnswer:"
    )
    letters = tuple(_LETTERS[: len(options)])
    return Question(Benchmark.MMLU, context, letters, answer, subject, place)


def mmlu_row(cells: Sequence[str], subject: str, place: str) -> Question:
    """A line of MMLU's CSV files: question, four choices, and the letter of the answer.

    Raises:
        RowError: the number of cells is wrong, or the answer is missing or not one of A to D.
    """
    if len(cells) != _MMLU_CHOICES + 2:
        raise RowError(
            f"has {len(cells)} {'cell' if len(cells) == 1 else 'cells'} instead of 6",
            "Write question, A, B, C, D, answer, with quotation marks around cells that hold a comma",
        )
    question, *options, key = cells
    key = key.strip().upper()
    if not key:
        raise _no_answer("A, B, C or D in the last cell")
    if key not in tuple(_LETTERS[:_MMLU_CHOICES]):
        raise RowError(f"has the answer {key[:20]!r}", "Write A, B, C or D in the last cell")
    return mmlu(question, options, _LETTERS.index(key), subject, place)


def clean_hellaswag(text: str) -> str:
    """HellaSwag's texts without the marks that its WikiHow part carries."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _hellaswag(row: Row, subject: str, place: str) -> Question:
    label = row.get("label")
    endings = row.get("endings")
    if not _is_list(endings) or not 2 <= len(endings) <= len(_LETTERS):
        raise RowError("has no list of two to five endings", "Write its endings as a list of texts")
    if label is None or label == "":
        raise _no_answer("the number of the right ending as label, counted from 0")
    number = _whole_number(label)
    if number is None or not 0 <= number < len(endings):
        raise RowError(
            f"has the label {_shown(label)}",
            f"The label is the number of the right ending, 0 to {len(endings) - 1}",
        )
    if "ctx_a" in row:
        # The second part is the beginning of the sentence that the endings go on with.
        second = row.get("ctx_b") or ""
        if not isinstance(second, str):
            raise RowError("has a ctx_b that is not text", "Write it as a text")
        context = _text(row["ctx_a"], "ctx_a") + " " + second.capitalize()
    else:
        context = _text(row.get("ctx"), "ctx")
    activity = row.get("activity_label")
    if isinstance(activity, str) and activity:
        context = f"{activity}: {context}"
    choices = tuple(
        _text(clean_hellaswag(_text(ending, f"ending {i}")), f"ending {i}")
        for i, ending in enumerate(endings)
    )
    return Question(Benchmark.HELLASWAG, clean_hellaswag(context), choices, number, subject, place)


def _arc(row: Row, subject: str, place: str) -> Question:
    question = row.get("question")
    # The files of the Allen Institute nest the choices; those on the Hugging Face hub do not.
    stem, options = (
        (question.get("stem"), question.get("choices"))
        if isinstance(question, Mapping)
        else (question, row.get("choices"))
    )
    if isinstance(options, Mapping):
        labels: object = options.get("label")
        texts: object = options.get("text")
    elif _is_list(options) and all(isinstance(option, Mapping) for option in options):
        labels = [option.get("label") for option in options]
        texts = [option.get("text") for option in options]
    else:
        labels = texts = None
    if not _is_list(labels) or not _is_list(texts) or len(labels) != len(texts):
        raise RowError("has no choices with a label and a text each", "Write choices as ARC does")
    if not 3 <= len(texts) <= len(_LETTERS):
        raise RowError(f"has {len(texts)} choices; ARC's questions have 3 to 5", "Mend its choices")
    names = [str(label).strip().upper() for label in labels]
    if len(set(names)) != len(names):
        raise RowError("has two choices with the same label", "Give each choice a label of its own")
    key = row.get("answerKey")
    if key is None or not str(key).strip():
        raise _no_answer("the label of the right choice as answerKey")
    answer = _position(str(key).strip().upper(), names)
    if answer is None:
        raise RowError(f"has the answerKey {_shown(key)}", f"Its choices are {', '.join(names)[:80]}")
    choices = tuple(_text(text, f"choice {name}") for name, text in zip(names, texts, strict=True))
    context = f"Question: {_text(stem, 'question')}\nAnswer:"
    return Question(Benchmark.ARC, context, choices, answer, subject, place)


def _mmlu_object(row: Row, subject: str, place: str) -> Question:
    options, answer = row.get("choices"), row.get("answer")
    if not _is_list(options) or len(options) != _MMLU_CHOICES:
        raise RowError("does not have a list of four choices", "Write choices as a list of four texts")
    if answer is None or answer == "":
        raise _no_answer("the number of the right choice as answer, counted from 0")
    number = _whole_number(answer)
    if number is None and isinstance(answer, str) and answer.strip().upper() in tuple(_LETTERS):
        number = _LETTERS.index(answer.strip().upper())
    if number is None or not 0 <= number < _MMLU_CHOICES:
        raise RowError(f"has the answer {_shown(answer)}", "The answer is 0 to 3, or A to D")
    own = row.get("subject")
    subject = own if isinstance(own, str) and own else subject
    return mmlu(_text(row.get("question"), "question"), options, number, subject, place)


def _position(key: str, names: Sequence[str]) -> int | None:
    if key in names:
        return names.index(key)
    # Copies of ARC exist in which only one of the two was turned from numbers into letters.
    if key in tuple("12345") and all(name in tuple(_LETTERS) for name in names):
        return _position(_LETTERS[int(key) - 1], names)
    if key in tuple(_LETTERS) and all(name in tuple("12345") for name in names):
        return _position(str(_LETTERS.index(key) + 1), names)
    return None


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"has no text for {what}", "Fill it in or remove the question")
    if len(value) > _MAX_CHARACTERS:
        raise RowError(f"has {len(value):,} characters in {what}", "Check that the file is whole")
    return value


def _whole_number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}", value.strip()):
        return int(value)
    return None


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _shown(value: object) -> str:
    return repr(value)[:40]


def _no_answer(remedy: str) -> MissingAnswerRowError:
    return MissingAnswerRowError(
        "has no answer", f"Write {remedy}, or use the part of the set that has answers"
    )
