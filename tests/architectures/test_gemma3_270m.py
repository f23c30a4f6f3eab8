"""A real base model with norms after its matrices, K-quants and no chat template: Gemma 3 270M."""

from __future__ import annotations

from pathlib import Path

import pytest

from rosi_edge.errors import UnsupportedModelError
from rosi_edge.runtime.engine import EngineOptions, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.sources.resolve import resolve

pytestmark = pytest.mark.model

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def path() -> Path:
    return resolve("demo:gemma3-270m")


def test_it_needs_a_template(path: Path) -> None:
    with LlamaEngine(path) as bare, pytest.raises(UnsupportedModelError, match="--template"):
        bare.encode([ask("Hello?")])


def test_a_template_makes_prompts(path: Path) -> None:
    with LlamaEngine(path, EngineOptions(template=TEMPLATE)) as engine:
        (prompt,) = engine.encode([ask("Hello?")])
        assert engine.generate([prompt], max_tokens=2)[0].tokens
