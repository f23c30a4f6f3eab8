"""Real inputs of edited matrices: what a rounding is fitted to, corrected by, and measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.activations import InputRows
from rosi_edge.direction.calibration import POSITIONS
from rosi_edge.edits.rank_one import RankOneEdit, by_matrix
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.quantization.grid_rounding import InputFactor, input_factor
from rosi_edge.runtime.engine import Engine, ask
from rosi_edge.runtime.taps import Positions, Tapped, TapRequest

_PROBE_PROMPTS = 64
_FACTOR_PROMPTS = 56
_FACTOR_ANSWER = 6
_FACTOR_RANK = 256
_FACTOR_VALUES = 1 << 21
"""Of a factor, at most, but for 128 directions: 8 MiB for every edited matrix."""
_KNOWN_VALUES = 1 << 24
"""Of calibration's rows, at most, for one matrix: a random part of them is taken of wide ones."""
_DECIDING = np.float32(3.0)
"""How much larger the inputs at the last positions of a prompt count, where it is decided how the answer
begins. On the demo model fewer tensors then need a larger type, and the file is nearer the exact edit."""
_EXPERT_RANK = 32
"""Directions kept of an expert's inputs: there are hundreds of experts, and each has few inputs."""
_LEAST_PROBES = 8
"""Inputs of an expert that are enough to measure on."""


def unseen_inputs(
    engine: Engine, sets: RequestSets, edits: Sequence[RankOneEdit], progress: Progress = SILENT
) -> tuple[dict[str, Float32], dict[str, Float32]]:
    """Inputs of edited matrices, (n, columns) each: one half to measure what arrived, the other to correct
    the rounding by, of other prompts. They are those at the last positions, which the edits are made for;
    where experts are edited, which get only some of the tokens, those at all positions. Experts that got
    hardly any are left out; see ``stand_ins``.

    Args:
        sets: prompts that the edits were not fitted to.
    """
    groups = [sets.harmful.take(_PROBE_PROMPTS), sets.harmless.take(_PROBE_PROMPTS)]
    prompts = engine.encode([ask(text) for group in groups for text in group.texts])
    wanted = tuple(dict.fromkeys(edit.tensor for edit in edits))
    experts = {edit.matrix for edit in edits if edit.expert is not None}
    positions = Positions.ALL if experts else Positions.LAST
    with progress.stage("Reading inputs of write matrices", len(prompts)) as advance:
        request = TapRequest(inputs=wanted, positions=positions, last=POSITIONS)
        capture = engine.capture(prompts, request, advance=advance)
    edited = by_matrix(edits)
    probes, aims = {}, {}
    for name, tapped in capture.inputs.items():
        if tapped.rows is None or name not in edited:
            continue
        if name in experts and tapped.count < _LEAST_PROBES:
            continue
        assert tapped.prompts is not None
        odd = tapped.prompts % 2 == 1
        if not odd.any() or odd.all():
            # An expert that a single prompt was sent to.
            odd = np.arange(tapped.count) % 2 == 1
        probes[name], aims[name] = tapped.rows[~odd], tapped.rows[odd]
    return probes, aims


class SharedFactors:
    """Input factors that are read on one of a model's files and used for all of them. Quantization moves a
    matrix's inputs by far less than prompts differ."""

    def __init__(self) -> None:
        self._factors: Mapping[str, InputFactor] = {}

    def forget(self) -> None:
        """Other edits are to come."""
        self._factors = {}

    def read(
        self,
        engine: Engine,
        sets: RequestSets,
        edits: Sequence[RankOneEdit],
        progress: Progress = SILENT,
        known: InputRows | None = None,
    ) -> Mapping[str, InputFactor]:
        """Those that have been read, or else this engine's; see ``input_factors``."""
        if not by_matrix(edits).keys() <= self._factors.keys():
            self._factors = input_factors(engine, sets, edits, progress, known)
        return self._factors


def stand_ins(
    edits: Sequence[RankOneEdit], known: Mapping[str, Float32], factors: Mapping[str, InputFactor]
) -> dict[str, Float32]:
    """Inputs to measure on for edited matrices that are not among the ``known`` ones: the directions of the
    inputs that the rounding knows, or the edits' own input vectors."""
    return {
        name: factors[name].directions if name in factors else np.stack([edit.input for edit in its])
        for name, its in by_matrix(edits).items()
        if name not in known
    }


def input_factors(
    engine: Engine,
    sets: RequestSets,
    edits: Sequence[RankOneEdit],
    progress: Progress = SILENT,
    known: InputRows | None = None,
) -> dict[str, InputFactor]:
    """Second moments of every edited matrix's inputs at all positions, answers included; those at the ends of
    prompts count more. An expert that none of them is sent to is taken to get the inputs that its edits are
    for.

    Args:
        known: rows that calibration has read, at the ends of prompts and where answers begin, of these
            prompts and of more; they count as the ends do. The last of its sets, earlier positions, is left
            out. On the demo model a sixth to a third less noise remains.
    """
    texts = [text for group in sets.groups for text in group.take(_FACTOR_PROMPTS).texts]
    prompts = engine.encode([ask(text) for text in texts])
    pushes = {name: np.stack([edit.input for edit in its]) for name, its in by_matrix(edits).items()}
    experts = {edit.matrix for edit in edits if edit.expert is not None}
    tensors = tuple(dict.fromkeys(edit.tensor for edit in edits))
    request = TapRequest(inputs=tensors, positions=Positions.ALL, answer=_FACTOR_ANSWER, half=True)
    factors: dict[str, InputFactor] = {}

    def visit(name: int | str, tapped: Tapped) -> None:
        assert isinstance(name, str) and tapped.rows is not None and tapped.from_end is not None
        if name in pushes:
            columns = tapped.rows.shape[1]
            rank = min(_FACTOR_RANK, max(128, _FACTOR_VALUES // columns))
            rank = _EXPERT_RANK if name in experts else rank
            deciding = (tapped.from_end >= 0) & (tapped.from_end < POSITIONS)
            tapped.rows[deciding] *= _DECIDING
            rows = tapped.rows
            if known is not None and name in known.names:
                more = np.concatenate(known.by_set(name)[:-1])
                if more.size > _KNOWN_VALUES:
                    # At random: neighbours are the positions of one prompt, and every n-th would be the same.
                    chosen = np.random.default_rng(0).permutation(len(more))[: _KNOWN_VALUES // columns]
                    more = more[np.sort(chosen)]
                rows = np.concatenate([rows, _DECIDING * more])
            factors[name] = input_factor(rows, rank, pushes[name])

    with progress.stage("Reading inputs at all positions", len(prompts)) as advance:
        engine.capture_each(prompts, request, visit, advance=advance)
    for name in pushes:
        if name not in factors:
            factors[name] = input_factor(pushes[name], _EXPERT_RANK, pushes[name])
    return factors
