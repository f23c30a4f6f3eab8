"""Bias correction: a file whose rounding errors do not all lean to one side.

Rounding leaves each matrix a little error, and errors of one sign add up over the layers. On the demo model
that raised the log-odds of refusal openings by 0.14 nats on average over 72 prompts, harmful or not, although
every tensor held 0.97 to 1.06 of its edit. As in data-free quantization (arXiv 1906.04721, section 4.2) the
mean error is measured and taken off; these matrices have no bias to put it into, so the same amount is taken
off the push for every input, along the mean of the matrix's inputs, and the tensors are rounded again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rosi_edge.baking.measure import BakedTensor
from rosi_edge.baking.tensor import UndeliveredError
from rosi_edge.basics.arrays import Float32, Float64
from rosi_edge.basics.progress import SILENT, Advance, Progress
from rosi_edge.edits.declaration import MOST_CORRECTION
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.runtime.engine import Engine, ask, edits_applied

_PROMPTS = 24
"""Of each set. The shift of single prompts scatters by 0.2 nats, so the mean is known to 0.03."""
_OPENINGS_SHARE = 0.9
_TOLERANCE = 0.04
_LEAST_GAIN = 0.3
"""Nats that the exact edit must bring: of an edit that does nothing there is nothing to correct."""
_MOST_ROUNDS = 2
_MOST_SHARE = 0.25
"""Of the push that may be taken off or added: more would not be for rounding errors."""


@dataclass(frozen=True)
class ExactEffect:
    """What the exact edit does to first answer tokens.

    Attributes:
        openings: the tokens that it makes likelier on prompts of the first set.
        log_odds: (n,) of these openings with the exact edit, nats.
        gain: by how much it raises them on prompts of the first set, nats.
    """

    prompts: tuple[str, ...]
    openings: npt.NDArray[np.intp]
    log_odds: Float64
    gain: float

    def shift(self, engine: Engine, advance: Advance | None = None) -> float:
        """By how much the log-odds of the openings lie above the exact edit's in a running model; mean over
        the prompts, nats."""
        prompts = engine.encode([ask(text) for text in self.prompts])
        logprobs = engine.next_token_logprobs(prompts, advance=advance)
        return float((_log_odds(logprobs, self.openings) - self.log_odds).mean())


def measure_exact(
    engine: Engine, sets: RequestSets, edits: Sequence[RankOneEdit], progress: Progress = SILENT
) -> ExactEffect:
    """The effect of edits at full strength; the engine runs without them afterwards."""
    texts = tuple(text for group in sets.groups for text in group.take(_PROMPTS).texts)
    positive = len(sets.harmful.take(_PROMPTS))
    prompts = engine.encode([ask(text) for text in texts])
    with progress.stage("Measuring the exact edit", 2 * len(prompts)) as advance:
        engine.apply({})
        before = engine.next_token_logprobs(prompts, advance=advance)
        with edits_applied(engine, edits):
            after = engine.next_token_logprobs(prompts, advance=advance)
    openings = _risen(before[:positive], after[:positive])
    log_odds = _log_odds(after, openings)
    gain = float((log_odds - _log_odds(before, openings))[:positive].mean())
    return ExactEffect(texts, openings, log_odds, gain)


@dataclass(frozen=True)
class Correction:
    """What became of the shift.

    Attributes:
        share: of the edits' push, what was taken off it for every input.
        before, after: the mean shift of the openings' log-odds against the exact edit, nats.
    """

    share: float
    before: float
    after: float

    def describe(self) -> str:
        return (
            "Rounding had moved the log-odds of the answer openings that the edit raises by "
            f"{self.before:+.2f} nats on average; bias correction left {self.after:+.2f}."
        )


def bake_corrected(
    bake: Callable[[Sequence[RankOneEdit]], list[BakedTensor]],
    opened: Callable[[], AbstractContextManager[Engine]],
    exact: ExactEffect,
    edits: Sequence[RankOneEdit],
    inputs: Mapping[str, Float32],
    progress: Progress = SILENT,
) -> tuple[list[BakedTensor], Correction | None]:
    """Bake, measure, and where the file leans to one side bake again with that taken off.

    Args:
        bake: writes the edits that it is given to a file; a later one takes an earlier one's place.
        opened: the last written file as a running model.
        edits: the exact edits.
        inputs: real inputs of each edited matrix, (n, columns); matrices without any are left as they are.

    Returns:
        the last bake, and what was corrected; None where nothing was.
    """
    baked = bake(edits)
    if exact.gain < _LEAST_GAIN:
        return baked, None

    def shift() -> float:
        with (
            opened() as engine,
            progress.stage("Comparing with the exact edit", len(exact.prompts)) as advance,
        ):
            return exact.shift(engine, advance)

    # (share taken off, shift that was left) of every bake so far.
    tried = [(0.0, shift())]
    while abs(tried[-1][1]) > _TOLERANCE and len(tried) <= _MOST_ROUNDS:
        share = _next_share(tried, exact.gain)
        try:
            baked = bake(corrected(edits, inputs, share))
        except UndeliveredError:
            # The file that is there is whole, and its tensors hold their edits.
            break
        tried.append((share, shift()))
    best = min(tried, key=lambda entry: abs(entry[1]))
    if best is not tried[-1]:
        baked = bake(corrected(edits, inputs, best[0]))
    if not best[0]:
        return baked, None
    correction = Correction(best[0], tried[0][1], best[1])
    progress.note(correction.describe())
    return baked, correction


def _next_share(tried: Sequence[tuple[float, float]], gain: float) -> float:
    """The share that would leave no shift: from the edits' own effect first, then by the secant method."""
    share, shift = tried[-1]
    slope = -gain
    if len(tried) > 1:
        (before, shift_before) = tried[-2]
        found = (shift - shift_before) / (share - before)
        # A slope of the wrong sense, or hardly any, is chance.
        slope = found if found < -0.2 * gain else slope
    return float(np.clip(share - shift / slope, -_MOST_SHARE, _MOST_SHARE))


