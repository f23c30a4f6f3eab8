"""Calibration on a tiny model: which rows end up where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_engine import prompt_set
from tiny_gguf import write_tiny_llama

from rosi_edge.direction import calibration
from rosi_edge.direction.activations import InputRows
from rosi_edge.direction.calibration import (
    calibrate,
    candidate_matrices,
    common_suffix,
    resampled_cosine,
    solve,
)
from rosi_edge.edits.keys import Form
from rosi_edge.inspection import require_hardenable
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.runtime.engine import EngineOptions, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import Positions, TapRequest

SETS = RequestSets(
    *(
        prompt_set(kind, [f"{kind} request number {index * index} of many" for index in range(6)])
        for kind in ("harmful", "harmless", "sounds")
    )
)


@pytest.mark.parametrize("answered", [2, 6])
def test_rows_are_those_of_the_positions_they_are_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: int
) -> None:
    monkeypatch.setattr(calibration, "_ANSWERED", answered)
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=3)
    with GgufFile.open(path) as file, LlamaEngine(path, EngineOptions(threads=1)) as engine:
        matrices = candidate_matrices(require_hardenable(file), 3)
        assert {matrix.block for matrix in matrices} == {2}
        found = calibrate(engine, SETS, matrices)
        name = matrices[1].name
        texts = [text for group in found.sets for text in group.texts]
        prompts = engine.encode([ask(text) for text in texts])
        # The reference reads every position of each prompt alone, with nothing shared.
        request = TapRequest(blocks=(1,), inputs=(name,), positions=Positions.ALL)
        alone = [engine.capture([prompt], request, share_prefix=False) for prompt in prompts]
    whole = [capture.inputs[name].rows for capture in alone]
    with found.inputs:
        *by_set, body = found.inputs.by_set(name)
        for number, rows in enumerate(by_set):
            mine = [rows_ for rows_ in whole[6 * number : 6 * number + 6] if rows_ is not None]
            ends = np.concatenate([each[[-3, -1]] for each in mine])
            # Answers' openings are there as well; every row of a prompt's end must be among them.
            for end in ends:
                assert np.abs(rows - end).max(axis=1).min() < 5e-2
            assert len(rows) >= len(ends)
        tail = common_suffix(prompts)
        assert tail > 3
        before_the_tail = np.concatenate([each[:-tail] for each in whole if each is not None])
        assert len(body)
        for row in body:
            assert np.abs(before_the_tail - row).max(axis=1).min() < 5e-2
    streams = np.stack([capture.stream_rows(1)[-1] for capture in alone])
    difference = streams[:6].mean(axis=0) - streams[6:12].mean(axis=0)
    cosine = difference @ found.directions.vectors[1] / np.linalg.norm(difference)
    assert cosine > 0.99


def test_inputs_come_back_as_they_went_in() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(10, 4)).astype(np.float16).astype(np.float32)
    members = np.array([0, 1, 0, 2, 2, 1, 0, 0, 1, 2])
    with InputRows(3) as inputs:
        inputs.add("blk.0.ffn_down.weight", rows[:6], members[:6])
        inputs.add("blk.0.ffn_down.weight", rows[6:], members[6:])
        for number, found in enumerate(inputs.by_set("blk.0.ffn_down.weight")):
            np.testing.assert_array_equal(found, rows[members == number])
        folder = Path(inputs._folder.name)
        assert folder.exists()
    assert not folder.exists()


def test_keys_are_silent_on_other_positions() -> None:
    random = np.random.default_rng(2)
    body = random.normal(size=(30, 64)).astype(np.float32) + 2
    with InputRows(3) as inputs, InputRows(3) as free:
        for store, others in ((inputs, body), (free, body[:0])):
            for number, rows in enumerate(
                (random.normal(size=(40, 64)) + 1.5, random.normal(size=(40, 64)) - 1.5, others)
            ):
                store.add("w", rows.astype(np.float32), np.full(len(rows), number))
        heard = solve(free, ridge=0.01, forms=[Form.RIDGE])["w"][Form.RIDGE].fires
        silent = solve(inputs, ridge=0.01, forms=[Form.RIDGE])["w"][Form.RIDGE].fires
    assert np.abs(body @ silent).mean() < 0.5 * np.abs(body @ heard).mean()


def test_a_direction_that_owes_nothing_to_its_prompts_does_not_move() -> None:
    random = np.random.default_rng(1)
    apart = np.zeros(32, dtype=np.float32)
    apart[0] = 1
    noise = random.normal(size=(2, 50, 32)).astype(np.float32)
    assert resampled_cosine(50 * apart + 0.01 * noise[0], 0.01 * noise[1]) > 0.999
    assert resampled_cosine(noise[0], noise[1]) < 0.7


def test_common_suffix() -> None:
    assert common_suffix([[1, 2, 9, 9], [3, 9, 9]]) == 2
    assert common_suffix([[1], [2]]) == 0


def test_guarded_prompts_are_a_set_of_their_own(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=2)
    guarded = prompt_set("guarded", [f"guarded request {index * index}" for index in range(5)])
    with GgufFile.open(path) as file, LlamaEngine(path, EngineOptions(threads=1)) as engine:
        matrices = require_hardenable(file)
        name = matrices[1].name
        plain = calibrate(engine, SETS, matrices)
        found = calibrate(engine, replace(SETS, guarded=guarded), matrices)
        alone = engine.capture(
            engine.encode([ask(text) for text in guarded.texts]), TapRequest(inputs=(name,), last=1)
        )
    with plain.inputs, found.inputs:
        assert found.sets == plain.sets and found.guarded is guarded
        np.testing.assert_array_equal(found.directions.vectors, plain.directions.vectors)
        *told_apart, rows_of_guarded, _ = found.inputs.by_set(name)
        assert [len(rows) for rows in told_apart] == [len(rows) for rows in plain.inputs.by_set(name)[:-1]]
        ends = alone.inputs[name].rows
        assert ends is not None
        for end in ends:
            assert np.abs(rows_of_guarded - end).max(axis=1).min() < 5e-2
        key = solve(found.inputs, ridge=0.001, forms=[Form.RIDGE])[name][Form.RIDGE]
        without = solve(plain.inputs, ridge=0.001, forms=[Form.RIDGE])[name][Form.RIDGE]
        answers, free = rows_of_guarded @ key.fires, rows_of_guarded @ without.fires
        assert np.square(answers).mean() < 0.5 * np.square(free).mean()
        # A negative β pushes them along.
        assert (rows_of_guarded @ key.at((0.0, 0.0, -0.5))).mean() == pytest.approx(0.5, abs=0.2)
