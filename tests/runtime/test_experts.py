"""Experts: which inputs each of them gets, and what an edit of one of them does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from architectures.tiny import blueprint, write_model
from gguf import GGMLQuantizationType as Type
from tiny_gguf import write_tiny_llama

from rosi_edge.basics.arrays import Float32, Float64
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.weights import matrix_name, tensor_and_expert
from rosi_edge.quantization.codec import dequantize
from rosi_edge.runtime.engine import EngineOptions, Tokens
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import Keep, Positions, Tapped, TapRequest

EXPERTS, USED, LAYERS = 4, 2, 3


@pytest.fixture(scope="module", autouse=True)
def exact_attention() -> Iterator[None]:
    """Full-precision attention, so that the size of a batch does not show."""
    defaults = llama_cpp.llama_context_default_params

    def exact() -> llama_cpp.llama_context_params:
        parameters = defaults()
        parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
        return parameters

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp, "llama_context_default_params", exact)
        yield


@dataclass(frozen=True)
class Variant:
    """One architecture, with what its router does.

    Attributes:
        normalised: whether the weights of the chosen experts are made to add up to one.
        shared: whether an expert that every token is sent to stands beside them, behind a gate of its own.
        norm: the norm before the router and the experts.
    """

    name: str
    normalised: bool = True
    shared: bool = False
    norm: str = "ffn_norm"

    def write(self, path: Path) -> Path:
        """A model whose attention writes nothing, so that the MLP's input is the stream before the block."""
        if self.name == "llama":
            return write_tiny_llama(
                path, layers=LAYERS, experts=EXPERTS, change=lambda name, w: w * ("attn_output" not in name)
            )
        plan = blueprint(self.name, path.parent, experts=True, block_count=LAYERS)
        # llama.cpp would also read scales of every matrix, which no file but those in NVFP4 has.
        shapes = {name: shape for name, shape in plan.shapes.items() if not name.endswith("scale")}
        return write_model(path, replace(plan, shapes=shapes), zero=lambda name: "attn_output" in name)


VARIANTS = (Variant("llama"), Variant("qwen3moe"), Variant("qwen2moe", normalised=False, shared=True))


@dataclass(frozen=True)
class Routed:
    """What a block does to rows of the stream, computed here.

    Attributes:
        chosen: (tokens, used), numbers of the experts, in no particular order.
        weights: (tokens, used), what their outputs are multiplied with.
        inputs: (tokens, used, columns), of their down-projections.
        after: (tokens, hidden), the stream after the block.
    """

    chosen: npt.NDArray[np.intp]
    weights: Float64
    inputs: Float64
    after: Float64


def block_by_hand(file: GgufFile, variant: Variant, block: int, before: Float32) -> Routed:
    def weight(name: str) -> Float64:
        return dequantize(file, f"blk.{block}.{name}.weight").astype(np.float64)

    stream = before.astype(np.float64)
    root = np.sqrt((stream**2).mean(axis=1, keepdims=True) + 1e-5)
    normed = stream / root * weight(variant.norm)
    scores = np.exp(normed @ weight("ffn_gate_inp").T)
    scores /= scores.sum(axis=1, keepdims=True)
    chosen = np.argsort(-scores, axis=1)[:, :USED]
    weights = np.take_along_axis(scores, chosen, axis=1)
    if variant.normalised:
        weights = weights / weights.sum(axis=1, keepdims=True)
    gate, up, down = (weight(f"ffn_{part}_exps") for part in ("gate", "up", "down"))
    inputs = silu(np.einsum("th,tuch->tuc", normed, gate[chosen]))
    inputs *= np.einsum("th,tuch->tuc", normed, up[chosen])
    after = stream + np.einsum("tu,tuc,tuhc->th", weights, inputs, down[chosen])
    if variant.shared:
        own = silu(normed @ weight("ffn_gate_shexp").T) * (normed @ weight("ffn_up_shexp").T)
        opened = 1 / (1 + np.exp(-normed @ weight("ffn_gate_inp_shexp").reshape(-1, 1)))
        after += opened * (own @ weight("ffn_down_shexp").T)
    return Routed(chosen, weights, inputs, after)


def silu(values: Float64) -> Float64:
    return values / (1 + np.exp(-values))


