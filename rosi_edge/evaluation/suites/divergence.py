"""How far from its original has it moved where nothing should change?

Both models run side by side here: a distribution over the vocabulary for every token of every answer would
fill gigabytes on a disk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import Advance, Progress
from rosi_edge.basics.statistics import Estimate, clustered_quantile, mean
from rosi_edge.errors import EngineError, PromptSetError
from rosi_edge.evaluation.divergence import kl_divergence
from rosi_edge.evaluation.suites.suite import (
    InputSet,
    Series,
    Subject,
    Suite,
    SuiteChoices,
    SuiteResult,
    Unpaired,
    item_id,
    refuse_nan,
)
from rosi_edge.evaluation.suites.text_file import TextFile, read_text
from rosi_edge.prompts.sets import Kind, PromptSet
from rosi_edge.runtime.engine import Tokens, ask

ANSWER_TOKENS = 32
QUANTILES = (0.5, 0.9, 0.99)
WINDOW_TOKENS = 128
"""Text is read in windows of so many tokens; each is one observation of the perplexity."""
MOST_WINDOWS = 128

_PIECE = 16
_BYTES_AT_ONCE = 64 * 1024 * 1024


@dataclass(frozen=True)
class _Path:
    """Along one answer of the base: KL(base ‖ model) in nats before each token and at its end, and whether
    both models hold the same token for the likeliest."""

    kl: tuple[float, ...]
    agrees: tuple[bool, ...]


@dataclass(frozen=True)
class Divergence(Suite):
    """KL divergence and agreement along the base's own greedy answers to harmless requests, and perplexity
    on plain text."""

    name: ClassVar[str] = "divergence"
    description: ClassVar[str] = "KL divergence, agreement and perplexity against --base"
    needs_base: ClassVar[bool] = True
    needs_judge: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("benign", "text")

    harmless: PromptSet
    text: TextFile

    @classmethod
    def of(cls, choices: SuiteChoices) -> Self:
        return cls(choices.prompts(Kind.HARMLESS), read_text(choices))

    @property
    def inputs(self) -> tuple[InputSet, ...]:
        return InputSet.of(self.harmless), self.text.facts

    @property
    def settings(self) -> dict[str, Any]:
        return {"answer_tokens": ANSWER_TOKENS, "window_tokens": WINDOW_TOKENS, "most_windows": MOST_WINDOWS}

    def measure(self, subject: Subject, progress: Progress) -> SuiteResult:
        base = subject.base
        if base is None:
            raise ValueError("divergence is measured against a base")
        paths = self._paths(base, subject, progress)
        items = tuple(map(item_id, self.harmless.texts))
        # Tokens of one answer resemble each other: the answer is the observation.
        figures: list[Series | Unpaired] = [
            Series(
                "kl_first_token",
                "KL of the first token",
                items,
                tuple(path.kl[0] for path in paths),
                "lower",
                "nats",
            ),
            Series(
                "kl_answer",
                f"KL over the first {ANSWER_TOKENS} tokens",
                items,
                tuple(sum(path.kl) / len(path.kl) for path in paths),
                "lower",
                "nats",
            ),
        ]
        figures += [
            Unpaired(
                f"kl_answer_p{level * 100:.0f}",
                f"… its {level * 100:.0f} % quantile over tokens",
                clustered_quantile([path.kl for path in paths], level),
                "lower",
                "nats",
            )
            for level in QUANTILES
        ]
        figures.append(
            Series(
                "top1_agreement",
                "same likeliest token",
                items,
                tuple(sum(path.agrees) / len(path.agrees) for path in paths),
                "higher",
            )
        )
        ratio, details = self._perplexity(base, subject, progress)
        figures.append(Unpaired("perplexity_ratio", "perplexity, times the base's", ratio, "lower", "ratio"))
        return SuiteResult(
            tuple(figures), {"answer_tokens_compared": sum(len(p.kl) for p in paths), "perplexity": details}
        )

    # --- along the base's answers ----------------------------------------------------------------------

    def _paths(self, base: Subject, model: Subject, progress: Progress) -> list[_Path]:
        texts = self.harmless.texts
        pieces = [texts[start : start + _PIECE] for start in range(0, len(texts), _PIECE)]
        names = [
            {"divergence": piece, "base": base.sha256, "answer_tokens": ANSWER_TOKENS} for piece in pieces
        ]
        kept = [_kept(model.kept.get(name), len(p)) for name, p in zip(names, pieces, strict=True)]
        missing = sum(len(p) for p, found in zip(pieces, kept, strict=True) if found is None)
        paths: list[_Path] = []
        with progress.stage("Both: divergence", missing) as advance:
            for name, piece, found in zip(names, pieces, kept, strict=True):
                if found is None:
                    found = _compare(base, model, piece, advance)
                    model.kept.put(name, [[path.kl, path.agrees] for path in found])
                paths += found
        return paths

    # --- on text ---------------------------------------------------------------------------------------

    def _perplexity(
        self, base: Subject, model: Subject, progress: Progress
    ) -> tuple[Estimate, dict[str, Any]]:
        before, after = (self._losses(subject, progress) for subject in (base, model))
        tokens = sum(count for _, count in before)
        # Windows have the same length but for the last, so the mean over windows is that over tokens, nearly.
        moved = [b / n - a / n for (a, n), (b, _) in zip(before, after, strict=True)]
        log_ratio = mean(moved)
        ratio = Estimate(
            value=_exp(log_ratio.value),
            n=log_ratio.n,
            low=_exp(log_ratio.low),
            high=_exp(log_ratio.high),
        )
        per_token = [sum(loss for loss, _ in side) / tokens for side in (before, after)]
        return ratio, {
            "base": _exp(per_token[0]),
            "model": _exp(per_token[1]),
            "tokens": tokens,
            "windows": len(before),
        }

    def _losses(self, subject: Subject, progress: Progress) -> list[tuple[float, int]]:
        """Negative log-likelihood in nats and number of tokens of each window, the first token apart."""
        name = {"perplexity": self.text.facts.sha256, "window": WINDOW_TOKENS, "most": MOST_WINDOWS}
        kept = subject.kept.get(name)
        try:
            return [(float(loss), int(count)) for loss, count in kept]  # type: ignore[union-attr]
        except (TypeError, ValueError):
            pass
        windows = _windows(subject.engine.encode_text([self.text.text])[0])
        if not windows:
            raise PromptSetError(f"The text {self.text.name} is too short", "Give some hundred words")
        with progress.stage(f"{subject.title}: perplexity", len(windows)) as advance:
            scores = subject.engine.score_continuations([(w[:1], [w[1:]]) for w in windows], advance=advance)
        losses = [(-float(np.sum(score, dtype=np.float64)), len(score)) for (score,) in scores]
        refuse_nan(loss for loss, _ in losses)
        subject.kept.put(name, losses)
        return losses


def _compare(base: Subject, model: Subject, texts: Sequence[str], advance: Advance) -> list[_Path]:
    sizes = [subject.engine.facts.vocabulary_size for subject in (base, model)]
    if sizes[0] != sizes[1]:
        raise EngineError(
            f"the two models have different vocabularies ({sizes[0]:,} and {sizes[1]:,} tokens)",
            "Give the model that this one was made from as --base",
        )
    prompts = base.engine.encode([ask(text) for text in texts])
    answers = base.engine.generate(prompts, max_tokens=ANSWER_TOKENS)
    # The end of an answer is a prediction too: whatever token stands behind it, the distribution before that
    # token is the one at the end. It also stands in where the base answers nothing.
    followed: list[Tokens] = [
        answer.tokens if len(answer.tokens) == ANSWER_TOKENS else [*answer.tokens, prompts[0][0]]
        for answer in answers
    ]
    at_once = max(1, _BYTES_AT_ONCE // (4 * ANSWER_TOKENS * base.engine.facts.vocabulary_size))
    paths: list[_Path] = []
    for start in range(0, len(prompts), at_once):
        part = slice(start, start + at_once)
        of_base = base.engine.continuation_logprobs(prompts[part], followed[part])
        of_model = model.engine.continuation_logprobs(prompts[part], followed[part])
        for p, q in zip(of_base, of_model, strict=True):
            paths.append(_path(p, q))
        advance(len(of_base))
    return paths


def _path(p: Float32, q: Float32) -> _Path:
    kl = tuple(float(value) for value in kl_divergence(p, q))
    refuse_nan(kl)
    return _Path(
        kl,
        tuple(bool(same) for same in p.argmax(axis=1) == q.argmax(axis=1)),
    )


def _exp(value: float) -> float:
    # A model whose text has fallen apart can be worse than a float can say.
    return math.exp(min(value, 700.0))


def _windows(tokens: Tokens) -> list[Tokens]:
    """Windows evenly over the text, at most ``MOST_WINDOWS``; a short rest counts if it is half a window."""
    starts = range(0, max(1, len(tokens)), WINDOW_TOKENS)
    windows = [tokens[start : start + WINDOW_TOKENS] for start in starts]
    whole = [window for window in windows if len(window) >= WINDOW_TOKENS // 2]
    usable = whole or [window for window in windows if len(window) >= 2]
    if len(usable) > MOST_WINDOWS:
        usable = [usable[i * len(usable) // MOST_WINDOWS] for i in range(MOST_WINDOWS)]
    return usable


def _kept(result: Any, n: int) -> list[_Path] | None:
    """Paths out of a checkpoint, or None when they are not there or not what was put in."""
    if not isinstance(result, list) or len(result) != n:
        return None
    try:
        paths = [_Path(tuple(float(x) for x in kl), tuple(bool(x) for x in same)) for kl, same in result]
    except (TypeError, ValueError):
        return None
    sound = all(path.kl and len(path.kl) == len(path.agrees) for path in paths)
    return paths if sound and all(math.isfinite(x) for path in paths for x in path.kl) else None


SUITE = Divergence
