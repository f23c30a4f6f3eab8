"""llama.cpp's loader, asked without the weights, takes every tiny model and the demo model."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures.measure import everything
from architectures.tiny import blueprint, write_model

from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.trial import objection
from rosi_edge.sources.resolve import resolve


@pytest.mark.long
@pytest.mark.parametrize(("name", "experts"), everything())
def test_no_architecture_is_refused_falsely(name: str, experts: bool, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", blueprint(name, tmp_path, experts=experts))
    with GgufFile.open(path) as file:
        assert objection(file) is None


@pytest.mark.model
def test_nor_is_the_demo_model() -> None:
    with GgufFile.open(resolve("demo")) as file:
        assert objection(file) is None