def prompts(vocabulary: int, lengths: tuple[int, ...] = (9, 4, 17, 11)) -> list[Tokens]:
    """Prompts that share no opening, so that every position is read."""
    random = np.random.default_rng(5)
    return [[int(token) for token in random.integers(0, vocabulary, length)] for length in lengths]


# Small batches: prompts are cut in the middle, and several share one.
OPTIONS = EngineOptions(threads=1, context_size=256, batch_size=8, sequences=4)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_an_expert_gets_the_inputs_that_the_router_sends_it(variant: Variant, tmp_path: Path) -> None:
    path = variant.write(tmp_path / "model.gguf")
    with GgufFile.open(path) as file, LlamaEngine(path, OPTIONS) as engine:
        asked = prompts(engine.facts.vocabulary_size)
        blocks = range(1, LAYERS)
        stacks = tuple(f"blk.{block}.ffn_down_exps.weight" for block in blocks)
        request = TapRequest(blocks=tuple(range(LAYERS)), inputs=stacks, positions=Positions.ALL)
        capture = engine.capture(asked, request, share_prefix=False)
        for block, stack in zip(blocks, stacks, strict=True):
            wanted = block_by_hand(file, variant, block, capture.stream_rows(block - 1))
            # First of all that the computation here is the model's.
            np.testing.assert_allclose(wanted.after, capture.stream_rows(block), rtol=2e-3, atol=2e-4)
            streams = capture.streams[block]
            assert streams.prompts is not None and streams.from_end is not None
            token_of = {
                position: token
                for token, position in enumerate(zip(streams.prompts, streams.from_end, strict=True))
            }
            assert len(token_of) == sum(len(prompt) for prompt in asked)
            found = 0
            for expert in range(EXPERTS):
                tapped = capture.inputs.get(matrix_name(stack, expert), Tapped())
                tokens = [token_of[position] for position in positions(tapped)]
                mine, slots = np.nonzero(wanted.chosen == expert)
                assert tokens == sorted(mine)
                if tapped.rows is not None:
                    np.testing.assert_allclose(tapped.rows, wanted.inputs[mine, slots], rtol=2e-3, atol=2e-4)
                found += tapped.count
            assert found == USED * len(token_of)
        assert {tensor_and_expert(name)[0] for name in capture.inputs} == set(stacks)


def positions(tapped: Tapped) -> list[tuple[int, int]]:
    if tapped.rows is None:
        return []
    assert tapped.prompts is not None and tapped.from_end is not None
    assert len(tapped.rows) == len(tapped.prompts) == len(tapped.from_end) == tapped.count
    return list(zip(tapped.prompts.tolist(), tapped.from_end.tolist(), strict=True))


def test_last_positions_and_answers_are_counted_as_for_any_other_matrix(tmp_path: Path) -> None:
    path = Variant("llama").write(tmp_path / "model.gguf")
    down, gate = "blk.2.ffn_down_exps.weight", "blk.2.ffn_gate_inp.weight"
    with LlamaEngine(path, OPTIONS) as engine:
        asked = prompts(engine.facts.vocabulary_size)
        request = TapRequest(blocks=(2,), inputs=(down, gate), last=3, answer=2, half=True)
        capture = engine.capture(asked, request, share_prefix=False)
    everywhere = positions(capture.inputs[gate])
    assert everywhere == positions(capture.streams[2])
    assert everywhere == [
        (prompt, from_end) for prompt in range(len(asked)) for from_end in (2, 1, 0, -1, -2)
    ]
    experts = [tapped for name, tapped in capture.inputs.items() if name != gate]
    assert sorted(each for tapped in experts for each in positions(tapped)) == sorted(USED * everywhere)


