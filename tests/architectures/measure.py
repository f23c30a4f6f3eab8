"""Edits write matrices of tiny models and measures how the residual stream moves.

For every kind of write matrix a file is made in which no other matrix writes, so that nothing later in the
block answers the edit; one block at a time is edited along a random direction, once by adapter and once in
the weights.

Run as a program it measures the named variants in this process and prints a JSON line each; ``sweep`` runs it
that way, because llama.cpp aborts the whole process over some files.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from architectures.recipes import VOCABULARY, variants
from architectures.tiny import Blueprint, blueprint, write_model

from rosi_edge.basics.arrays import Float32
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import write_direction
from rosi_edge.models.architectures import WriteMatrix, known_architectures, write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.small_gguf import write_small_gguf
from rosi_edge.models.weights import tensor_and_expert
from rosi_edge.quantization.codec import dequantize
from rosi_edge.runtime.engine import EditHandle, EngineOptions
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import Positions, Tapped, TapRequest

TOKENS = 12
_OPTIONS = EngineOptions(threads=1, context_size=64, batch_size=32, sequences=1)
_EXACT_PUSH = 0.5
"""Strength: the mean push as a share of the stream's norm. Large enough to stand out of the rounding."""
_SMALL_PUSH = 0.02
"""The same for the output of a matrix whose norm makes the edit nonlinear, as a share of that output."""


@dataclass(frozen=True)
class Movement:
    """What one kind of write matrix did in one variant; the worst of its blocks.

    Attributes:
        cosine: smallest cosine, over blocks and tokens, between the change of the stream after the block and
            the direction, with the edit applied as an adapter.
        baked: the same with the edit added to the weights of the file.
        predicted: smallest cosine with the change that the norm in between predicts; None without a norm.
        factor: in the last block that has the matrix, the change along the direction divided by α · (a·x), by
            adapter, x the matrix's captured input; with a norm, divided by what the norm predicts. None where
            the input was not captured.
        baked_factor: the same for the edit in the weights.
        spread: largest deviation of ``factor`` from token to token, as a share of it.
        astray: of stacked experts, with an edit of a single one: how far tokens moved that the captured
            inputs say were sent to others, as a share of the furthest. None for a single matrix.
    """

    matrix: str
    cosine: float
    baked: float
    predicted: float | None = None
    factor: float | None = None
    baked_factor: float | None = None
    spread: float | None = None
    astray: float | None = None


@dataclass(frozen=True)
class Measurement:
    """``unlisted``: how far (as 1 − cosine) the stream turns from block to block once all write matrices that
    the table lists are zero, their biases too. More than rounding means that something else writes to it.
    """

    architecture: str
    experts: bool
    movements: tuple[Movement, ...] = ()
    unlisted: float = 0.0
    failure: str | None = None

    @property
    def name(self) -> str:
        return f"{self.architecture} with experts" if self.experts else self.architecture


def measure(architecture: str, folder: Path, *, experts: bool) -> Measurement:
    """Every kind of write matrix that a variant has, one file each in which no other matrix writes."""
    plan = blueprint(architecture, folder, experts=experts)
    names = [
        short
        for short in known_architectures()[architecture].writes
        if any(short_name(name) == short for name in plan.shapes)
    ]
    movements = tuple(_movement(plan, short, set(names) - {short}, folder) for short in names)
    return Measurement(architecture, experts, movements, _unlisted(plan, set(names), folder))


def short_name(name: str) -> str:
    """``ffn_down`` of ``blk.3.ffn_down.weight``; the empty word for what is not a block's weight or bias."""
    parts = name.split(".")
    return ".".join(parts[2:-1]) if parts[0] == "blk" and parts[-1] in ("weight", "bias") else ""


def _unlisted(plan: Blueprint, names: set[str], folder: Path) -> float:
    path = write_model(folder / "model.gguf", plan, zero=lambda name: short_name(name) in names)
    blocks = tuple(range(plan.metadata["block_count"]))
    with LlamaEngine(path, _OPTIONS) as engine:
        capture = engine.capture(
            [prompt()], TapRequest(blocks=blocks, positions=Positions.ALL), share_prefix=False
        )
    streams = [capture.stream_rows(block).astype(np.float64) for block in blocks]
    rows = [stream / np.linalg.norm(stream, axis=1, keepdims=True) for stream in streams]
    return max(float(1 - (one * two).sum(axis=1).min()) for one, two in itertools.pairwise(rows))


def prompt() -> list[int]:
    """A prompt of random tokens, always the same."""
    return [int(token) for token in np.random.default_rng(2).integers(0, VOCABULARY, TOKENS)]


