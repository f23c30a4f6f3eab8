"""The study of several directions on a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fake_engine import prompt_set
from test_hardening import Changed
from tiny_gguf import write_tiny_llama

from rosi_edge.inspection import require_hardenable
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.prompts.sets import PromptSet
from rosi_edge.runtime.engine import EngineOptions
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.study.directions import DirectionsResult, DirectionsStudy, study_directions

CATEGORIES = ("fraud", "stalking", "weapons")
# Of three equally large categories the third's mean follows from the common one and the other two.


def sets(part: str, count: int) -> RequestSets:
    harmful, harmless, sounds = (
        prompt_set(f"{kind}_{part}", [f"{kind} {part} {index * 7919}" for index in range(count)])
        for kind in ("harmful", "harmless", "sounds")
    )
    prompts = [replace(prompt, category=CATEGORIES[i % 3]) for i, prompt in enumerate(harmful.prompts)]
    return RequestSets(PromptSet.of(harmful.name, prompts, "made up"), harmless, sounds)


def test_categories_are_added_one_by_one(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=3)
    options = EngineOptions(threads=1, context_size=2048, held=48)
    with GgufFile.open(path) as file, LlamaEngine(path, options) as engine:
        found = study_directions(
            engine,
            file,
            require_hardenable(file),
            sets("calibration", 24),
            sets("choosing", 9),
            Changed(),
            most=4,
        )
    assert found.categories == tuple((name, 3) for name in CATEGORIES)
    assert found.prompts == (9, 9)
    assert [len(result.added) for result in found.results] == [0, 1, 2]
    assert set(found.results[-1].added) < set(CATEGORIES)
    assert found.results[1].added == found.results[2].added[:1]
    for result in found.results:
        assert all(0 < rest <= 1 for rest in result.rest)
        assert len(result.by_category) == 3
        # Compared at one divergence: an effect that was paid for more dearly would not be comparable.
        assert 0.03 < result.kl < 0.08
    assert 1 <= found.best <= 3


def result(harmful: float, harmless: float) -> DirectionsResult:
    return DirectionsResult((), (), harmful, harmless, (), 0.05)


def test_another_direction_pays_only_without_more_benign_refusals() -> None:
    original = result(0.2, 0.1)

    def best(*results: DirectionsResult) -> int:
        return DirectionsStudy((), (9, 9), original, results).best

    assert best(result(0.5, 0.1), result(0.51, 0.1)) == 1
    assert best(result(0.5, 0.1), result(0.6, 0.1)) == 2
    assert best(result(0.5, 0.1), result(0.6, 0.2)) == 1
    assert best(result(0.5, 0.1), result(0.5, 0.1), result(0.7, 0.11)) == 3
