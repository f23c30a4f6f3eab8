"""The calibration study on a tiny model."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from fake_engine import prompt_set
from test_hardening import Changed
from tiny_gguf import write_tiny_llama

from rosi_edge.cli import application
from rosi_edge.errors import PromptSetError
from rosi_edge.inspection import require_hardenable
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.prompts.sets import Kind, Part, bundled
from rosi_edge.runtime.engine import EngineOptions
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.study.calibration import disjoint_samples, study_calibration
from rosi_edge.study.equal_divergence import at_equal_divergence


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
            [disjoint_samples(sets("calibration", 48), size, 3, seed=0) for size in (2, 16)],
            sets("choosing", 6),
            Changed(),
        )
    small, large = found.sizes
    assert (small.size, large.size) == (2, 16)
    assert small.cosine is not None
    assert large.cosine is not None
    assert large.cosine.value > small.cosine.value
    assert small.kl.n == 3


def test_samples_share_no_prompt() -> None:
    whole = RequestSets(*(bundled(kind, Part.CALIBRATION) for kind in Kind))
    drawn = disjoint_samples(whole, 100, 5, seed=3)
    for texts in (
        [sample.harmful.texts for sample in drawn],
        [sample.harmless.texts for sample in drawn],
        [sample.sounds_harmful.texts for sample in drawn if sample.sounds_harmful],
    ):
        assert [len(each) for each in texts] == [100] * 5
        assert len({text for each in texts for text in each}) == 500
    first = Counter(prompt.category for prompt in drawn[0].harmful.prompts)
    last = Counter(prompt.category for prompt in drawn[-1].harmful.prompts)
    assert first.keys() == last.keys()
    assert drawn[0].harmful.texts == disjoint_samples(whole, 100, 2, seed=3)[0].harmful.texts
    with pytest.raises(PromptSetError, match="5 samples of 105 prompts"):
        disjoint_samples(whole, 105, 5, seed=3)


class Curve:
    """An engine and a scorer whose divergence is a function of the strength."""

    original = None

    def __init__(self, divergence: Callable[[float], float]) -> None:
        self._divergence = divergence
        self.strength = 0.0
        self.scored = 0

    def apply(self, strengths: Mapping[int, float]) -> None:
        ((_, self.strength),) = strengths.items()

    def score(self) -> SimpleNamespace:
        self.scored += 1
        return SimpleNamespace(kl=self._divergence(self.strength))


@pytest.mark.parametrize("factor", [4e-4, 0.02, 1.0, 20.0, 200.0])
@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_strengths_of_equal_divergence_are_found(factor: float, power: float) -> None:
    curve = Curve(lambda strength: factor * strength**power)
    score = at_equal_divergence(curve, curve, 1, 0.5)  # type: ignore[arg-type]
    assert 0.04 <= score.kl <= 0.0625
    assert curve.scored <= 6
    assert factor * curve.strength**power == score.kl  # It stays applied.


def test_the_nearest_is_taken_where_the_divergence_jumps() -> None:
    curve = Curve(lambda strength: 0.001 if strength < 0.7 else 0.3)
    score = at_equal_divergence(curve, curve, 1, 0.5)  # type: ignore[arg-type]
    assert (score.kl, curve.scored) == (0.3, 6)
    assert curve.strength >= 0.7


def test_strengths_that_cost_nothing_or_everything_are_passed() -> None:
    little = Curve(lambda strength: 0.0 if strength < 40 else 0.05)
    assert at_equal_divergence(little, little, 1, 0.5).kl == 0.05  # type: ignore[arg-type]
    much = Curve(lambda strength: math.nan if strength > 0.002 else 0.05)
    assert at_equal_divergence(much, much, 1, 0.5).kl == 0.05  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", ["", "5,x", "1,10"])
def test_sizes_that_are_none(sizes: str) -> None:
    result = CliRunner().invoke(application, ["study", "calibration", "demo", "--sizes", sizes])
    assert result.exit_code == 2


def test_the_command_in_json(tiny_model: Path) -> None:
    arguments = ["study", "calibration", str(tiny_model), "--sizes", "2,4", "--samples", "2", "-t", "1"]
    result = CliRunner().invoke(application, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [entry["size"] for entry in found["sizes"]] == [2, 4]
    assert found["sizes"][0]["kl"]["n"] == 2
    assert 0 <= found["sizes"][1]["refused"]["low"] <= found["sizes"][1]["refused"]["high"] <= 1
    result = CliRunner().invoke(application, arguments, catch_exceptions=False)
    assert "no prompt in two" in result.stdout


def test_more_prompts_than_there_are() -> None:
    with pytest.raises(PromptSetError, match="3 samples of 500 prompts were asked for"):
        CliRunner().invoke(
            application, ["study", "calibration", "demo", "--sizes", "5,500"], catch_exceptions=False
        )
