"""Mixtures of experts through the whole path: every expert an edit of its own, from its own inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from baking import inputs
from fake_engine import prompt_set
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize as gguf_dequantize
from test_hardening import CONDITIONAL, OPTIONS, Changed, check_report, plan
from tiny_gguf import write_tiny_llama

from rosi_edge.baking.gguf import bake
from rosi_edge.baking.inputs import input_factors, stand_ins, unseen_inputs
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.baking.tensor import UndeliveredError
from rosi_edge.basics.arrays import Float32
from rosi_edge.direction import calibration
from rosi_edge.direction.activations import InputRows
from rosi_edge.direction.calibration import (
    LEAST_ROWS,
    calibrate,
    read_responses,
    solve,
)
from rosi_edge.edits.adapter import read_adapter, write_adapter
from rosi_edge.edits.declaration import declare
from rosi_edge.edits.keys import Form
from rosi_edge.edits.paper import rosi_edits, row_means
from rosi_edge.edits.profile import Profile, Setting, conditional_edits
from rosi_edge.edits.rank_one import RankOneEdit, by_matrix
from rosi_edge.errors import UnsupportedModelError
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.hardening.session import harden
from rosi_edge.hardening.transfer import (
    FoundEdits,
    Target,
    edits_from,
    require_fit,
    transfer_all,
)
from rosi_edge.inspection import require_hardenable
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.weights import matrix_name, tensor_and_expert
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.quantization.grid_rounding import GridRounding, input_factor
from rosi_edge.quantization.promotion import AUTO
from rosi_edge.quantization.rounding import Requantize
from rosi_edge.report.write import write_report
from rosi_edge.runtime.engine import EngineOptions, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import Positions, TapRequest
from rosi_edge.search import strength as search_strength
from rosi_edge.verification.gguf import verify

STACK = "blk.1.ffn_down_exps.weight"
ENGINE = EngineOptions(threads=1, context_size=1024)


def test_names_of_experts() -> None:
    assert matrix_name(STACK, None) == STACK
    assert matrix_name(STACK, 17) == f"{STACK}[17]"
    for name in ((STACK, None), (STACK, 0), (STACK, 127)):
        assert tensor_and_expert(matrix_name(*name)) == name
    vector = np.ones(3, dtype=np.float32)
    assert RankOneEdit(STACK, vector, vector, 5).matrix == f"{STACK}[5]"


# --- rows and keys -------------------------------------------------------------------------------------

SETS = RequestSets(
    *(
        prompt_set(kind, [f"{kind} request number {index * index} of many" for index in range(8)])
        for kind in ("harmful", "harmless", "sounds")
    )
)


def test_rows_of_experts_are_those_of_the_positions_they_are_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_ANSWERED", 3)
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=2, experts=4)
    with GgufFile.open(path) as file, LlamaEngine(path, ENGINE) as engine:
        matrices = [matrix for matrix in require_hardenable(file) if matrix.block == 1]
        found = calibrate(engine, SETS, matrices)
        prompts = engine.encode([ask(text) for group in found.sets for text in group.texts])
        # The reference reads every position of each prompt alone, with nothing shared.
        request = TapRequest(inputs=(STACK,), positions=Positions.ALL)
        alone = [engine.capture([prompt], request, share_prefix=False).inputs for prompt in prompts]
    with found.inputs:
        assert found.inputs.tensors == ["blk.1.attn_output.weight", STACK]
        count = 0
        for name in found.inputs.names:
            if tensor_and_expert(name)[0] != STACK:
                continue
            *by_set, body = found.inputs.by_set(name)
            count += sum(len(rows) for rows in by_set)
            for number, rows in enumerate(by_set):
                for prompt in range(8 * number, 8 * number + 8):
                    tapped = alone[prompt].get(name)
                    if tapped is None:
                        continue
                    assert tapped.rows is not None and tapped.from_end is not None
                    ends = np.isin(tapped.from_end, [0, 2])
                    for end in tapped.rows[ends]:
                        # A routing that hangs on rounding may differ; here none does.
                        assert np.abs(rows - end).max(axis=1).min() < 5e-2
            tapped_rows = [one[name].rows for one in alone if name in one]
            everything = np.concatenate([rows for rows in tapped_rows if rows is not None])
            for row in body:
                assert np.abs(everything - row).max(axis=1).min() < 5e-2
        # Two of four experts get each of: two positions of every prompt, and two of three prompts' answers.
        assert count == 2 * (2 * 24 + 2 * 9)


def test_experts_with_few_inputs_get_no_key() -> None:
    random = np.random.default_rng(0)

    def rows(*counts: int) -> tuple[Float32, npt.NDArray[np.intp]]:
        members = np.repeat(np.arange(len(counts)), counts)
        return random.standard_normal((len(members), 6)).astype(np.float32), members

    enough = LEAST_ROWS
    with InputRows(3) as found:
        found.add("dense", *rows(1, 1, 0))
        found.add(f"{STACK}[0]", *rows(enough, enough, 0))
        found.add(f"{STACK}[1]", *rows(enough - 1, 50, 9))
        found.add(f"{STACK}[2]", *rows(50, enough - 1, 9))
        found.add(f"{STACK}[3]", *rows(enough, 30, 9))
        assert found.tensors == ["dense", STACK]
        keys = solve(found, ridge=0.01, forms=[Form.RIDGE])
    assert list(keys) == ["dense", f"{STACK}[0]", f"{STACK}[3]"]


def test_every_expert_with_a_key_gets_its_own_edit(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=2, experts=4)
    direction = np.eye(64, dtype=np.float32)[3]
    plateau = Profile(1, 0.4, 0.5)
    setting = Setting("layer 1", Form.RIDGE, plateau, plateau, (0.2, 0.1), 1.0)
    with GgufFile.open(path) as file, LlamaEngine(path, ENGINE) as engine:
        matrices = [matrix for matrix in require_hardenable(file) if matrix.block == 1]
        found = calibrate(engine, SETS, matrices)
        with found.inputs as rows:
            keys = solve(rows, ridge=0.01)
            edits = conditional_edits(file, matrices, keys, direction, setting)
            responses = read_responses(engine, found, edits, 0.5)
            assert set(responses) <= set(rows.names)
            assert any(response.any() for response in responses.values())
    assert [edit.matrix for edit in edits] == ["blk.1.attn_output.weight"] + [
        name for name in (matrix_name(STACK, expert) for expert in range(4)) if name in keys
    ]
    assert len(edits) > 2
    for edit in edits:
        np.testing.assert_array_equal(edit.output, direction)
        key = keys[edit.matrix][Form.RIDGE].at(setting.below)
        np.testing.assert_allclose(edit.input, plateau.at(1) * key, rtol=1e-6)


@pytest.mark.parametrize("kind", [Type.F32, Type.Q4_K])
def test_the_papers_edit_of_an_expert_is_its_own_row_mean(tmp_path: Path, kind: Type) -> None:
    path = write_tiny_llama(
        tmp_path / "tiny.gguf", hidden=256, feed_forward=256, experts=3, types={"ffn_down_exps": kind}
    )
    direction = np.eye(256, dtype=np.float32)[3]
    with GgufFile.open(path) as file:
        matrices = write_matrices(file)
        edits = by_matrix(rosi_edits(file, matrices, row_means(file, matrices), direction))
        weights = gguf_dequantize(file.tensor_bytes(STACK).reshape(3 * 256, -1), kind).reshape(3, 256, 256)
    assert list(edits) == [
        name
        for block in range(2)
        for name in (
            f"blk.{block}.attn_output.weight",
            *(f"blk.{block}.ffn_down_exps.weight[{expert}]" for expert in range(3)),
        )
    ]
    for expert in range(3):
        (edit,) = edits[f"{STACK}[{expert}]"]
        np.testing.assert_allclose(edit.input, weights[expert].mean(axis=0), atol=1e-6)
        np.testing.assert_array_equal(edit.output, direction)


# --- inputs of the bake --------------------------------------------------------------------------------


def two_left_out(name: str, weights: Float32) -> Float32:
    """Of six experts, two chosen, the last two never are: their scores are zero, and of any number and its
    negative one is above that."""
    if name.endswith("ffn_gate_inp.weight"):
        one, other = weights[:2]
        return np.stack([one, -one, other, -other, 0 * one, 0 * one])
    return weights


def test_inputs_for_the_bake_are_each_experts_own(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=2, experts=6, change=two_left_out)
    sets = plan().choosing
    random = np.random.default_rng(0)
    edits = [
        RankOneEdit(
            STACK, np.ones(64, dtype=np.float32), random.standard_normal(128).astype(np.float32), expert
        )
        for expert in range(6)
    ]
    with LlamaEngine(path, ENGINE) as engine:
        unseen, aims = unseen_inputs(engine, sets, edits)
        factors = input_factors(engine, sets, edits)
        texts = [text for group in (sets.harmful, sets.harmless) for text in group.texts]
        request = TapRequest(inputs=(STACK,), positions=Positions.ALL)
        alone = engine.capture(engine.encode([ask(text) for text in texts]), request).inputs
    reached = {name for name, tapped in alone.items() if tapped.count >= 8}
    assert set(unseen) == set(aims) == reached
    assert 2 <= len(reached) <= 4
    for name in reached:
        rows, prompts = alone[name].rows, alone[name].prompts
        assert rows is not None and prompts is not None and len(set(prompts % 2)) == 2
        np.testing.assert_array_equal(unseen[name], rows[prompts % 2 == 0])
        np.testing.assert_array_equal(aims[name], rows[prompts % 2 == 1])
    assert set(factors) == {edit.matrix for edit in edits}
    never = matrix_name(STACK, 5)
    assert never not in alone
    push = edits[5].input
    np.testing.assert_allclose(
        factors[never].directions.T @ (factors[never].directions @ push), push * (push @ push), rtol=1e-3
    )
    assert {never} < set(stand_ins(edits, unseen, {})) == set(factors) - reached
    np.testing.assert_array_equal(stand_ins(edits, unseen, {})[never], push[None])
    np.testing.assert_array_equal(stand_ins(edits, unseen, factors)[never], factors[never].directions)


# --- bake and verify -----------------------------------------------------------------------------------


def some_edits(experts: tuple[int, ...], share: float = 0.05) -> list[RankOneEdit]:
    """Edits of some experts of a stack of 256 × 512 matrices, each for its own one of the inputs' causes."""
    edits = []
    for number in experts:
        seen = inputs(512, 300, 10 + number)
        wanted = np.linalg.svd(seen, full_matrices=False)[0][:, 3 + number]
        gram = (seen @ seen.T).astype(np.float64)
        gram[np.diag_indices_from(gram)] += 0.001 * np.trace(gram) / len(gram)
        push = (seen.T @ np.linalg.solve(gram, wanted)).astype(np.float32)
        output = np.random.default_rng(number).standard_normal(256).astype(np.float32)
        size = share / np.sqrt(512) / np.sqrt(np.mean(np.square(np.outer(output, push))))
        edits.append(RankOneEdit(STACK, output, push, number).scaled(float(size)))
    return edits


