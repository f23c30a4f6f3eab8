"""The inputs that rounding is fitted to, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fake_engine import prompt_set

from rosi_edge.baking.inputs import input_factors, unseen_inputs
from rosi_edge.direction.activations import InputRows
from rosi_edge.direction.calibration import POSITIONS
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.runtime.engine import EngineOptions, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import Positions, TapRequest

NAME = "blk.1.ffn_down.weight"


def test_the_ends_of_prompts_count_nine_times(tiny_model: Path) -> None:
    sets = RequestSets(
        prompt_set("harmful", ["harmful one", "a longer harmful request"]),
        prompt_set("harmless", ["harmless one", "a longer harmless request, with more words"]),
        None,
    )
    with LlamaEngine(tiny_model, EngineOptions(threads=1, context_size=1024)) as engine:
        prompts = engine.encode([ask(text) for text in (*sets.harmful.texts, *sets.harmless.texts)])
        request = TapRequest(inputs=(NAME,), positions=Positions.ALL, half=True)
        tapped = engine.capture(prompts, request).inputs[NAME]
        with_answers = TapRequest(inputs=(NAME,), positions=Positions.ALL, answer=6, half=True)
        answers = engine.capture(prompts, with_answers).inputs[NAME]
        assert tapped.rows is not None and tapped.prompts is not None and answers.rows is not None
        edit = RankOneEdit(
            NAME, np.ones(engine.facts.hidden_size, np.float32), np.ones(tapped.rows.shape[1], np.float32)
        )
        factor = input_factors(engine, sets, [edit])[NAME]
        with InputRows(3) as known:
            random = np.random.default_rng(0)
            more = random.integers(-4, 5, (30, len(edit.input))).astype(np.float32)
            known.add(NAME, more, np.arange(30) % 3)
            with_more = input_factors(engine, sets, [edit], known=known)[NAME]

    energy = np.square(answers.rows.astype(np.float64)).sum(axis=0)
    for number in range(len(prompts)):
        ends = tapped.rows[tapped.prompts == number][-POSITIONS:]
        energy += 8 * np.square(ends.astype(np.float64)).sum(axis=0)
    found = np.square(factor.directions.astype(np.float64)).sum(axis=0) + factor.remainder
    np.testing.assert_allclose(found, energy, rtol=1e-3)
    # Rows that calibration has read already are ends of prompts too; the last set is of earlier positions.
    energy += 9 * np.square(more[np.arange(30) % 3 != 2], dtype=np.float64).sum(axis=0)
    found = np.square(with_more.directions.astype(np.float64)).sum(axis=0) + with_more.remainder
    np.testing.assert_allclose(found, energy, rtol=1e-3)


def test_what_is_measured_on_and_corrected_by_are_ends_of_different_prompts(tiny_model: Path) -> None:
    texts = ["one", "a second one", "and a third"]
    sets = RequestSets(prompt_set("harmful", texts), prompt_set("harmless", ["hello", "good day"]), None)
    with LlamaEngine(tiny_model, EngineOptions(threads=1, context_size=1024)) as engine:
        width = 2 * engine.facts.hidden_size
        edit = RankOneEdit(NAME, np.ones(engine.facts.hidden_size, np.float32), np.ones(width, np.float32))
        probes, aims = unseen_inputs(engine, sets, [edit])
        prompts = engine.encode([ask(text) for text in (*texts, "hello", "good day")])
        tapped = engine.capture(prompts, TapRequest(inputs=(NAME,), last=POSITIONS)).inputs[NAME]
    assert tapped.rows is not None and len(tapped.rows) == POSITIONS * len(prompts)
    owners = np.repeat(np.arange(len(prompts)), POSITIONS)
    np.testing.assert_array_equal(probes[NAME], tapped.rows[owners % 2 == 0])
    np.testing.assert_array_equal(aims[NAME], tapped.rows[owners % 2 == 1])