def _movement(plan: Blueprint, short: str, others: set[str], folder: Path) -> Movement:
    if short == "ffn_down_chexps":
        others = others - {"ffn_down_exps"}  # It reads what they wrote.
    # What another matrix writes later in the block answers the edit and would blur what the edit itself did.
    path = write_model(folder / "model.gguf", plan, zero=lambda name: short_name(name) in others)
    random = np.random.default_rng(1)
    tokens = prompt()
    found: list[dict[str, float]] = []
    astray: list[float] = []
    with GgufFile.open(path) as file:
        matrices = [matrix for matrix in write_matrices(file) if short_name(matrix.name) == short]
        with LlamaEngine(path, _OPTIONS) as engine:
            for matrix in matrices:
                direction = _unit(random.standard_normal(matrix.shape[-2]))
                inward = random.standard_normal(matrix.shape[-1]).astype(np.float32)
                edit = RankOneEdit(matrix.name, write_direction(file, matrix, direction), inward)
                before, inputs = _read(engine, tokens, matrix)
                edit = edit.scaled(_strength(file, matrix, edit, before, inputs))
                handle = load_edit(engine, edit, matrix, plan.architecture, folder)
                share = 1.0
                while True:
                    engine.apply({handle: share})
                    after, _ = _read(engine, tokens, matrix, inputs=False)
                    if inputs is not None or matrix.post_norm is None or _gentle(before, after):
                        break
                    share /= 4
                edit = edit.scaled(share)
                engine.apply({})
                engine.unload(handle)
                if matrix.experts:
                    astray.append(_astray(engine, tokens, matrix, edit, before))
                predicted = None
                if matrix.post_norm is not None and inputs is not None:
                    predicted = _through_norm(file, matrix, edit, inputs)
                found.append(_compare(direction, edit, before, after, inputs, predicted))
        # In the weights, for the last block that has the matrix: its change reaches no other tap.
        _add_to_weights(path, file, matrix, edit)
    with LlamaEngine(path, _OPTIONS) as engine, GgufFile.open(path) as file:
        after, _ = _read(engine, tokens, matrix, inputs=False)
    in_weights = _compare(direction, edit, before, after, inputs, predicted)
    return Movement(
        matrix=short,
        cosine=min(one["cosine"] for one in found),
        baked=in_weights["cosine"],
        predicted=min((one["predicted"] for one in found if "predicted" in one), default=None),
        factor=found[-1].get("factor"),
        baked_factor=in_weights.get("factor"),
        spread=max((one["spread"] for one in found if "spread" in one), default=None),
        astray=max(astray, default=None),
    )


def _astray(
    engine: LlamaEngine, tokens: list[int], matrix: WriteMatrix, edit: RankOneEdit, before: Float32
) -> float:
    request = TapRequest(inputs=(matrix.name,), positions=Positions.ALL)
    sent_to = {
        tensor_and_expert(name)[1]: _places(tapped, len(tokens))
        for name, tapped in engine.capture([tokens], request, share_prefix=False).inputs.items()
    }
    # Not one that all tokens are sent to, if another had any.
    expert = min(sent_to, key=lambda number: abs(2 * len(sent_to[number]) - TOKENS))
    handle = engine.load_edits([replace(edit, expert=expert)])
    engine.apply({handle: 1.0})
    after, _ = _read(engine, tokens, matrix, inputs=False)
    engine.apply({})
    engine.unload(handle)
    moved = np.linalg.norm(after - before, axis=1)
    others = np.delete(moved, sent_to[expert])
    return float(others.max(initial=0) / moved.max())


def _places(tapped: Tapped, tokens: int) -> npt.NDArray[np.int32]:
    """Which of so many tokens the rows are of, each once."""
    assert tapped.from_end is not None
    return np.unique(tokens - 1 - tapped.from_end)


def _read(
    engine: LlamaEngine, tokens: list[int], matrix: WriteMatrix, *, inputs: bool = True
) -> tuple[Float32, Float32 | None]:
    """The stream after the matrix's block and the matrix's input, (tokens, width) each."""
    tapped = (matrix.name,) if inputs and not matrix.experts else ()
    request = TapRequest(blocks=(matrix.block,), inputs=tapped, positions=Positions.ALL)
    capture = engine.capture([tokens], request, share_prefix=False)
    return capture.stream_rows(matrix.block), capture.inputs[matrix.name].rows if tapped else None


def _strength(
    file: GgufFile, matrix: WriteMatrix, edit: RankOneEdit, before: Float32, inputs: Float32 | None
) -> float:
    stream = float(np.linalg.norm(before, axis=1).mean())
    if inputs is None:
        # The inputs of experts are small here; what counts is only that the push is visible.
        return _SMALL_PUSH * stream if matrix.post_norm else stream
    pushes = float(np.abs(inputs @ edit.input).mean() * np.linalg.norm(edit.output))
    if matrix.post_norm:
        written = float(np.linalg.norm(inputs @ dequantize(file, matrix.name).T, axis=1).mean())
        return _SMALL_PUSH * written / pushes
    return _EXACT_PUSH * stream / pushes


