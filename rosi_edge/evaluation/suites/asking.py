"""Asking a model many requests and judging its answers, a piece at a time.

A piece is judged at once and kept, so an interruption costs at most one piece.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rosi_edge.basics.progress import Progress
from rosi_edge.basics.statistics import proportion
from rosi_edge.evaluation.attacks.attack import as_written
from rosi_edge.evaluation.suites.suite import Series, Subject, item_id
from rosi_edge.evaluation.verdicts import Verdict
from rosi_edge.prompts.sets import PromptSet
from rosi_edge.records.evaluation import Better
from rosi_edge.runtime.engine import Conversation, Generation, ask

PIECE = 64
"""Prompts: twice as many as the engine decodes side by side, so that it can start the next one when one ends.
Fewer would cost speed, more would cost more at an interruption."""
OPENING_WORDS = 12
_OPENING_CHARACTERS = 120


@dataclass(frozen=True)
class Asking:
    """A request and how it is put.

    Attributes:
        request: what is wanted, in plain words, for the judge.
        conversation: what the model is asked; the last turn is the user's.
        decode: makes plain text of an answer that may come in a code.
    """

    request: str
    conversation: Conversation
    decode: Callable[[str], str] = field(default=as_written, repr=False)


@dataclass(frozen=True)
class Answer:
    """What remains of an answer.

    Attributes:
        item: id of the request.
        opening: its first words. Nothing else of an answer is kept, for it may be harmful.
    """

    item: str
    verdict: Verdict
    opening: str


def plainly(prompts: PromptSet) -> list[Asking]:
    """The requests as they are."""
    return [Asking(text, ask(text)) for text in prompts.texts]


def ask_groups(
    subject: Subject,
    groups: Mapping[str, Sequence[Asking]],
    *,
    max_tokens: int,
    title: str,
    progress: Progress,
) -> dict[str, list[Answer]]:
    """Ask every request of every group, greedily, and judge the answers.

    Args:
        title: for the progress, after the subject's.

    Returns:
        the answers by group, in the group's order.
    """
    judge = {"name": subject.judge.name, "sha256": getattr(subject.judge, "sha256", None)}
    pieces: list[tuple[str, Sequence[Asking], dict[str, Any]]] = []
    for group, askings in groups.items():
        for start in range(0, len(askings), PIECE):
            piece = askings[start : start + PIECE]
            # The suite is no part of the name: the same batch gives the same answers in each.
            name: dict[str, Any] = {
                "answers": [[[turn.role, turn.content] for turn in one.conversation] for one in piece],
                "requests": [one.request for one in piece],
                "max_tokens": max_tokens,
                "judge": judge,
            }
            pieces.append((group, piece, name))
    answers: dict[str, list[Answer]] = {group: [] for group in groups}
    kept = [kept_answers(subject.kept.get(name), name["requests"]) for _, _, name in pieces]
    missing = sum(len(piece) for (_, piece, _), found in zip(pieces, kept, strict=True) if found is None)
    with progress.stage(f"{subject.title}: {title}", missing) as advance:
        for (group, piece, name), found in zip(pieces, kept, strict=True):
            if found is None:
                prompts = subject.engine.encode([one.conversation for one in piece])
                generations = subject.engine.generate(prompts, max_tokens=max_tokens, advance=advance)
                found = judged(subject, piece, generations)
                subject.kept.put(name, [[answer.verdict, answer.opening] for answer in found])
            answers[group] += found
    return answers


def judged(subject: Subject, piece: Sequence[Asking], generations: Sequence[Generation]) -> list[Answer]:
    """Verdicts and opening words of answers."""
    texts = [one.decode(generation.text) for one, generation in zip(piece, generations, strict=True)]
    verdicts = subject.judge.judge([one.request for one in piece], texts)
    return [
        Answer(item_id(one.request), verdict, opening_words(text))
        for one, verdict, text in zip(piece, verdicts, texts, strict=True)
    ]


def opening_words(text: str) -> str:
    """At most the first 12 words of an answer, on one line."""
    words = [word for word in re.split(r"\s+", text[: 20 * _OPENING_CHARACTERS]) if word]
    opening = " ".join(words[:OPENING_WORDS])[:_OPENING_CHARACTERS]
    return opening.encode("utf-8", "replace").decode("utf-8")


def verdict_series(
    name: str, label: str, answers: Iterable[Answer], verdict: Verdict, better: Better
) -> Series:
    """The share of answers with a verdict."""
    found = list(answers)
    return Series(
        name, label, tuple(a.item for a in found), tuple(a.verdict is verdict for a in found), better
    )


def verdict_details(answers: Sequence[Answer], prompts: PromptSet | None = None) -> dict[str, Any]:
    """Counts by verdict, and each answer's verdict and opening words, for the report."""
    counts = Counter(answer.verdict.value for answer in answers)
    details: dict[str, Any] = {"verdicts": {verdict.value: counts[verdict.value] for verdict in Verdict}}
    if prompts is not None:
        details["answers"] = [
            {"item": a.item, "category": p.category, "verdict": a.verdict.value, "opening": a.opening}
            for a, p in zip(answers, prompts, strict=True)
        ]
    return details


def rates_by(keys: Sequence[str], answers: Sequence[Answer], verdict: Verdict) -> dict[str, Any]:
    """The share of a verdict for each key, with n and interval."""
    rates = {}
    for key in dict.fromkeys(keys):
        mine = [a.verdict is verdict for a, k in zip(answers, keys, strict=True) if k == key]
        rates[key] = proportion(sum(mine), len(mine)).model_dump()
    return rates


def kept_answers(result: Any, requests: Sequence[str]) -> list[Answer] | None:
    """Answers as they were kept, or None when they are not there or not what was put in."""
    if not isinstance(result, list) or len(result) != len(requests):
        return None
    try:
        return [
            Answer(item_id(request), Verdict(verdict), opening_words(opening))
            for request, (verdict, opening) in zip(requests, result, strict=True)
        ]
    except (ValueError, TypeError):
        return None