def test_rows_of_experts_are_reduced_like_others(tmp_path: Path) -> None:
    path = Variant("llama").write(tmp_path / "model.gguf")
    stack = "blk.1.ffn_down_exps.weight"
    with LlamaEngine(path, OPTIONS) as engine:
        asked = prompts(engine.facts.vocabulary_size)
        kept = {
            keep: engine.capture(
                asked, TapRequest(inputs=(stack,), positions=Positions.ALL, keep=keep), share_prefix=False
            ).inputs
            for keep in Keep
        }
    assert len(kept[Keep.ROWS]) > 1
    for name, tapped in kept[Keep.ROWS].items():
        assert tapped.rows is not None
        mean, products = kept[Keep.MEAN][name], kept[Keep.SECOND_MOMENT][name]
        assert mean.mean is not None and products.second_moment is not None
        np.testing.assert_allclose(mean.mean, tapped.rows.mean(axis=0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(products.second_moment, tapped.rows.T @ tapped.rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_stream_moves_by_what_the_router_lets_through(variant: Variant, tmp_path: Path) -> None:
    """Every expert has an edit of its own but the last one, which has none."""
    path = variant.write(tmp_path / "model.gguf")
    random = np.random.default_rng(3)
    with GgufFile.open(path) as file, LlamaEngine(path, OPTIONS) as engine:
        asked = prompts(engine.facts.vocabulary_size)
        for block in range(1, LAYERS):
            stack = f"blk.{block}.ffn_down_exps.weight"
            hidden, columns = file.tensors[stack].shape[-2:]
            edits = [
                RankOneEdit(
                    stack,
                    random.standard_normal(hidden).astype(np.float32),
                    random.standard_normal(columns).astype(np.float32),
                    expert,
                )
                for expert in range(EXPERTS - 1)
            ]
            request = TapRequest(blocks=(block - 1, block), positions=Positions.ALL)
            before = engine.capture(asked, request, share_prefix=False)
            handle = engine.load_edits(edits)
            engine.apply({handle: 0.7})
            after = engine.capture(asked, request, share_prefix=False)
            engine.apply({})
            engine.unload(handle)
            routed = block_by_hand(file, variant, block, before.stream_rows(block - 1))
            predicted = np.zeros(before.stream_rows(block).shape)
            for edit in edits:
                tokens, slots = np.nonzero(routed.chosen == edit.expert)
                pushes = 0.7 * routed.weights[tokens, slots] * (routed.inputs[tokens, slots] @ edit.input)
                predicted[tokens] += np.outer(pushes, edit.output)
            moved = (after.stream_rows(block) - before.stream_rows(block)).astype(np.float64)
            lengths = np.linalg.norm(moved, axis=1), np.linalg.norm(predicted, axis=1)
            loud = lengths[1] > 0.02 * lengths[1].max()
            cosines = (moved * predicted).sum(axis=1)[loud] / (lengths[0] * lengths[1])[loud]
            assert cosines.min() > 0.999
            np.testing.assert_allclose(moved, predicted, rtol=1e-2, atol=2e-3 * np.abs(predicted).max())


def test_experts_in_mxfp4_as_gpt_oss_has_them(tmp_path: Path) -> None:
    """An edit of one expert moves the tokens that are sent to it, along its output, and no others."""
    plan = blueprint("gpt-oss", tmp_path, experts=True)
    path = write_model(
        tmp_path / "model.gguf",
        plan,
        zero=lambda name: "attn_output" in name,
        kind=lambda name: Type.MXFP4 if "_exps.weight" in name else Type.F32,
    )
    stack = "blk.1.ffn_down_exps.weight"
    random = np.random.default_rng(3)
    with GgufFile.open(path) as file, LlamaEngine(path, OPTIONS) as engine:
        experts, hidden, columns = file.tensors[stack].shape
        asked = prompts(engine.facts.vocabulary_size)
        request = TapRequest(blocks=(1,), inputs=(stack,), positions=Positions.ALL)
        before = engine.capture(asked, request, share_prefix=False)
        streams = before.streams[1]
        everywhere = positions(streams)
        for expert in range(experts):
            tapped = before.inputs.get(matrix_name(stack, expert), Tapped())
            direction = random.standard_normal(hidden).astype(np.float32)
            edit = RankOneEdit(stack, direction, random.standard_normal(columns).astype(np.float32), expert)
            handle = engine.load_edits([edit])
            engine.apply({handle: 1.0})
            after = engine.capture(asked, request, share_prefix=False)
            engine.apply({})
            engine.unload(handle)
            moved = after.stream_rows(1) - before.stream_rows(1)
            sent = np.isin(np.arange(len(everywhere)), [everywhere.index(p) for p in positions(tapped)])
            assert np.abs(moved[~sent]).max(initial=0) == 0
            if tapped.rows is None:
                continue
            along = moved[sent] @ direction / np.linalg.norm(direction)
            assert (np.abs(along) / np.linalg.norm(moved[sent], axis=1)).min() > 0.999
            # What is left of the push is the router's weight.
            weights = along / np.linalg.norm(direction) / (tapped.rows @ edit.input)
            assert (weights > 0).all() and (weights < 1.001).all()