def _gentle(before: Float32, after: Float32) -> bool:
    """Whether what experts, whose input is not captured, write has hardly turned: after its norm an output is
    about as long as the square root of its width."""
    change = np.linalg.norm(after - before, axis=1).max()
    return bool(change < 2 * _SMALL_PUSH * np.sqrt(before.shape[1]))


def _compare(
    direction: Float32,
    edit: RankOneEdit,
    before: Float32,
    after: Float32,
    inputs: Float32 | None,
    predicted: Float32 | None,
) -> dict[str, float]:
    change = (after - before).astype(np.float64)
    along = change @ direction
    sizes = np.linalg.norm(change, axis=1)
    # A token whose input happens to be orthogonal to the edit's shows rounding, not direction.
    loud = (sizes > 0.05 * sizes.max()) & (sizes > 0)
    if not loud.any():
        return {"cosine": 0.0}
    found = {"cosine": float(np.abs(along[loud] / sizes[loud]).min())}
    if inputs is None:
        return found
    if predicted is None:
        factors = along[loud] / (inputs.astype(np.float64) @ edit.input)[loud]
    else:
        products = (predicted * change).sum(axis=1)
        lengths = np.linalg.norm(predicted, axis=1)
        found["predicted"] = float((products / (lengths * sizes))[loud].min())
        factors = (products / lengths**2)[loud]
    found["factor"] = float(factors.mean())
    found["spread"] = float(np.abs(factors / factors.mean() - 1).max())
    return found


def _through_norm(file: GgufFile, matrix: WriteMatrix, edit: RankOneEdit, inputs: Float32) -> Float32:
    """The change that y = g · u / rms(u) makes of the edit of u, (tokens, hidden)."""
    assert matrix.post_norm is not None
    gain = dequantize(file, matrix.post_norm).reshape(-1)
    written = inputs @ dequantize(file, matrix.name).T
    if matrix.bias is not None:
        written = written + dequantize(file, matrix.bias).reshape(-1)
    moved = written + np.outer(inputs @ edit.input, edit.output)

    def norm(rows: Float32) -> Float32:
        return gain * rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)

    return norm(moved) - norm(written)


def load_edit(
    engine: LlamaEngine, edit: RankOneEdit, matrix: WriteMatrix, architecture: str, folder: Path
) -> EditHandle:
    """The edit as an adapter, at strength zero."""
    if not matrix.experts:
        return engine.load_edits([edit])
    # The same edit for every expert: whichever are chosen, they push along the direction.
    path = folder / "adapter.gguf"
    write_small_gguf(
        path,
        architecture=architecture,
        metadata={"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 1.0},
        tensors={
            f"{edit.tensor}.lora_a": np.tile(edit.input, (matrix.experts, 1, 1)),
            f"{edit.tensor}.lora_b": np.tile(edit.output[:, None], (matrix.experts, 1, 1)),
        },
    )
    return engine.load_adapter(path)


def _add_to_weights(path: Path, file: GgufFile, matrix: WriteMatrix, edit: RankOneEdit) -> None:
    info = file.tensors[matrix.name]
    data = np.memmap(path, dtype=np.float32, mode="r+", offset=info.offset, shape=matrix.shape)
    data += edit.delta(1.0)
    data.flush()


def _unit(vector: npt.NDArray[np.float64]) -> Float32:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def sweep(names: Iterable[tuple[str, bool]]) -> list[Measurement]:
    """Measure variants in child processes; one that takes its process down is noted and the rest goes on."""
    pending = list(names)
    done: list[Measurement] = []
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(tests), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    while pending:
        words = [f"{name}:{int(experts)}" for name, experts in pending]
        child = subprocess.run(
            [sys.executable, __file__, *words], capture_output=True, text=True, env=environment, check=False
        )
        for line in child.stdout.splitlines():
            content = json.loads(line)
            movements = tuple(Movement(**one) for one in content.pop("movements"))
            done.append(Measurement(movements=movements, **content))
            pending.pop(0)
        if pending:
            name, experts = pending.pop(0)
            last = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
            done.append(Measurement(name, experts, failure=last[0]))
    return done


def everything() -> list[tuple[str, bool]]:
    """Every supported architecture in every variant."""
    return [
        (name, experts)
        for name, architecture in known_architectures().items()
        if architecture.supported
        for experts in variants(name)
    ]


def main() -> None:
    for word in sys.argv[1:]:
        name, _, experts = word.partition(":")
        with tempfile.TemporaryDirectory(prefix="rosi-edge-") as folder:
            try:
                found = measure(name, Path(folder), experts=experts == "1")
            except Exception as error:
                found = Measurement(name, experts == "1", failure=f"{type(error).__name__}: {error}")
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
