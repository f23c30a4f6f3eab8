"""The conditional method's search on a tiny model with random weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from fake_engine import prompt_set
from tiny_gguf import write_tiny_llama

from rosi_edge.direction.activations import InputRows
from rosi_edge.direction.calibration import Calibration, calibrate
from rosi_edge.direction.difference import Directions
from rosi_edge.edits.keys import Form, Key
from rosi_edge.edits.profile import Profile, Setting, conditional_edits
from rosi_edge.errors import RosiEdgeError
from rosi_edge.evaluation.judges.keyword import KeywordJudge
from rosi_edge.evaluation.verdicts import Judge, Verdict
from rosi_edge.inspection import require_hardenable
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.prompts.sets import PromptSet
from rosi_edge.runtime.engine import Conversation, EditHandle, EngineOptions
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.search import strength as search_strength
from rosi_edge.search.candidates import Editable, direction_candidates, layer_candidates
from rosi_edge.search.conditional import search_conditional
from rosi_edge.search.options import ConditionalOptions
from rosi_edge.search.result import SearchResult, Tried

OPTIONS = ConditionalOptions(trials=4, answered=2, max_tokens=4, max_kl=5.0)
SHARED = replace(OPTIONS, trials=8)


def groups(part: str) -> list[PromptSet]:
    return [
        prompt_set(f"{kind}_{part}", [f"{kind} {part} {index * index}" for index in range(10)])
        for kind in ("harmful", "harmless", "sounds")
    ]


def sets(part: str) -> RequestSets:
    return RequestSets(*groups(part))


def run(
    path: Path,
    options: ConditionalOptions,
    tried: Callable[[Tried], None] = lambda point: None,
    elicitation: str | None = None,
    judge: Judge = KeywordJudge(),  # noqa: B008
) -> SearchResult:
    with (
        GgufFile.open(path) as file,
        LlamaEngine(path, EngineOptions(threads=1, context_size=1024, held=64)) as engine,
    ):
        matrices = require_hardenable(file)
        calibration = calibrate(engine, sets("calibration"), matrices, elicitation=elicitation)
        with calibration.inputs:
            return search_conditional(
                engine,
                Editable(file, matrices, direction_candidates(calibration, options.layer)),
                calibration,
                sets("choosing"),
                judge,
                options,
                tried=tried,
            )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", layers=4)


def settings(result: SearchResult) -> list[Setting | None]:
    return [point.setting for point in result.frontier]


def test_one_seed_one_point(model: Path) -> None:
    first, second = (run(model, OPTIONS) for _ in range(2))
    assert settings(first) and settings(first) == settings(second)
    assert first.sweep == second.sweep
    assert [point.behaviour.refusal for point in first.frontier] == [
        point.behaviour.refusal for point in second.frontier
    ]
    assert (first.chosen and first.chosen.setting) == (second.chosen and second.chosen.setting)


def test_another_seed_tries_other_settings(model: Path) -> None:
    # Beyond the starting points, which are the same for every seed.
    tried: list[list[Setting]] = []
    for seed in (0, 1):
        found: list[Tried] = []
        run(model, replace(OPTIONS, trials=7, seed=seed, answered=1), found.append)
        tried.append([point.setting for point in found])
    assert tried[0][:5] == tried[1][:5]
    assert tried[0] != tried[1]


def test_layers_of_their_own_are_a_candidate(model: Path) -> None:
    result = run(model, OPTIONS)
    names = [trial.name for trial in result.sweep]
    assert "each layer's own" in names and "layer 1" in names
    only = run(model, replace(OPTIONS, layer=2))
    assert [trial.name for trial in only.sweep] == ["layer 2"]


def test_strength_is_doubled_until_the_divergence_can_be_seen(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A limit that a model of random weights never comes near, and one that it is over at once.
    far, near = (run(model, replace(OPTIONS, max_kl=limit, trials=1, answered=1)) for limit in (1e9, 1e-9))
    # Only once more after it can be seen, however much is allowed.
    seen = max(trial.strength for trial in far.sweep)
    assert 0.5 < seen < 32
    monkeypatch.setattr(search_strength, "VISIBLE", 1e9)
    far = run(model, replace(OPTIONS, max_kl=1e9, trials=1, answered=1))
    assert {trial.strength for trial in far.sweep} == {64.0}
    assert max(trial.strength for trial in near.sweep) <= 0.5
    fixed = run(model, replace(OPTIONS, max_kl=1e9, strength=0.7, trials=1, answered=1))
    assert {trial.strength for trial in fixed.sweep} == {0.7}


def test_refusal_openings_are_learnt_where_the_direction_was_taken(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Conversation] = []
    encode = LlamaEngine.encode

    def listen(engine: LlamaEngine, conversations: Sequence[Conversation]) -> list[list[int]]:
        asked.extend(conversations)
        return encode(engine, conversations)

    monkeypatch.setattr(LlamaEngine, "encode", listen)
    run(model, replace(OPTIONS, trials=1, answered=1), elicitation="Be safe.")
    under = {turns[-1].content for turns in asked if turns[0].content == "Be safe."}
    assert set(sets("choosing").harmful.texts) <= under
    assert not set(sets("choosing").harmless.texts) & under


@dataclass(frozen=True)
class JudgeOfStrength:
    """A judge to whom everything is refused as soon as the edits are stronger than a limit."""

    limit: float
    applied: list[float]

    @property
    def name(self) -> str:
        return "strength"

    def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        verdict = Verdict.REFUSED if self.applied[-1] > self.limit else Verdict.COMPLIED
        return [verdict] * len(requests)


@pytest.mark.parametrize("limit", [1e9, 3.0])
def test_a_point_that_costs_nothing_is_asked_much_stronger_and_halfway_back(
    model: Path, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    applied = [0.0]
    apply = LlamaEngine.apply

    def listen(engine: LlamaEngine, strengths: Mapping[EditHandle, float]) -> None:
        applied.append(max(strengths.values(), default=0.0))
        apply(engine, strengths)

    monkeypatch.setattr(LlamaEngine, "apply", listen)
    asked: list[float] = []

    def note(point: Tried) -> None:
        if point.answered:
            asked.append(point.setting.strength)

    monkeypatch.setattr(search_strength, "VISIBLE", 0.0)
    run(
        model,
        replace(OPTIONS, max_kl=1e9, trials=1, answered=4),
        note,
        judge=JudgeOfStrength(limit, applied),
    )
    expected = [1, 2, 4, 8] if limit > 1e6 else [1, 2, np.sqrt(8)]
    assert asked[: len(expected)] == pytest.approx(expected)
    assert max(asked) <= limit


@pytest.mark.parametrize("layers", [4, 24, 40, 61])
def test_candidates_of_single_layers(layers: int) -> None:
    vectors = np.eye(layers, 64, dtype=np.float32)
    calibration = Calibration(Directions(vectors, (), 1, 1, None), InputRows(1), ())
    single = layer_candidates(calibration, None)
    assert 1 <= len(single) <= 11
    for candidate in single:
        np.testing.assert_array_equal(candidate.vector, vectors[candidate.layer])
    *same, own = direction_candidates(calibration, None)
    assert [candidate.name for candidate in same] == [candidate.name for candidate in single]
    assert own.vector.shape == vectors.shape


def test_a_direction_a_layer_goes_to_its_own_layer(model: Path) -> None:
    with GgufFile.open(model) as file:
        matrices = require_hardenable(file)
        random = np.random.default_rng(0)
        keys = {
            matrix.name: {Form.RIDGE: Key(random.normal(size=matrix.shape[-1]).astype(np.float32), ())}
            for matrix in matrices
        }
        hidden = matrices[0].shape[0]
        own = random.normal(size=(4, hidden)).astype(np.float32)
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        everywhere = Profile(1.5, 10.0)
        setting = Setting("any", Form.RIDGE, everywhere, everywhere, (), 1.0)
        edits = {edit.tensor: edit for edit in conditional_edits(file, matrices, keys, own, setting)}
        for matrix in matrices:
            (alone,) = conditional_edits(file, [matrix], keys, own[matrix.block], setting)
            np.testing.assert_array_equal(edits[matrix.name].output, alone.output)
    assert len(edits) == len(matrices) > 4


def test_processes_share_one_study(model: Path, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    optuna.storages.get_storage(storage)  # Two processes that make the tables at once disturb each other.
    workers = [subprocess.Popen([sys.executable, __file__, str(model), storage]) for _ in range(2)]
    assert [worker.wait(600) for worker in workers] == [0, 0]
    (study,) = optuna.get_all_study_summaries(storage)
    done = [
        trial
        for trial in optuna.load_study(study_name=study.study_name, storage=storage).trials
        if "points" in trial.user_attrs
    ]
    # Each may have begun one when the other finished the last.
    assert 8 <= len(done) <= 9
    # A third finds everything tried, and asks only for answers.
    before = study.n_trials
    result = run(model, replace(SHARED, storage=storage))
    assert settings(result)
    (study,) = optuna.get_all_study_summaries(storage)
    assert study.n_trials == before


def test_a_place_that_cannot_hold_the_search(model: Path, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("no folder")
    with pytest.raises(RosiEdgeError, match="cannot keep what it tries"):
        run(model, replace(OPTIONS, folder=occupied / "searches"))
    with pytest.raises(RosiEdgeError, match="--storage cannot be used"):
        run(model, replace(OPTIONS, storage=f"sqlite:///{occupied / 'search.db'}"))


if __name__ == "__main__":
    run(Path(sys.argv[1]), replace(SHARED, storage=sys.argv[2]))