def corrected(edits: Sequence[RankOneEdit], inputs: Mapping[str, Float32], share: float) -> list[RankOneEdit]:
    """Edits whose push is smaller by a share of its root mean square, for every input alike.

    Of several edits of one matrix only the first is changed.
    """
    done: set[str] = set()
    changed = []
    for edit in edits:
        rows = inputs.get(edit.matrix)
        if rows is None or not rows.any() or edit.matrix in done or not share:
            changed.append(edit)
            continue
        done.add(edit.matrix)
        mean = rows.mean(axis=0, dtype=np.float64)
        size = float(np.sqrt(np.square(rows @ edit.input, dtype=np.float64).mean()))
        away = share * size / max(float(mean @ mean), 1e-30) * mean
        away *= min(1.0, MOST_CORRECTION * float(np.linalg.norm(edit.input) / np.linalg.norm(away)))
        changed.append(replace(edit, input=(edit.input - away).astype(np.float32)))
    return changed


def _risen(before: Float32, after: Float32) -> npt.NDArray[np.intp]:
    """The tokens that hold most of what probability has risen, from log-probabilities (n, vocabulary)."""
    rise = np.exp(after).mean(axis=0, dtype=np.float64) - np.exp(before).mean(axis=0, dtype=np.float64)
    order: npt.NDArray[np.intp] = np.argsort(-rise, kind="stable")
    order = order[rise[order] > 0]
    if not len(order):
        return order
    enough = np.searchsorted(np.cumsum(rise[order]), _OPENINGS_SHARE * rise[order].sum())
    return order[: int(enough) + 1]


def _log_odds(logprobs: Float32, tokens: npt.NDArray[np.intp]) -> Float64:
    """ln p/(1 − p) of one of the tokens coming next, (n,)."""
    if not len(tokens):
        return np.zeros(len(logprobs))
    share = np.exp(logprobs[:, tokens], dtype=np.float64).sum(axis=1)
    share = np.clip(share, 1e-12, 1 - 1e-9)
    return np.asarray(np.log(share) - np.log1p(-share), dtype=np.float64)
