"""Real inputs of edited matrices: what a rounding is fitted to, corrected by, and measured on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rosi_edge.evaluation.behaviour import RequestSets
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.progress import SILENT, Progress
from rosi_edge.quantization.grid_rounding import InputFactor, input_factor
from rosi_edge.runtime.engine import Engine, ask
from rosi_edge.runtime.taps import Positions, Tapped, TapRequest

Float32 = npt.NDArray[np.float32]

_PROBE_PROMPTS = 48
_FACTOR_PROMPTS = 56
_FACTOR_ANSWER = 6
_FACTOR_RANK = 128


def unseen_inputs(
    engine: Engine, sets: RequestSets, names: Sequence[str], progress: Progress = SILENT
) -> tuple[dict[str, Float32], dict[str, Float32]]:
    """Inputs of matrices at the last prompt token, (n, columns) each: one half to measure what arrived, the
    other to correct the rounding by.

    Args:
        sets: prompts that the edits were not fitted to.
        names: tensors.
    """
    groups = [sets.harmful.take(_PROBE_PROMPTS), sets.harmless.take(_PROBE_PROMPTS)]
    prompts = engine.encode([ask(text) for group in groups for text in group.texts])
    wanted = tuple(dict.fromkeys(names))
    with progress.stage("Reading inputs of write matrices", len(prompts)) as advance:
        capture = engine.capture(prompts, TapRequest(inputs=wanted), advance=advance)
    rows = {name: tapped.rows for name, tapped in capture.inputs.items() if tapped.rows is not None}
    return {name: r[::2] for name, r in rows.items()}, {name: r[1::2] for name, r in rows.items()}


def input_factors(
    engine: Engine, sets: RequestSets, edits: Sequence[RankOneEdit], progress: Progress = SILENT
) -> dict[str, InputFactor]:
    """Second moments of every edited matrix's inputs at all positions, answers included."""
    groups = [sets.harmful, sets.harmless, *([sets.sounds_harmful] if sets.sounds_harmful else [])]
    texts = [text for group in groups for text in group.take(_FACTOR_PROMPTS).texts]
    prompts = engine.encode([ask(text) for text in texts])
    pushes: dict[str, list[Float32]] = {}
    for edit in edits:
        pushes.setdefault(edit.tensor, []).append(edit.input)
    request = TapRequest(inputs=tuple(pushes), positions=Positions.ALL, answer=_FACTOR_ANSWER, half=True)
    factors: dict[str, InputFactor] = {}

    def visit(name: int | str, tapped: Tapped) -> None:
        assert isinstance(name, str) and tapped.rows is not None
        factors[name] = input_factor(tapped.rows, _FACTOR_RANK, np.stack(pushes[name]))

    with progress.stage("Reading inputs at all positions", len(prompts)) as advance:
        engine.capture_each(prompts, request, visit, advance=advance)
    return factors