def grid_rounding(edits: list[RankOneEdit]) -> GridRounding:
    seen = {edit.matrix: inputs(512, 300, 10 + (edit.expert or 0)) for edit in edits}
    return GridRounding({edit.matrix: input_factor(seen[edit.matrix], 32, edit.input) for edit in edits})


def probes(edits: list[RankOneEdit]) -> dict[str, Float32]:
    return {edit.matrix: inputs(512, 200, 50 + (edit.expert or 0)) for edit in edits}


@pytest.mark.parametrize("kind", [Type.F16, Type.Q8_0, Type.Q4_K, Type.Q4_0, Type.MXFP4])
def test_baked_experts_deliver_and_verify(tmp_path: Path, kind: Type) -> None:
    source, target = tmp_path / "model.gguf", tmp_path / "out.gguf"
    write_tiny_llama(source, hidden=256, feed_forward=512, experts=4, types={"ffn_down_exps": kind})
    edits = some_edits((0, 2, 3))
    with GgufFile.open(source) as file:
        baked = bake(file, target, edits, BakeSettings(rounding=grid_rounding(edits), probes=probes(edits)))
    assert [result.name for result in baked] == [edit.matrix for edit in edits]
    for result in baked:
        assert result.delivered == pytest.approx(1, abs=0.05)
    with GgufFile.open(source) as base, GgufFile.open(target) as file:
        before, after = (f.tensor_bytes(STACK).reshape(4, -1) for f in (base, file))
        assert [bool((before[number] != after[number]).any()) for number in range(4)] == [1, 0, 1, 1]
        place, size = file.tensors[STACK].offset, file.tensors[STACK].size // 4
        found = verify(target, base)
        assert found.passed, found.problems
        assert [tensor.name for tensor in found.tensors] == [edit.matrix for edit in edits]

        write_adapter(tmp_path / "a.gguf", edits, architecture="llama", experts={STACK: 4})
        assert verify(target, base, adapter=tmp_path / "a.gguf").passed
        # Edits that were not made.
        problems = verify(source, base, adapter=tmp_path / "a.gguf").problems
        assert f"{STACK} holds 0.000 of the declared edits themselves" in problems
        assert [edit.matrix for edit in edits_from(tmp_path / "a.gguf").edits] == [e.matrix for e in edits]
        write_adapter(tmp_path / "b.gguf", edits[1:], architecture="llama", experts={STACK: 4})
        assert not verify(target, base, adapter=tmp_path / "b.gguf").passed

        content = target.read_bytes()
        # In the slice of an edited expert, and of the one that has no edit.
        for number in (2, 1):
            flipped = bytearray(content)
            flipped[place + number * size + size // 3] ^= 1
            (tmp_path / "flipped.gguf").write_bytes(flipped)
            assert not verify(tmp_path / "flipped.gguf", base).passed


def test_a_stack_keeps_its_type_whatever_promotion_is_allowed(tmp_path: Path) -> None:
    source, target = tmp_path / "model.gguf", tmp_path / "out.gguf"
    write_tiny_llama(source, hidden=256, feed_forward=512, experts=4, types={"ffn_down_exps": Type.Q2_K})
    edits = some_edits((1, 3), 1e-3)
    with (
        GgufFile.open(source) as file,
        pytest.raises(UndeliveredError, match="experts are stored in a larger type"),
    ):
        bake(
            file,
            target,
            edits,
            BakeSettings(rounding=Requantize(), probes=probes(edits), min_delivered=0.95, promotion=AUTO),
        )
    assert not target.exists()


def test_more_than_a_file_can_declare_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rosi_edge.edits.declaration.MAX_ARRAY_ELEMENTS", 1000)
    edits = some_edits((0, 1))
    with pytest.raises(UnsupportedModelError, match="1024 numbers, and a file can declare 1000"):
        declare("grid", [STACK], edits, edits)


# --- the whole path ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rosi", "conditional"])
def test_hardened_and_verified(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Random weights diverge little until an edit is larger than the range of their codes.
    monkeypatch.setattr(search_strength, "MOST_DOUBLINGS", 0)
    source, target, adapter = tmp_path / "model.gguf", tmp_path / "out.gguf", tmp_path / "adapter.gguf"
    write_tiny_llama(source, layers=3, experts=4, types={"ffn_down_exps": Type.Q4_0})
    options = OPTIONS if method == "rosi" else CONDITIONAL
    report = harden(
        source,
        target,
        plan(),
        Changed(),
        replace(options, rounding="grid", force=True, paper=False, adapter=adapter),
    )
    check_report(report)
    names = [tensor.name for tensor in report.injection.tensors]
    experts = [name for name in names if tensor_and_expert(name)[1] is not None]
    if method == "rosi":
        assert len(experts) == 3 * 4
        assert not any("experts were edited" in finding for finding in report.findings)
    else:
        assert {tensor_and_expert(name)[0] for name in names} == {
            "blk.2.attn_output.weight",
            "blk.2.ffn_down_exps.weight",
        }
        assert 1 <= len(experts) <= 4
    assert report.injection.delivered == pytest.approx(1, abs=0.05)
    assert report.rounding_check is not None and report.rounding_check.kl_between is not None
    assert report.rounding_check.kl_between.value < 0.02

    with GgufFile.open(adapter) as file:
        assert [edit.matrix for edit in read_adapter(file)] == names
    with GgufFile.open(source) as base, GgufFile.open(target) as file:
        found = verify(target, base, adapter=adapter)
        assert found.passed, found.problems
        assert {tensor.name for tensor in found.tensors} == set(names)
        tensor, expert = tensor_and_expert(experts[-1])
        info = file.tensors[tensor]
        place = info.offset + info.size // 4 * (expert or 0) + 40
        content = bytearray(target.read_bytes())
        content[place] ^= 16
        target.write_bytes(content)
        assert not verify(target, base).passed


def test_the_report_says_how_many_experts_were_edited(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "model.gguf", layers=3, experts=6, change=two_left_out)
    report = harden(
        source, tmp_path / "out.gguf", plan(), Changed(), replace(CONDITIONAL, force=True, paper=False)
    )
    assert report.output is not None
    edited = sum(tensor_and_expert(tensor.name)[1] is not None for tensor in report.injection.tensors)
    assert 1 <= edited <= 4
    assert any(finding.startswith(f"{edited} of 6 experts were edited") for finding in report.findings)
    write_report(report, tmp_path / "report")
    card = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert f"{edited} of 6 experts were edited" in card
    assert "blk.2.ffn_down_exps.weight[" in card


def test_edits_of_experts_fit_into_another_quantization(tmp_path: Path) -> None:
    """One expert is never reached by the prompts here, and gets its edit all the same."""
    source = write_tiny_llama(
        tmp_path / "model.gguf",
        layers=2,
        hidden=256,
        feed_forward=512,
        experts=6,
        types={"ffn_down_exps": Type.Q4_K},
        change=two_left_out,
    )
    edits = some_edits((0, 1, 2, 5))
    write_adapter(tmp_path / "a.gguf", edits, architecture="llama", experts={STACK: 6})
    found = edits_from(tmp_path / "a.gguf")
    target = tmp_path / "out.gguf"
    options = HardenOptions(evaluate=False, engine=ENGINE)
    (done,) = transfer_all([Target("a", source, target)], found, plan(), Changed(), options)
    assert done.problem is None
    assert [tensor.name for tensor in done.tensors] == [edit.matrix for edit in edits]
    with GgufFile.open(source) as base:
        outcome = verify(target, base)
        assert outcome.passed, outcome.problems
        for expert in (None, 6):
            odd = FoundEdits("llama", (replace(edits[0], expert=expert),))
            with pytest.raises(UnsupportedModelError, match=r"which model\.gguf does not have"):
                require_fit(base, odd)
        require_fit(base, found)
