"""Calibration prompts in, directions and keys out.

One pass over the prompts reads the residual stream after every block (for the directions) and the inputs of
the write matrices that may be edited (for the keys). Nothing here knows what the prompt sets are about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.activations import InputRows
from rosi_edge.direction.difference import Directions, LayerSeparation, separation_of
from rosi_edge.edits.keys import Form, Key, solve_keys
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import tensor_and_expert
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.prompts.sets import PromptSet
from rosi_edge.runtime.engine import Engine, Tokens, ask, edits_applied
from rosi_edge.runtime.taps import Positions, Tapped, TapRequest

Keys = Mapping[str, Mapping[Form, Key]]
"""Keys by tensor name and form."""

POSITIONS = 3
"""Last positions of a prompt that are captured: the template's tail, all of which carry the request."""
_BODY = 9
"""Positions before the template's tail that are captured of some prompts, for keys to stay silent on."""
_ANSWERED = 48
"""Prompts of each set whose answer's opening is captured too."""
_ANSWER_POSITIONS = 2
_RESPONDING = 24
"""Prompts of each set on which the edits' own effect is read."""
LEAST_ROWS = 8
"""Inputs that an expert must have had from the positive set, and from each negative one, to be given a key:
from fewer nothing can be said about the others it will get."""


@dataclass(frozen=True)
class Calibration:
    """What one pass over the calibration prompts gave.

    Attributes:
        inputs: rows of every candidate matrix, by prompt set: positive first, then the negative ones, then
            guarded ones if there are any, and last those of positions before the end of a prompt, of all
            sets.
        sets: the prompts, in that order, but for guarded ones.
        guarded: prompts that must be refused no less than before.
    """

    directions: Directions
    inputs: InputRows
    sets: tuple[PromptSet, ...]
    guarded: PromptSet | None = None


def candidate_matrices(matrices: Sequence[WriteMatrix], layers: int) -> list[WriteMatrix]:
    """Those of the middle and upper layers, where a request is already understood and still acted upon."""
    return [matrix for matrix in matrices if 0.45 * layers <= matrix.block < 0.875 * layers]


def calibrate(
    engine: Engine,
    sets: RequestSets,
    matrices: Sequence[WriteMatrix],
    *,
    elicitation: str | None = None,
    progress: Progress = SILENT,
    separated: Callable[[LayerSeparation], None] = lambda entry: None,
) -> Calibration:
    """Read the calibration prompts once.

    Args:
        matrices: those that may be edited.
        elicitation: a system prompt under which the directions are taken; the keys are for the state
            without it, in which they will be used, and cost a second pass then.
        separated: told of each layer's separation as it is known.
    """
    groups = sets.groups
    read = groups if sets.guarded is None else (*groups, sets.guarded)
    prompts = engine.encode([ask(text) for group in read for text in group.texts])
    members = np.repeat(np.arange(len(read)), [len(group) for group in read])
    within = np.concatenate([np.arange(len(group)) for group in read])
    layers = engine.facts.layers
    streams = np.empty((layers, len(prompts), engine.facts.hidden_size), dtype=np.float16)
    inputs = InputRows(len(read) + 1)
    tail = max(common_suffix(prompts), POSITIONS)
    names = tuple(matrix.name for matrix in matrices)
    answered = np.flatnonzero(within < _ANSWERED)
    others = np.flatnonzero(within >= _ANSWERED)
    blocks = tuple(range(layers)) if elicitation is None else ()
    try:
        with progress.stage("Reading activations", len(prompts)) as advance:
            for chosen, last, answer in (
                (answered, tail + _BODY, _ANSWER_POSITIONS),
                (others, POSITIONS, 0),
            ):
                if not len(chosen):
                    continue
                part = [prompts[index] for index in chosen]

                def visit(
                    name: int | str,
                    tapped: Tapped,
                    chosen: npt.NDArray[np.intp] = chosen,
                ) -> None:
                    assert tapped.rows is not None
                    assert tapped.prompts is not None and tapped.from_end is not None
                    from_end = tapped.from_end
                    if isinstance(name, int):
                        streams[name, chosen] = tapped.rows[from_end == 0]
                        return
                    member = members[chosen][tapped.prompts]
                    member[from_end >= tail] = len(read)
                    # The middle one of the last three says little that its neighbours do not.
                    kept = (from_end <= 0) | (from_end == POSITIONS - 1) | (from_end >= tail)
                    inputs.add(name, tapped.rows[kept], member[kept])

                engine.capture_each(
                    part,
                    TapRequest(blocks=blocks, inputs=names, last=last, answer=answer, half=True),
                    visit,
                    advance=advance,
                )
        if elicitation is not None:
            streams = _elicited_streams(engine, groups[:2], elicitation, progress)
            members = np.repeat(np.arange(2), [len(group) for group in groups[:2]])
        directions = _directions(streams, members, groups, elicitation, separated)
        return Calibration(directions, inputs, groups, sets.guarded)
    except BaseException:
        inputs.close()
        raise


