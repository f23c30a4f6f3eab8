"""The calibration study on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_engine import prompt_set
from test_hardening import Changed
from tiny_gguf import write_tiny_llama

from rosi_edge.cli import application
from rosi_edge.evaluation.behaviour import RequestSets
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.inspect import require_hardenable
from rosi_edge.runtime.engine import EngineOptions
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.study import study_calibration


def sets(part: str, count: int) -> RequestSets:
    return RequestSets(
        *(
            prompt_set(f"{kind}_{part}", [f"{kind} {part} {index * 7919}" for index in range(count)])
            for kind in ("harmful", "harmless", "sounds")
        )
    )


def test_larger_samples_agree_more(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=3)
    options = EngineOptions(threads=1, context_size=2048, held=32)
    with GgufFile.open(path) as file, LlamaEngine(path, options) as engine:
        found = study_calibration(
            engine,
            file,
            require_hardenable(file),
            sets("calibration", 24),
            sets("choosing", 6),
            Changed(),
            sizes=(2, 16),
        )
    small, large = found.sizes
    assert (small.size, large.size) == (2, 16)
    assert small.cosine is not None
    assert large.cosine is not None
    assert large.cosine.value > small.cosine.value
    assert small.kl.n == 3


@pytest.mark.parametrize("sizes", ["", "5,x", "1,10"])
def test_sizes_that_are_none(sizes: str) -> None:
    result = CliRunner().invoke(application, ["study", "calibration", "demo", "--sizes", sizes])
    assert result.exit_code == 2
