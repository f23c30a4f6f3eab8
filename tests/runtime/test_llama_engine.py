"""The llama.cpp engine on the demo model, against llama.cpp's own figures and plain matrix algebra."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from plain_llama import PlainLlama, high_level_llama

from rosi_edge.basics.arrays import Float32
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.runtime.engine import Tokens, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.logits import log_softmax
from rosi_edge.runtime.taps import Keep, Positions, TapRequest

pytestmark = pytest.mark.model


REQUESTS = (
    "What is the capital of France?",
    "How do I bake bread?",
    "Explain photosynthesis to a child of ten who likes football.",
)
DOWN = "blk.0.ffn_down.weight"


@pytest.fixture(scope="module")
def prompts(demo_engine: LlamaEngine) -> list[Tokens]:
    return demo_engine.encode([ask(text) for text in REQUESTS])


@pytest.fixture(scope="module")
def weights(demo_model: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(demo_model)


@pytest.fixture(scope="module")
def plain(demo_model: Path) -> Iterator[PlainLlama]:
    model = PlainLlama(demo_model)
    yield model
    model.close()


def dequantized(weights: gguf.GGUFReader, name: str) -> Float32:
    tensor = next(tensor for tensor in weights.tensors if tensor.name == name)
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return np.asarray(values, dtype=np.float32)


def cosines(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Row by row."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / lengths)


def test_facts(demo_engine: LlamaEngine) -> None:
    facts = demo_engine.facts
    assert (facts.architecture, facts.layers, facts.hidden_size) == ("qwen2", 24, 896)
    assert (facts.vocabulary_size, facts.has_chat_template) == (151936, True)


def test_last_stream_is_llama_cpps_embedding_before_the_norm(
    demo_engine: LlamaEngine, demo_model: Path, weights: gguf.GGUFReader, prompts: list[Tokens]
) -> None:
    last = demo_engine.facts.layers - 1
    request = TapRequest(blocks=(last,), positions=Positions.ALL)
    stream = demo_engine.capture([prompts[2]], request, share_prefix=False).stream_rows(last)
    epsilon = weights.fields["qwen2.attention.layer_norm_rms_epsilon"].contents()
    gain = dequantized(weights, "output_norm.weight")
    normalised = stream / np.sqrt((stream**2).mean(axis=1, keepdims=True) + epsilon) * gain

    model = PlainLlama(demo_model, embeddings=True)
    expected = model.embeddings(prompts[2])
    model.close()
    assert normalised.shape == expected.shape
    assert cosines(normalised, expected).min() >= 0.9999
    np.testing.assert_allclose(
        np.linalg.norm(normalised, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-2
    )


def test_stream_moves_by_what_the_write_matrices_write(
    demo_engine: LlamaEngine, weights: gguf.GGUFReader, prompts: list[Tokens]
) -> None:
    """l_out[k] − l_out[k−1] = W_O x_O + W_down x_down: taps, matrices and their dequantization in one."""
    blocks = (1, 12, 23)
    names = {block: (f"blk.{block}.attn_output.weight", f"blk.{block}.ffn_down.weight") for block in blocks}
    request = TapRequest(
        blocks=tuple(sorted({*blocks, *(block - 1 for block in blocks)})),
        inputs=tuple(name for pair in names.values() for name in pair),
    )
    capture = demo_engine.capture(prompts, request, share_prefix=False)
    for block in blocks:
        moved = capture.stream_rows(block) - capture.stream_rows(block - 1)
        written = np.zeros_like(moved)
        for name in names[block]:
            rows = capture.inputs[name].rows
            assert rows is not None
            written += rows @ dequantized(weights, name).T
        assert cosines(moved, written).min() >= 0.999, block
        np.testing.assert_allclose(np.linalg.norm(written, axis=1), np.linalg.norm(moved, axis=1), rtol=0.03)


def test_next_token_logprobs(
    demo_engine: LlamaEngine, demo_model: Path, plain: PlainLlama, prompts: list[Tokens]
) -> None:
    """A batch gives what one prompt at a time gives, up to the noise llama.cpp has against itself.

    llama.cpp rounds the inputs of quantized matrices to 8 bits, so the slightest difference in the order of
    additions (another batch size) lands elsewhere in that rounding: changing n_ubatch alone moves single
    log-probabilities by 0.2 on this file. On full-precision weights the agreement is exact
    (test_llama_engine_tiny.py).
    """
    batch = demo_engine.next_token_logprobs(prompts)
    assert batch.shape == (len(prompts), demo_engine.facts.vocabulary_size)
    np.testing.assert_allclose(np.exp(batch.astype(np.float64)).sum(axis=1), 1, atol=1e-4)
    single = log_softmax(np.stack([plain.logits(prompt) for prompt in prompts]))
    small_batches = PlainLlama(demo_model, batch_size=16)
    also_plain = log_softmax(np.stack([small_batches.logits(prompt) for prompt in prompts]))
    small_batches.close()

    top = np.argsort(-single, axis=1)[:, :100]

    def furthest(a: Float32, b: Float32) -> float:
        return float(np.abs(np.take_along_axis(a, top, 1) - np.take_along_axis(b, top, 1)).max())

    def divergence(a: Float32, b: Float32) -> float:
        return float((np.exp(a) * (a - b)).sum(axis=1).max())

    assert (batch.argmax(axis=1) == single.argmax(axis=1)).all()
    assert furthest(batch, single) <= max(1e-3, 2 * furthest(also_plain, single))
    assert divergence(single, batch) < 0.01


def test_shared_prefix_changes_nothing(demo_engine: LlamaEngine, prompts: list[Tokens]) -> None:
    blocks = (0, 11, 23)
    request = TapRequest(blocks=blocks)
    shared = demo_engine.capture(prompts, request)
    alone = demo_engine.capture(prompts, request, share_prefix=False)
    for block in blocks:
        assert cosines(shared.stream_rows(block), alone.stream_rows(block)).min() >= 0.999


def test_generation_equals_chat_completion(
    demo_engine: LlamaEngine, demo_model: Path, prompts: list[Tokens]
) -> None:
    answers = demo_engine.generate(prompts, max_tokens=12)
    model = high_level_llama(demo_model, n_ctx=512, n_threads=len(os.sched_getaffinity(0)))
    equal = 0
    for request, prompt, answer in zip(REQUESTS, prompts, answers, strict=True):
        completion = model.create_chat_completion(
            [{"role": "user", "content": request}], temperature=0, max_tokens=12
        )
        choice = completion["choices"][0]
        text = choice["message"]["content"]
        if answer.text == text:
            assert answer.finished == (choice["finish_reason"] == "stop")
            equal += 1
            continue
        # llama.cpp itself gives log-probabilities up to 0.2 apart for the same tokens one by one and all at
        # once, where a processor rounds sums otherwise. Answers may part where two tokens are that close.
        theirs = model.tokenize(text.encode(), add_bos=False)
        parted = next(
            i for i, pair in enumerate(zip(answer.tokens, theirs, strict=False)) if len({*pair}) > 1
        )
        logprobs = demo_engine.next_token_logprobs([[*prompt, *answer.tokens[:parted]]])[0]
        assert abs(logprobs[answer.tokens[parted]] - logprobs[theirs[parted]]) < 0.25
    assert equal >= 2
    model.close()


def test_generation_with_logprobs_is_both(demo_engine: LlamaEngine, prompts: list[Tokens]) -> None:
    answers, logprobs = demo_engine.generate_with_logprobs(prompts[:2], max_tokens=3)
    assert answers == demo_engine.generate(prompts[:2], max_tokens=3)
    assert [answer.tokens[0] for answer in answers] == logprobs.argmax(axis=1).tolist()
    np.testing.assert_array_equal(logprobs, demo_engine.next_token_logprobs(prompts[:2]))


def test_positions_and_reductions_agree(demo_engine: LlamaEngine, prompts: list[Tokens]) -> None:
    pair = prompts[:2]
    first_block = tuple(f"blk.0.{name}.weight" for name in ("attn_q", "attn_output", "ffn_gate", "ffn_down"))

    def capture(positions: Positions, keep: Keep):  # type: ignore[no-untyped-def]
        request = TapRequest(blocks=(0, 23), inputs=first_block, positions=positions, keep=keep)
        return demo_engine.capture(pair, request, share_prefix=False)

    rows = capture(Positions.ALL, Keep.ROWS)
    last = capture(Positions.LAST, Keep.ROWS)
    mean = capture(Positions.ALL, Keep.MEAN)
    moment = capture(Positions.ALL, Keep.SECOND_MOMENT)
    ends = np.cumsum([len(prompt) for prompt in pair]) - 1
    for block in (0, 23):
        every = rows.stream_rows(block)
        assert rows.streams[block].count == len(every) == sum(len(prompt) for prompt in pair)
        owners = rows.streams[block].prompts
        assert owners is not None
        assert owners.tolist() == [0] * len(pair[0]) + [1] * len(pair[1])
        assert cosines(every[ends], last.stream_rows(block)).min() >= 0.9999
    for tapped, averaged, squared in zip(
        (*rows.streams.values(), *rows.inputs.values()),
        (*mean.streams.values(), *mean.inputs.values()),
        (*moment.streams.values(), *moment.inputs.values()),
        strict=True,
    ):
        assert tapped.rows is not None
        exact = tapped.rows.astype(np.float64)
        size = np.abs(exact).max()
        assert averaged.mean is not None
        assert squared.mean is not None
        assert squared.second_moment is not None
        assert averaged.rows is squared.rows is None
        np.testing.assert_allclose(averaged.mean, exact.mean(axis=0), rtol=0, atol=1e-5 * size)
        np.testing.assert_allclose(squared.mean, averaged.mean, rtol=0, atol=1e-5 * size)
        products = exact.T @ exact
        np.testing.assert_allclose(
            squared.second_moment, products, rtol=0, atol=1e-5 * np.abs(products).max()
        )
        assert averaged.count == squared.count == tapped.count == len(exact)


def test_an_edit_pushes_by_strength_times_output_times_dot(
    demo_engine: LlamaEngine, prompts: list[Tokens]
) -> None:
    random = np.random.default_rng(7)
    output = random.standard_normal(896).astype(np.float32)
    other = random.standard_normal(896).astype(np.float32)
    key = (random.standard_normal(4864) / 70).astype(np.float32)
    request = TapRequest(blocks=(0,), inputs=(DOWN,))

    def stream() -> Float32:
        return demo_engine.capture(prompts, request, share_prefix=False).stream_rows(0)

    before = demo_engine.capture(prompts, request, share_prefix=False)
    inputs = before.inputs[DOWN].rows
    assert inputs is not None
    logprobs = demo_engine.next_token_logprobs(prompts[:1])
    first = demo_engine.load_edits([RankOneEdit(DOWN, output, key)])
    second = demo_engine.load_edits([RankOneEdit(DOWN, other, key)])
    try:
        for strength in (0.5, -2.0):
            demo_engine.apply({first: strength})
            moved = stream() - before.stream_rows(0)
            expected = strength * np.outer(inputs @ key, output)
            assert cosines(moved, expected).min() >= 0.999
            assert (moved * expected).sum() / (expected**2).sum() == pytest.approx(1, abs=0.01)
        demo_engine.apply({first: 1.0, second: 3.0})
        both = stream() - before.stream_rows(0)
        assert cosines(both, np.outer(inputs @ key, output + 3 * other)).min() >= 0.999
        # Unloading an active edit takes it out of the model, the other one stays.
        demo_engine.unload(first)
        rest = stream() - before.stream_rows(0)
        assert cosines(rest, np.outer(inputs @ key, 3 * other)).min() >= 0.999
        assert not np.array_equal(demo_engine.next_token_logprobs(prompts[:1]), logprobs)
    finally:
        demo_engine.apply({})
        demo_engine.unload(second)
    np.testing.assert_array_equal(stream(), before.stream_rows(0))
    np.testing.assert_array_equal(demo_engine.next_token_logprobs(prompts[:1]), logprobs)