def common_suffix(prompts: Sequence[Tokens]) -> int:
    """How many last tokens all prompts share: the chat template's tail."""
    length = 0
    for tokens in zip(*(reversed(prompt) for prompt in prompts), strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length


def _elicited_streams(
    engine: Engine, groups: Sequence[PromptSet], elicitation: str, progress: Progress
) -> npt.NDArray[np.float16]:
    prompts = engine.encode([ask(text, elicitation) for group in groups for text in group.texts])
    request = TapRequest(blocks=tuple(range(engine.facts.layers)), positions=Positions.LAST, half=True)
    with progress.stage("Reading activations under the safety prompt", len(prompts)) as advance:
        capture = engine.capture(prompts, request, advance=advance)
    return np.stack([capture.stream_rows(layer) for layer in range(engine.facts.layers)]).astype(np.float16)


def _directions(
    streams: npt.NDArray[np.float16],
    members: npt.NDArray[np.intp],
    groups: Sequence[PromptSet],
    elicitation: str | None,
    separated: Callable[[LayerSeparation], None],
) -> Directions:
    vectors = np.empty((len(streams), streams.shape[2]), dtype=np.float32)
    separation: list[LayerSeparation] = []
    for layer, rows in enumerate(streams):
        positive, negative = (rows[members == number].astype(np.float32) for number in (0, 1))
        vectors[layer], entry = separation_of(layer, positive, negative)
        separation.append(replace(entry, resampled_cosine=resampled_cosine(positive, negative)))
        separated(separation[-1])
    return Directions(vectors, tuple(separation), len(groups[0]), len(groups[1]), elicitation)


def resampled_cosine(positive: Float32, negative: Float32, *, resamples: int = 20, seed: int = 0) -> float:
    """Mean cosine between directions of pairs of bootstrap resamples: how much the direction owes to the
    very prompts it was taken from. 1 is nothing.

    Args:
        positive, negative: the stream at the last prompt token, (n, hidden) each.
    """
    random = np.random.default_rng(seed)

    def means(rows: Float32) -> Float32:
        counts = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=2 * resamples)
        return np.asarray(counts.astype(np.float32) @ rows / len(rows), dtype=np.float32)

    directions = means(positive) - means(negative)
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    return float(np.einsum("rh,rh->r", directions[::2], directions[1::2]).mean())


def solve(
    inputs: InputRows,
    *,
    ridge: float,
    responses: Mapping[str, Float32] | None = None,
    forms: Sequence[Form] = tuple(Form),
    progress: Progress = SILENT,
) -> dict[str, dict[Form, Key]]:
    """Keys of every matrix whose inputs were read, but for experts that hardly any were sent to
    (``LEAST_ROWS``).

    Args:
        responses: by matrix, what edits did to its inputs, to stay silent on.
    """
    keys = {}
    experts = solved = 0
    with progress.stage("Solving keys", len(inputs.names)) as advance:
        for name in inputs.names:
            positive, *negatives, body = inputs.by_set(name)
            if tensor_and_expert(name)[1] is not None:
                experts += 1
                if min(len(rows) for rows in (positive, *negatives)) < LEAST_ROWS:
                    advance(1)
                    continue
                solved += 1
            response = [responses[name]] if responses and name in responses else []
            keys[name] = solve_keys(
                positive,
                negatives,
                ridge=ridge,
                silent=[body, *response],
                forms=forms,
            )
            advance(1)
    if experts:
        progress.note(
            f"keys for {solved} of {experts} experts; the others were sent fewer than {LEAST_ROWS} inputs of "
            "some prompt set"
        )
    return keys


def read_responses(
    engine: Engine,
    calibration: Calibration,
    edits: Sequence[RankOneEdit],
    strength: float,
    progress: Progress = SILENT,
) -> dict[str, Float32]:
    """What edits do to the inputs of the matrices behind them: (n, columns) a matrix, differences between
    the edited and the original model on some of the calibration prompts."""
    texts = [text for group in calibration.sets for text in group.texts[:_RESPONDING]]
    prompts: list[Tokens] = engine.encode([ask(text) for text in texts])
    request = TapRequest(inputs=tuple(calibration.inputs.tensors), last=POSITIONS, half=True)
    with progress.stage("Reading the edits' own effect", 2 * len(prompts)) as advance:
        before = engine.capture(prompts, request, advance=advance)
        with edits_applied(engine, edits, strength):
            after = engine.capture(prompts, request, advance=advance)
    responses = {}
    for name in calibration.inputs.names:
        # Edits may send a token to another expert than before.
        if name in after.inputs and name in before.inputs:
            responses[name] = _differences(after.inputs[name], before.inputs[name])
    return responses


def _differences(after: Tapped, before: Tapped) -> Float32:
    """Rows of the same positions of the same prompts, subtracted."""
    assert after.rows is not None and before.rows is not None
    _, one, two = np.intersect1d(_positions(after), _positions(before), True, return_indices=True)
    return np.asarray(after.rows[one] - before.rows[two])


def _positions(tapped: Tapped) -> npt.NDArray[np.int64]:
    """A number for each row's position, (n,): no other position of any prompt has it."""
    assert tapped.prompts is not None and tapped.from_end is not None
    return (tapped.prompts.astype(np.int64) << 32) - tapped.from_end
