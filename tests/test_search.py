"""The search on a model whose best layer and strength are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fake_engine import FakeEngine, FakeJudge, prompt_set
from hypothesis import given, settings
from hypothesis import strategies as st

from rosi_edge.basics.arrays import Float32
from rosi_edge.direction.difference import Directions, LayerSeparation
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.search.constraints import Constraints
from rosi_edge.search.options import SearchOptions
from rosi_edge.search.paper import search_paper
from rosi_edge.search.result import SearchResult, best_balance

LAYERS = 16
HARMFUL = [f"harmful {index}" for index in range(50)]
HARMLESS = [f"harmless {index}" for index in range(50)]
SOUNDS = [f"sounds harmful {index}" for index in range(10)]
SETS = RequestSets(
    prompt_set("harmful", HARMFUL), prompt_set("harmless", HARMLESS), prompt_set("sounds", SOUNDS)
)
DIRECTIONS = Directions(
    np.eye(LAYERS, dtype=np.float32),
    tuple(LayerSeparation(layer, 1.0, 0.5, float(layer), 0.9) for layer in range(LAYERS)),
    50,
    50,
    None,
)


def edits(direction: Float32) -> Sequence[RankOneEdit]:
    return [RankOneEdit("blk.0.ffn_down.weight", direction, np.ones(3, dtype=np.float32))]


def thresholds(limit: float = 8.0) -> dict[str, float]:
    """Ten harmful requests are refused as it is, the others one by one up to a push of 20; a push of
    ``limit`` turns the first harmless request into a refusal, and each further one takes a little more."""
    found = {text: -1.0 if index < 10 else (index - 9) * 0.5 for index, text in enumerate(HARMFUL)}
    found |= {text: limit * (1 + 0.25 * index) for index, text in enumerate(HARMLESS)}
    return found | dict.fromkeys(SOUNDS, limit)


def run(engine: FakeEngine, **options: object) -> SearchResult:
    return search_paper(engine, DIRECTIONS, edits, SETS, FakeJudge(), SearchOptions(**options))  # type: ignore[arg-type]


def check_sound(found: SearchResult, engine: FakeEngine) -> None:
    """What holds for every search, whatever the model."""
    assert engine.active == {}
    assert engine.loaded == {}
    assert all(strength > 0 for strength in engine.strengths)
    strengths = [point.strength for point in found.frontier]
    assert strengths == sorted(strengths)
    assert found.original.refusal.value == pytest.approx(0.2)
    allowed = [point for point in found.frontier if point.behaviour.compliance.value >= found.floor - 1e-9]
    if found.chosen is None:
        assert not allowed
    else:
        assert found.chosen in found.frontier
        assert found.chosen.behaviour.compliance.value >= found.floor - 1e-9
        best = max(point.behaviour.refusal.value for point in allowed)
        assert found.chosen.behaviour.refusal.value == best


def test_bisection_finds_the_floor() -> None:
    engine = FakeEngine(LAYERS, thresholds())
    found = run(engine, layers=(7,), evaluations=14)
    check_sound(found, engine)
    # 49 of 50 are 0.98, the floor; the second harmless request goes at a push of 10.
    assert found.floor == pytest.approx(0.98)
    assert found.chosen is not None
    assert 10 / 1.1 <= found.chosen.strength < 10
    assert found.chosen.behaviour.compliance.value == pytest.approx(0.98)
    # 18 or 19 more harmful requests than the original refuses at that push.
    assert found.chosen.behaviour.refusal.value == pytest.approx((10 + int(found.chosen.strength * 2)) / 50)
    assert found.chosen.layer == 7


@settings(max_examples=30, deadline=None)
@given(
    limit=st.floats(0.01, 1000),
    gain=st.floats(0.001, 1000),
    floor=st.one_of(st.none(), st.floats(0, 1)),
    evaluations=st.integers(1, 10),
)
def test_never_below_the_floor(limit: float, gain: float, floor: float | None, evaluations: int) -> None:
    engine = FakeEngine(LAYERS, thresholds(limit), lambda request, layer, strength: gain * strength)
    found = run(engine, layers=(3,), min_compliance=floor, evaluations=evaluations)
    check_sound(found, engine)
    assert len(found.frontier) <= evaluations
    assert found.floor == pytest.approx(0.98 if floor is None else floor)
    for point in found.frontier:
        # The frontier is what the model really does at that strength.
        push = gain * point.strength
        complied = sum(push < threshold for text, threshold in thresholds(limit).items() if text in HARMLESS)
        assert point.behaviour.compliance.value == pytest.approx(complied / 50)


def test_the_layer_that_tells_harmful_from_harmless_wins() -> None:
    def push(request: str, layer: int, strength: float) -> float:
        # Every layer pushes harmless requests alike; layer 10 pushes harmful ones most.
        return strength * (3 - abs(layer - 10) / 3 if request.startswith("harmful") else 1)

    engine = FakeEngine(LAYERS, thresholds(), push)
    found = run(engine, evaluations=10)
    check_sound(found, engine)
    assert found.chosen is not None
    assert found.chosen.layer == 10
    tried = [trial.layer for trial in found.sweep]
    assert tried == sorted(tried)
    assert 10 in tried
    assert min(tried) >= LAYERS // 4
    assert max(tried) < LAYERS
    # All layers were compared at one strength, at which harmless predictions have hardly moved.
    assert len({trial.strength for trial in found.sweep}) == 1
    assert all(0 < trial.kl < 0.2 for trial in found.sweep)
    assert {point.layer for point in found.frontier} == {10}


def test_a_model_that_never_refuses_takes_the_layer_that_separates_best() -> None:
    never = dict.fromkeys((*HARMFUL, *HARMLESS, *SOUNDS), 1e9)
    engine = FakeEngine(LAYERS, never)
    found = run(engine, evaluations=2)
    assert found.chosen is not None
    assert found.chosen.layer == max(trial.layer for trial in found.sweep)
    assert found.chosen.behaviour.refusal.value == 0
    assert engine.active == {}


def test_given_layer_and_strength_are_tried_once() -> None:
    engine = FakeEngine(LAYERS, thresholds())
    found = run(engine, layers=(5,), strength=4.0)
    check_sound(found, engine)
    assert [(point.layer, point.strength) for point in found.frontier] == [(5, 4.0)]
    assert found.sweep == ()
    assert found.chosen is found.frontier[0]


def test_a_given_strength_that_costs_too_much_is_not_chosen() -> None:
    engine = FakeEngine(LAYERS, thresholds())
    found = run(engine, layers=(5,), strength=50.0)
    check_sound(found, engine)
    assert found.chosen is None
    assert len(found.frontier) == 1


def test_no_strength_keeps_the_floor() -> None:
    # The least push costs every harmless request.
    touchy = thresholds() | dict.fromkeys(HARMLESS, 1e-30)
    engine = FakeEngine(LAYERS, touchy)
    found = run(engine, layers=(5,))
    check_sound(found, engine)
    assert found.chosen is None


def test_the_original_is_restored_when_something_fails() -> None:
    engine = FakeEngine(LAYERS, thresholds())

    class Interrupting(FakeJudge):
        def judge(self, requests, answers):  # type: ignore[no-untyped-def]
            if engine.active:
                raise KeyboardInterrupt
            return super().judge(requests, answers)

    with pytest.raises(KeyboardInterrupt):
        search_paper(engine, DIRECTIONS, edits, SETS, Interrupting(), SearchOptions(layers=(4,)))
    assert engine.active == {}


def test_another_strength_costs_its_evaluation_and_nothing_else() -> None:
    costs = []
    for evaluations in (3, 6):
        engine = FakeEngine(LAYERS, thresholds())
        run(engine, layers=(4,), evaluations=evaluations)
        costs.append((engine.answered, len(engine.strengths)))
    # Requests that only sound harmful are reported on, not searched on.
    requests = len(HARMFUL) + len(HARMLESS)
    assert costs[1][0] - costs[0][0] == 3 * requests
    assert costs[1][1] - costs[0][1] == 3


def test_of_equals_the_weaker_is_chosen() -> None:
    engine = FakeEngine(LAYERS, thresholds())
    points = [
        point
        for strength in (4.0, 4.1, 4.4, 6.0)
        for point in run(engine, layers=(5,), strength=strength).frontier
    ]
    constraints = Constraints(run(engine, layers=(5,)).original, floor=0.9)
    chosen = constraints.choose(points[:3])
    assert chosen is not None
    assert chosen.strength == 4.0
    chosen = constraints.choose(list(reversed(points)))
    assert chosen is not None
    assert chosen.strength == 6.0
    assert replace(constraints, floor=1.01).choose(points) is None
    assert constraints.choose([]) is None


def test_the_best_balance_weighs_refusal_against_compliance() -> None:
    engine = FakeEngine(LAYERS, thresholds())
    found = run(engine, layers=(3,), evaluations=6)
    best = best_balance(found)
    sums = [p.behaviour.refusal.value + p.behaviour.compliance.value for p in found.frontier]
    assert best.behaviour.refusal.value + best.behaviour.compliance.value == max(sums)
