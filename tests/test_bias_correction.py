"""Bias correction: the arithmetic on made-up inputs, the loop on a made-up file, the rest on tiny models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import baking
import numpy as np
import pytest
from fake_engine import prompt_set
from gguf import GGMLQuantizationType as T

from rosi_edge.baking.bias_correction import (
    ExactEffect,
    bake_corrected,
    corrected,
    measure_exact,
)
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.baking.tensor import UndeliveredError
from rosi_edge.edits.declaration import MOST_CORRECTION, PREFIX, read_declaration
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import rewrite
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.runtime.engine import EngineOptions
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.verification.gguf import verify

NAME = "blk.0.ffn_down.weight"


def edit_and_inputs() -> tuple[RankOneEdit, np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    rows = (random.standard_normal((200, 24)) + 2.0).astype(np.float32)
    edit = RankOneEdit(
        NAME, random.standard_normal(8).astype(np.float32), random.standard_normal(24).astype(np.float32)
    )
    return edit, rows


def test_the_same_is_taken_off_for_every_input_on_average() -> None:
    edit, rows = edit_and_inputs()
    (changed,) = corrected([edit], {NAME: rows}, 0.05)
    size = np.sqrt(np.square(rows @ edit.input).mean())
    difference = rows @ (edit.input - changed.input)
    assert difference.mean() == pytest.approx(0.05 * size, rel=1e-3)
    # The inputs here share a mean of 2 and scatter by 1 a column, so what is taken off scatters by a tenth.
    assert difference.std() < 0.2 * difference.mean()
    np.testing.assert_array_equal(changed.output, edit.output)


def test_only_known_matrices_and_their_first_edits_change() -> None:
    edit, rows = edit_and_inputs()
    other = RankOneEdit("blk.1.ffn_down.weight", edit.output, edit.input)
    first, second, third = corrected([edit, edit, other], {NAME: rows}, 0.05)
    assert not np.array_equal(first.input, edit.input)
    assert second is edit and third is other
    assert corrected([edit], {NAME: np.zeros_like(rows)}, 0.05) == [edit]


def test_a_correction_never_becomes_another_edit() -> None:
    edit, rows = edit_and_inputs()
    # Hardly any mean: what would have to be taken off along it is longer than the edit itself.
    (changed,) = corrected([edit], {NAME: rows - rows.mean(axis=0) + np.float32(0.001)}, 0.25)
    length = np.linalg.norm(edit.input - changed.input)
    assert length == pytest.approx(MOST_CORRECTION * np.linalg.norm(edit.input), rel=1e-3)


@dataclass
class MadeUpFile:
    """A file whose shift falls by ``slope`` for each unit of the share that was taken off its only edit."""

    start: float
    slope: float
    asked: list[float] = field(default_factory=list)

    def bake(self, edits: Sequence[RankOneEdit]) -> list[BakedTensor]:
        edit, rows = edit_and_inputs()
        size = np.sqrt(np.square(rows @ edit.input).mean())
        self.asked.append(float((rows @ (edit.input - edits[0].input)).mean() / size))
        return []

    @contextmanager
    def opened(self) -> Iterator[Any]:
        yield self

    def encode(self, conversations: Sequence[object]) -> list[list[int]]:
        return [[1]] * len(conversations)

    def next_token_logprobs(self, prompts: Sequence[object], *, advance: object = None) -> Any:
        shift = self.start + self.slope * self.asked[-1]
        share = 1 / (1 + np.exp(-shift))
        return np.log(np.array([[share, 1 - share]] * len(prompts)))

    def run(self, gain: float = 3.0) -> Any:
        edit, rows = edit_and_inputs()
        exact = ExactEffect(("a", "b"), np.array([0]), np.zeros(2), gain)
        return bake_corrected(self.bake, self.opened, exact, [edit], {NAME: rows})[1]


def test_a_shift_is_taken_off() -> None:
    file = MadeUpFile(start=0.15, slope=-3.0)
    found = file.run()
    assert found is not None
    assert found.before == pytest.approx(0.15) and abs(found.after) < 0.01
    assert file.asked == pytest.approx([0.0, 0.05], abs=1e-3)


def test_the_slope_is_corrected_once_it_was_seen() -> None:
    file = MadeUpFile(start=-0.2, slope=-1.0)
    found = file.run()
    assert found is not None and abs(found.after) < 0.02
    # A push of the gain's size was expected to move three times as much as it does.
    assert file.asked == pytest.approx([0.0, -0.0667, -0.2], abs=2e-3)


@pytest.mark.parametrize(("start", "gain"), [(0.02, 3.0), (0.5, 0.1)], ids=["small", "no effect"])
def test_nothing_to_correct(start: float, gain: float) -> None:
    file = MadeUpFile(start=start, slope=-3.0)
    assert file.run(gain) is None
    assert file.asked == [0.0]


def test_a_correction_that_makes_it_worse_is_taken_back() -> None:
    file = MadeUpFile(start=0.1, slope=3.0)
    assert file.run() is None
    assert file.asked[-1] == 0.0 and len(file.asked) == 4


def test_the_exact_effect_is_the_engine_s(tiny_model: Path) -> None:
    sets = RequestSets(
        prompt_set("harmful", ["harmful one", "a longer harmful request"]),
        prompt_set("harmless", ["harmless one", "a longer harmless request"]),
        prompt_set("edgy", ["kill a process"]),
    )
    with LlamaEngine(tiny_model, EngineOptions(threads=1, context_size=1024)) as engine:
        random = np.random.default_rng(5)
        with GgufFile.open(tiny_model) as file:
            rows, columns = file.tensors[NAME].shape
        edit = RankOneEdit(
            NAME,
            random.standard_normal(rows).astype(np.float32),
            random.standard_normal(columns).astype(np.float32),
        )
        exact = measure_exact(engine, sets, [edit])
        assert len(exact.prompts) == 5 and len(exact.openings)
        assert exact.gain > 0
        # The engine runs without the edit again, and with it there is no shift.
        assert abs(exact.shift(engine)) > 1e-3
        engine.apply({engine.load_edits([edit]): 1.0})
        assert exact.shift(engine) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("kind", [T.F16, T.Q4_K], ids=lambda kind: kind.name)
def test_a_corrected_file_passes_and_still_declares_the_edit(tmp_path: Path, kind: T) -> None:
    source, target = baking.model(tmp_path / "base.gguf", kind), tmp_path / "out.gguf"
    with GgufFile.open(source) as file:
        edits = baking.edits(file)
        seen = {edit.matrix: baking.inputs(len(edit.input), 100, 4) + np.float32(0.1) for edit in edits}
        asked = corrected(edits, seen, 0.1)
        assert all(not np.array_equal(a.input, b.input) for a, b in zip(edits, asked, strict=True))
        baking.baked(file, target, asked, declared=edits)
        found = verify(target, file)
        assert found.passed, found.problems
    with GgufFile.open(target) as file:
        declaration = read_declaration(file)
        assert declaration is not None
        for ours, theirs, declared, told in zip(
            edits, asked, declaration.edits, declaration.asked, strict=True
        ):
            np.testing.assert_array_equal(ours.input, declared.input)
            np.testing.assert_array_equal(theirs.input, told.input)


def test_a_file_that_needed_no_correction_declares_the_edit_once(tmp_path: Path) -> None:
    source, target = baking.model(tmp_path / "base.gguf", T.Q4_K), tmp_path / "out.gguf"
    with GgufFile.open(source) as file:
        edits = baking.edits(file)
        baking.baked(file, target, corrected(edits, {}, 0.0), declared=edits)
        assert verify(target, file).passed
    with GgufFile.open(target) as file:
        assert f"{PREFIX}asked_inputs" not in file.metadata


def test_a_file_may_not_be_asked_for_another_edit_than_it_declares(tmp_path: Path) -> None:
    source, target = baking.model(tmp_path / "base.gguf", T.Q4_K), tmp_path / "out.gguf"
    with GgufFile.open(source) as file:
        edits = baking.edits(file)
        asked = [edit.scaled(-1.0) for edit in edits]
        baking.baked(file, target, asked, declared=edits)
        found = verify(target, file)
    assert not found.passed
    assert any("another edit than the declared one" in problem for problem in found.problems)


def test_corrected_inputs_of_a_wrong_length_are_a_contradiction(tmp_path: Path) -> None:
    source, target = baking.model(tmp_path / "base.gguf", T.Q4_K), tmp_path / "out.gguf"
    with GgufFile.open(source) as file:
        baking.baked(file, target, baking.edits(file))
    hostile = tmp_path / "hostile.gguf"
    with GgufFile.open(target) as file:
        rewrite(
            file,
            hostile,
            tensors={},
            metadata={f"{PREFIX}asked_inputs": np.ones(3, dtype=np.float32)},
            sealed=True,
        )
    with GgufFile.open(hostile) as file, pytest.raises(Exception, match="contradicts itself"):
        read_declaration(file)


def test_a_correction_that_cannot_be_delivered_leaves_the_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = MadeUpFile(start=0.15, slope=-3.0)
    bake = file.bake

    def bake_once(edits: Sequence[RankOneEdit]) -> list[BakedTensor]:
        if file.asked:
            raise UndeliveredError("blk.0.ffn_down.weight delivers only 0.949 of its edit")
        return bake(edits)

    monkeypatch.setattr(file, "bake", bake_once)
    assert file.run() is None
    assert file.asked == [0.0]
