"""A real base model with norms after its matrices, K-quants and no chat template: Gemma 3 270M."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rosi_edge.direction import extract_directions
from rosi_edge.errors import UnsupportedModelError
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.injection.write_directions import write_direction
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.sources import resolve
from rosi_edge.prompts import Kind, Part, bundled
from rosi_edge.runtime.engine import EngineOptions, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import TapRequest

pytestmark = pytest.mark.model

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def path() -> Path:
    return resolve("demo:gemma3-270m")


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine(path, EngineOptions(template=TEMPLATE)) as running:
        yield running


def test_it_needs_a_template(path: Path) -> None:
    with LlamaEngine(path) as bare, pytest.raises(UnsupportedModelError, match="--template"):
        bare.encode([ask("Hello?")])


def test_the_stream_moves_along_a_measured_direction(path: Path, engine: LlamaEngine) -> None:
    harmful = bundled(Kind.HARMFUL, Part.CALIBRATION).texts[:12]
    harmless = bundled(Kind.HARMLESS, Part.CALIBRATION).texts[:12]
    directions = extract_directions(engine, harmful, harmless)
    # A base model that was never taught to refuse still tells the two apart.
    assert max(entry.auc for entry in directions.separation) > 0.9
    prompts = engine.encode([ask(text) for text in harmless])
    block = engine.facts.layers // 2
    direction = directions.vectors[block]
    with GgufFile.open(path) as file:
        matrix = next(m for m in write_matrices(file) if m.block == block and m.kind == "mlp")
        assert matrix.post_norm == f"blk.{block}.post_ffw_norm.weight"
        output = write_direction(file, matrix, direction)
    request = TapRequest(blocks=(block,), inputs=(matrix.name,))
    before = engine.capture(prompts, request)
    inputs = before.inputs[matrix.name].rows
    assert inputs is not None
    inward = inputs.mean(axis=0) / np.square(inputs.mean(axis=0)).sum()

    def cosine(edit: RankOneEdit, strength: float) -> float:
        handle = engine.load_edits([edit])
        engine.apply({handle: strength})
        change = engine.capture(prompts, request).stream_rows(block) - before.stream_rows(block)
        engine.apply({})
        engine.unload(handle)
        return float((change @ direction / np.linalg.norm(change, axis=1)).min())

    corrected = cosine(RankOneEdit(matrix.name, output, inward), 0.05)
    assert corrected > 0.9
    # Without the correction for the norm's gain the stream goes somewhere else.
    assert cosine(RankOneEdit(matrix.name, direction, inward), 0.05) < corrected - 0.05
