"""The llama.cpp engine on tiny full-precision files of several architectures, where agreement is exact.

Exact once two roundings are off: keys and values are kept in half precision, and flash attention adds up in
half precision in some of its kernels, so that the size of a batch shows in the third decimal. One is left:
llama.cpp looks GELU up in a table of half-precision numbers, and where a processor rounds sums otherwise in a
batch, an input falls on the next entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from plain_llama import PlainLlama
from tiny_gguf import CHATML, write_tiny_llama

from rosi_edge.baking.gguf import bake
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.basics.arrays import Float32
from rosi_edge.edits.adapter import write_adapter
from rosi_edge.edits.paper import rosi_edits, row_means
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import write_direction
from rosi_edge.errors import EngineError, ModelFileError, UnsupportedModelError
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.rounding import Requantize
from rosi_edge.runtime.engine import EngineOptions, Message, Role, Tokens, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.logits import log_softmax
from rosi_edge.runtime.taps import Keep, Positions, Tapped, TapRequest

ARCHITECTURES = ("llama", "qwen2", "gemma3", "granite", "olmo2", "mamba")
POST_NORM = ("gemma2", "gemma3", "olmo2")
LAYERS = 3
REQUESTS = ("What is the heart of a tree?", "Stop!", "Name the things that can float in the air, and why.")
SMALL = EngineOptions(threads=1, context_size=1024)


@pytest.fixture(scope="module", autouse=True)
def exact_attention() -> Iterator[None]:
    """Full-precision attention for every context made here, the reference's included."""
    defaults = llama_cpp.llama_context_default_params

    def exact() -> llama_cpp.llama_context_params:
        parameters = defaults()
        parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
        return parameters

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp, "llama_context_default_params", exact)
        yield


@pytest.fixture(params=ARCHITECTURES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", architecture=request.param, layers=LAYERS)


@pytest.fixture
def engine(path: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine(path, SMALL) as running:
        yield running


@pytest.fixture(scope="module")
def llama(tiny_model: Path, exact_attention: None) -> Iterator[LlamaEngine]:
    with LlamaEngine(tiny_model, SMALL) as running:
        yield running


def prompts_of(engine: LlamaEngine) -> list[Tokens]:
    return engine.encode([ask(text, "Be kind.") for text in REQUESTS])


def reference_logprobs(path: Path, prompts: list[Tokens]) -> Float32:
    plain = PlainLlama(path)
    rows = np.stack([plain.logits(prompt) for prompt in prompts])
    plain.close()
    return log_softmax(rows)


def tolerance(path: Path) -> float:
    with GgufFile.open(path) as file:
        gelu = (file.text("general.architecture") or "").startswith("gemma")
    return 1e-3 if gelu else 1e-4


def matrix_names(path: Path) -> list[str]:
    with GgufFile.open(path) as file:
        return [matrix.name for matrix in write_matrices(file)]


# --- every architecture ----------------------------------------------------------------------------------


def test_every_block_and_write_matrix_is_captured(path: Path, engine: LlamaEngine) -> None:
    prompts = prompts_of(engine)
    tokens = sum(len(prompt) for prompt in prompts)
    names = tuple(matrix_names(path))
    with GgufFile.open(path) as file:
        widths = {name: file.tensors[name].shape[1] for name in names}
    for positions, rows in ((Positions.LAST, len(prompts)), (Positions.ALL, tokens)):
        request = TapRequest(blocks=(0, 1, 2), inputs=names, positions=positions)
        capture = engine.capture(prompts, request, share_prefix=False)
        assert sorted(capture.streams) == [0, 1, 2]
        assert sorted(capture.inputs) == sorted(names)
        for block in range(LAYERS):
            assert capture.stream_rows(block).shape == (rows, 64)
            assert np.isfinite(capture.stream_rows(block)).all()
        for name, tapped in capture.inputs.items():
            assert tapped.rows is not None
            assert tapped.rows.shape == (rows, widths[name])


def test_the_last_stream_is_the_embedding_before_the_norm(path: Path, engine: LlamaEngine) -> None:
    prompt = prompts_of(engine)[2]
    request = TapRequest(blocks=(LAYERS - 1,), positions=Positions.ALL)
    stream = engine.capture([prompt], request, share_prefix=False).stream_rows(LAYERS - 1)
    with GgufFile.open(path) as file:
        gain = file.tensor_bytes("output_norm.weight").view(np.float32).copy()
    normalised = stream / np.sqrt((stream**2).mean(axis=1, keepdims=True) + 1e-5) * gain
    plain = PlainLlama(path, embeddings=True)
    expected = plain.embeddings(prompt)
    plain.close()
    np.testing.assert_allclose(normalised, expected, rtol=0, atol=1e-4)


def test_a_batch_gives_what_one_prompt_at_a_time_gives(path: Path, engine: LlamaEngine) -> None:
    prompts = prompts_of(engine)
    expected = reference_logprobs(path, prompts)
    within = tolerance(path)
    np.testing.assert_allclose(engine.next_token_logprobs(prompts), expected, rtol=0, atol=within)
    # One prompt after the other as well, in an order that leaves the shared prefix in the cache.
    for index in (1, 0, 2):
        single = engine.next_token_logprobs([prompts[index]])
        np.testing.assert_allclose(single[0], expected[index], rtol=0, atol=within)


def test_sharing_the_prefix_changes_nothing(path: Path, engine: LlamaEngine) -> None:
    prompts = prompts_of(engine)
    request = TapRequest(blocks=(0, 2), inputs=(matrix_names(path)[-1],))
    shared = engine.capture(prompts, request)
    alone = engine.capture(prompts, request, share_prefix=False)
    within = tolerance(path)
    for block in (0, 2):
        np.testing.assert_allclose(shared.stream_rows(block), alone.stream_rows(block), rtol=0, atol=within)


def test_an_adapter_does_what_editing_the_weights_does(
    path: Path, engine: LlamaEngine, tmp_path: Path
) -> None:
    prompts = prompts_of(engine)
    before = engine.next_token_logprobs(prompts)
    random = np.random.default_rng(3)
    direction = random.standard_normal(64).astype(np.float32)
    direction /= np.linalg.norm(direction)
    strength = 20.0
    with GgufFile.open(path) as file:
        matrices = write_matrices(file)
        edits = rosi_edits(file, matrices, row_means(file, matrices), direction)
        probes = {
            edit.tensor: random.standard_normal((4, len(edit.input))).astype(np.float32) for edit in edits
        }
        target = tmp_path / "baked.gguf"
        bake(
            file,
            target,
            [edit.scaled(strength) for edit in edits],
            BakeSettings(rounding=Requantize(), probes=probes),
        )
    handle = engine.load_edits(edits)
    engine.apply({handle: strength})
    adapted = engine.next_token_logprobs(prompts)
    # An edit that moved nothing would agree with anything.
    assert np.abs(adapted - before).max() > 10 * 2e-4
    with LlamaEngine(target, SMALL) as hardened:
        np.testing.assert_allclose(hardened.next_token_logprobs(prompts), adapted, rtol=0, atol=2e-4)
    engine.apply({})
    np.testing.assert_array_equal(engine.next_token_logprobs(prompts), before)
    engine.unload(handle)


# --- norms between matrix and stream ---------------------------------------------------------------------


def uneven_gains(name: str, weights: Float32) -> Float32:
    random = np.random.default_rng(len(name))
    return (weights * np.exp(0.7 * random.standard_normal(weights.shape))).astype(np.float32)


@pytest.mark.parametrize("architecture", POST_NORM)
@pytest.mark.parametrize("short", ["attn_output", "ffn_down"])
def test_a_corrected_edit_moves_the_stream_along_the_direction(
    architecture: str, short: str, tmp_path: Path
) -> None:
    hidden = 256

    def change(tensor: str, weights: Float32) -> Float32:
        if "post_attention_norm" in tensor or "post_ffw_norm" in tensor:
            return uneven_gains(tensor, weights)
        # What attention writes, the MLP of the same block would answer to.
        silent = short == "attn_output" and tensor == "blk.1.ffn_down.weight"
        return weights * 0 if silent else weights

    path = write_tiny_llama(
        tmp_path / "tiny.gguf", architecture=architecture, layers=LAYERS, hidden=hidden, change=change
    )
    name = f"blk.1.{short}.weight"
    random = np.random.default_rng(11)
    direction = random.standard_normal(hidden).astype(np.float32)
    direction /= np.linalg.norm(direction)
    with GgufFile.open(path) as file:
        matrix = next(matrix for matrix in write_matrices(file) if matrix.name == name)
        corrected = write_direction(file, matrix, direction)
    with LlamaEngine(path, SMALL) as engine:
        prompts = prompts_of(engine)
        request = TapRequest(blocks=(1,), inputs=(name,))
        before = engine.capture(prompts, request)
        rows = before.inputs[name].rows
        assert rows is not None
        key = rows.mean(axis=0) / float(np.square(rows).sum(axis=1).mean())

        def push(output: Float32) -> tuple[float, float]:
            """How well the mean change points along the direction, and how far along it goes."""
            handle = engine.load_edits([RankOneEdit(name, output, key)])
            engine.apply({handle: 0.02})
            moved = engine.capture(prompts, request).stream_rows(1) - before.stream_rows(1)
            engine.apply({})
            engine.unload(handle)
            change = moved.mean(axis=0)
            return float(change @ direction / np.linalg.norm(change)), float(change @ direction)

        cosine, distance = push(corrected)
        assert cosine >= 0.95
        assert distance > 0
        assert cosine > push(direction)[0] + 0.05


# --- batches ---------------------------------------------------------------------------------------------


def test_more_prompts_than_sequences_come_back_in_order(tiny_model: Path, llama: LlamaEngine) -> None:
    texts = [f"{'a' * (index * 7 % 13)} {index}" for index in range(11)]
    prompts = llama.encode([ask(text) for text in texts])
    expected = np.concatenate([llama.next_token_logprobs([prompt]) for prompt in prompts])
    counted: list[int] = []
    with LlamaEngine(tiny_model, EngineOptions(threads=1, sequences=3)) as narrow:
        found = narrow.next_token_logprobs(prompts, advance=counted.append)
        answers = narrow.generate(prompts, max_tokens=5)
        stream = narrow.capture(prompts, TapRequest(blocks=(2,))).streams[2]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert sum(counted) == len(prompts)
    assert max(counted) <= 3
    assert [answer.tokens for answer in answers] == [
        llama.generate([prompt], max_tokens=5)[0].tokens for prompt in prompts
    ]
    assert stream.prompts is not None
    assert stream.prompts.tolist() == list(range(11))


def test_prompts_longer_than_a_batch(tiny_model: Path, llama: LlamaEngine) -> None:
    prompts = llama.encode([ask("x" * 150), ask("y" * 77), ask("z")])
    expected = llama.next_token_logprobs(prompts)
    every = TapRequest(blocks=(0, 1, 2), inputs=("blk.2.ffn_down.weight",), positions=Positions.ALL)
    reference = llama.capture(prompts, every, share_prefix=False)
    with LlamaEngine(tiny_model, EngineOptions(threads=1, batch_size=32)) as engine:
        np.testing.assert_allclose(engine.next_token_logprobs(prompts), expected, rtol=0, atol=1e-4)
        found = engine.capture(prompts, every, share_prefix=False)
        last = engine.capture(prompts, TapRequest(blocks=(2,)))
        mean = engine.capture(
            prompts, TapRequest(blocks=(1,), positions=Positions.ALL, keep=Keep.MEAN), share_prefix=False
        )
    for block in range(LAYERS):
        np.testing.assert_allclose(found.stream_rows(block), reference.stream_rows(block), rtol=0, atol=1e-4)
    owners = found.streams[0].prompts
    assert owners is not None
    assert np.bincount(owners).tolist() == [len(prompt) for prompt in prompts]
    ends = np.cumsum([len(prompt) for prompt in prompts]) - 1
    np.testing.assert_allclose(last.stream_rows(2), reference.stream_rows(2)[ends], rtol=0, atol=1e-4)
    assert mean.streams[1].mean is not None
    np.testing.assert_allclose(
        mean.streams[1].mean, reference.stream_rows(1).mean(axis=0, dtype=np.float64), rtol=0, atol=1e-4
    )


def test_generation_is_greedy_token_by_token(llama: LlamaEngine) -> None:
    prompts = prompts_of(llama)
    for prompt, answer in zip(prompts, llama.generate(prompts, max_tokens=6), strict=True):
        written: Tokens = []
        for _ in range(6):
            best = int(llama.next_token_logprobs([prompt + written]).argmax())
            written.append(best)
        # The tiny model's end tokens are as unlikely as any other.
        assert answer.tokens == written[: len(answer.tokens)]
        assert answer.finished == (len(answer.tokens) < 6)


def test_continuations_are_scored_like_prompts(llama: LlamaEngine) -> None:
    contexts = prompts_of(llama)[:2]
    continuations: list[list[Tokens]] = [[[5, 6, 7], [9]], [[70, 71]]]
    scores = llama.score_continuations(list(zip(contexts, continuations, strict=True)))
    for context, branches, found in zip(contexts, continuations, scores, strict=True):
        for tokens, score in zip(branches, found, strict=True):
            expected = [
                llama.next_token_logprobs([context + tokens[:at]])[0, token]
                for at, token in enumerate(tokens)
            ]
            np.testing.assert_allclose(score, expected, rtol=0, atol=1e-4)
    rows = llama.continuation_logprobs(contexts, [branches[0] for branches in continuations])
    np.testing.assert_allclose(
        rows[0][2], llama.next_token_logprobs([contexts[0] + [5, 6]])[0], rtol=0, atol=1e-4
    )
    with pytest.raises(EngineError, match="empty"):
        llama.score_continuations([(contexts[0], [[]])])


def test_no_prompts(llama: LlamaEngine) -> None:
    assert llama.generate([], max_tokens=3) == []
    assert llama.next_token_logprobs([]).shape == (0, 320)
    assert llama.encode([]) == []
    with pytest.raises(EngineError, match="no prompts"):
        llama.capture([], TapRequest(blocks=(0,)))


@pytest.mark.parametrize("share_prefix", [True, False])
def test_an_empty_prompt_is_an_error(llama: LlamaEngine, share_prefix: bool) -> None:
    with pytest.raises(EngineError, match="empty prompt"):
        llama.capture([[1, 2], []], TapRequest(blocks=(0,)), share_prefix=share_prefix)
    with pytest.raises(EngineError, match="empty prompt"):
        llama.generate([[]], max_tokens=1)


def test_a_prompt_that_does_not_fit(tiny_model: Path) -> None:
    options = EngineOptions(threads=1, context_size=256, batch_size=512, sequences=4)
    with LlamaEngine(tiny_model, options) as engine:
        assert engine.facts.context_size == 256
        long, short = [3] * 300, [4] * 20
        before = engine.next_token_logprobs([short])
        for call in (
            lambda: engine.next_token_logprobs([long]),
            lambda: engine.next_token_logprobs([long, short]),
            lambda: engine.capture([long], TapRequest(blocks=(0,))),
            lambda: engine.capture([long, long], TapRequest(blocks=(0,)), share_prefix=False),
            lambda: engine.generate([[5] * 200], max_tokens=100),
        ):
            with pytest.raises(EngineError) as caught:
                call()
            assert "-c" in caught.value.remedy
            # The engine is as good as before.
            np.testing.assert_allclose(engine.next_token_logprobs([short]), before, atol=1e-5)
        # Two that fit one at a time and not together are taken in turns.
        prompts = [[6 + index, *[7] * 140] for index in range(3)]
        assert engine.next_token_logprobs(prompts).shape == (3, 320)


# --- taps ------------------------------------------------------------------------------------------------


def test_what_cannot_be_tapped(llama: LlamaEngine) -> None:
    prompts = prompts_of(llama)
    expected = llama.next_token_logprobs(prompts)
    with pytest.raises(EngineError, match="no block 3"):
        llama.capture(prompts, TapRequest(blocks=(3,)))
    with pytest.raises(EngineError, match=r"blk\.9\.ffn_down\.weight"):
        llama.capture(prompts, TapRequest(inputs=("blk.9.ffn_down.weight",)))
    np.testing.assert_array_equal(llama.next_token_logprobs(prompts), expected)


def test_reductions_equal_numpy(llama: LlamaEngine) -> None:
    prompts = prompts_of(llama)
    name = "blk.1.ffn_down.weight"

    def capture(keep: Keep):  # type: ignore[no-untyped-def]
        request = TapRequest(blocks=(1,), inputs=(name,), positions=Positions.ALL, keep=keep)
        return llama.capture(prompts, request, share_prefix=False)

    rows, mean, moment = (capture(keep) for keep in (Keep.ROWS, Keep.MEAN, Keep.SECOND_MOMENT))
    for whole, averaged, squared in (
        (rows.streams[1], mean.streams[1], moment.streams[1]),
        (rows.inputs[name], mean.inputs[name], moment.inputs[name]),
    ):
        exact = whole.rows.astype(np.float64)
        np.testing.assert_allclose(averaged.mean, exact.mean(axis=0), rtol=0, atol=1e-6)
        np.testing.assert_allclose(squared.second_moment, exact.T @ exact, rtol=1e-5, atol=1e-4)
        assert averaged.count == squared.count == len(exact)
    with pytest.raises(ValueError, match="did not keep rows"):
        mean.stream_rows(1)


def test_taps_handed_over_one_at_a_time(llama: LlamaEngine) -> None:
    prompts = prompts_of(llama)
    request = TapRequest(blocks=(0, 2), inputs=("blk.1.ffn_down.weight",), positions=Positions.ALL)
    whole = llama.capture(prompts, request, share_prefix=False)
    visited: dict[int | str, Float32 | None] = {}

    def visit(name: int | str, tapped: Tapped) -> None:
        assert name not in visited
        visited[name] = tapped.rows

    llama.capture_each(prompts, request, visit, share_prefix=False)
    assert set(visited) == {0, 2, "blk.1.ffn_down.weight"}
    for name, rows in visited.items():
        expected = whole.streams[name] if isinstance(name, int) else whole.inputs[name]
        np.testing.assert_array_equal(rows, expected.rows)


def test_an_interrupted_capture_leaves_a_working_engine(llama: LlamaEngine) -> None:
    prompts = prompts_of(llama)
    expected = llama.next_token_logprobs(prompts)

    def interrupt(units: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llama.capture(prompts, TapRequest(blocks=(1,)), advance=interrupt)
    with pytest.raises(KeyboardInterrupt):
        llama.generate(prompts, max_tokens=3, advance=interrupt)
    np.testing.assert_array_equal(llama.next_token_logprobs(prompts), expected)


# --- adapters --------------------------------------------------------------------------------------------


def test_adapter_files_that_do_not_fit(llama: LlamaEngine, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    vector = np.ones(64, dtype=np.float32)
    write_adapter(
        wrong, [RankOneEdit("blk.0.attn_output.weight", vector, np.ones(65, "f"))], architecture="llama"
    )
    with pytest.raises(EngineError, match="cannot load the adapter"):
        llama.load_adapter(wrong)
    write_adapter(wrong, [RankOneEdit("blk.0.attn_output.weight", vector, vector)], architecture="qwen2")
    with pytest.raises(EngineError, match="cannot load the adapter"):
        llama.load_adapter(wrong)


def test_the_cached_prefix_belongs_to_one_strength(llama: LlamaEngine) -> None:
    prompts = prompts_of(llama)
    vector = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    handle = llama.load_edits([RankOneEdit("blk.0.attn_output.weight", vector, vector)])
    results: dict[float, Float32] = {}
    for strength in (0.0, 0.3, 0.6, 0.3, 0.0):
        llama.apply({handle: strength})
        found = llama.next_token_logprobs(prompts)
        np.testing.assert_array_equal(found, results.setdefault(strength, found))
    assert np.abs(results[0.3] - results[0.6]).max() > 1e-3
    llama.apply({})
    llama.unload(handle)


# --- chat templates --------------------------------------------------------------------------------------

NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
DROPS_SYSTEM = CHATML.replace(
    "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
)


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_a_template_without_system_role_gets_it_in_the_first_user_turn(tmp_path: Path, template: str) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=template)
    with LlamaEngine(path, SMALL) as engine:
        folded, expected = engine.encode([ask("Hello?", "Be kind."), ask("Be kind.\n\nHello?")])
        assert folded == expected
        turns = (
            Message(Role.SYSTEM, "Be kind."),
            Message(Role.USER, "One"),
            Message(Role.ASSISTANT, "Two"),
            Message(Role.USER, "Three"),
        )
        folded = engine.encode([turns])[0]
        assert folded == engine.encode([(Message(Role.USER, "Be kind.\n\nOne"), *turns[2:])])[0]


def test_a_template_with_a_system_role_keeps_it(llama: LlamaEngine) -> None:
    with_system, folded = llama.encode([ask("Hello?", "Be kind."), ask("Be kind.\n\nHello?")])
    assert with_system != folded
    assert len(with_system) > len(folded)


def test_no_template(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=None)
    with LlamaEngine(path, SMALL) as engine:
        assert not engine.facts.has_chat_template
        with pytest.raises(UnsupportedModelError, match="no chat template"):
            engine.encode([ask("Hello?")])
        assert engine.encode_text(["Hello"])[0]
    with LlamaEngine(path, EngineOptions(threads=1, template=CHATML)) as engine:
        assert engine.facts.has_chat_template
        assert engine.encode([ask("Hello?")])[0]


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ 1 / 0 }}", "{{ messages[7].content }}", "{{ ''.__class__.__mro__ }}"]
)
def test_a_broken_template(tmp_path: Path, template: str) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=template)
    with (
        pytest.raises(UnsupportedModelError, match="the chat template cannot be") as caught,
        LlamaEngine(path, SMALL) as engine,
    ):
        engine.encode([ask("Hello?")])
    assert "--template" in caught.value.remedy


def test_the_opening_token_is_not_doubled(tmp_path: Path) -> None:
    with_bos = write_tiny_llama(tmp_path / "tiny.gguf", chat_template="{{ bos_token }}" + CHATML)
    with LlamaEngine(with_bos, SMALL) as engine:
        tokens = engine.encode([ask("Hello?")])[0]
        bare = engine.encode_text(["<|endoftext|>"])[0]
    assert tokens[0] != tokens[1]
    # A prompt that writes a special token's name out is text, not that token.
    assert len(bare) > 1


# --- files that do not load ------------------------------------------------------------------------------


def drop_norm(name: str) -> Callable[[str, Float32], Float32]:
    return lambda tensor, weights: weights[:-1] if tensor == name else weights


def test_a_file_llama_cpp_refuses(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", change=drop_norm("output_norm.weight"))
    with pytest.raises(ModelFileError, match=r"llama\.cpp cannot load .*output_norm"):
        LlamaEngine(path, SMALL)


def test_an_unknown_architecture(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lxama", 1))
    with pytest.raises(UnsupportedModelError, match="lxama"):
        LlamaEngine(path, SMALL)


# --- held prompts and streaming ---------------------------------------------------------------------------


def an_edit(engine: LlamaEngine, seed: int = 5) -> RankOneEdit:
    random = np.random.default_rng(seed)
    hidden = engine.facts.hidden_size
    with GgufFile.open(engine.path) as file:
        columns = file.tensors["blk.1.ffn_down.weight"].shape[1]
    output, inputs = (random.normal(size=size).astype(np.float32) for size in (hidden, columns))
    return RankOneEdit("blk.1.ffn_down.weight", output, inputs)


@pytest.fixture
def holding(tiny_model: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine(tiny_model, EngineOptions(threads=1, context_size=1024, held=4)) as running:
        yield running


def test_held_prompts_are_those_prompts(holding: LlamaEngine) -> None:
    prompts = prompts_of(holding)
    expected = holding.next_token_logprobs(prompts)
    holding.hold(prompts, tail=2)
    np.testing.assert_allclose(holding.held_logprobs(), expected, atol=2e-5)
    np.testing.assert_allclose(holding.held_logprobs(), expected, atol=2e-5)
    # Other work in between empties the cache; what is held comes back by itself.
    assert holding.generate(prompts, max_tokens=2)
    np.testing.assert_allclose(holding.held_logprobs(), expected, atol=2e-5)


def test_edits_act_on_the_last_tokens_of_held_prompts(holding: LlamaEngine) -> None:
    prompts = prompts_of(holding)
    handle = holding.load_edits([an_edit(holding)])
    holding.hold(prompts, tail=3)
    plain = holding.held_logprobs()
    holding.apply({handle: 0.5})
    partly = holding.held_logprobs()
    whole = holding.next_token_logprobs(prompts)
    assert np.abs(partly - plain).max() > 1e-2
    # The tokens before the last three are the unedited model's, which is what holding is for.
    assert np.abs(partly - whole).max() > 1e-6
    # With a tail as long as the prompts nothing is left out of account.
    short = [[first, 7, 9, 11] for first in (3, 4, 5)]
    holding.hold(short, tail=4)
    np.testing.assert_allclose(holding.held_logprobs(), holding.next_token_logprobs(short), atol=2e-5)
    holding.apply({})
    holding.hold(prompts, tail=3)
    np.testing.assert_allclose(holding.held_logprobs(), plain, atol=2e-5)


def test_what_cannot_be_held_is_computed_whole(llama: LlamaEngine) -> None:
    prompts = prompts_of(llama)
    llama.hold(prompts, tail=2)
    np.testing.assert_allclose(llama.held_logprobs(), llama.next_token_logprobs(prompts), atol=2e-5)


def test_nothing_is_held_before_it_is_asked_for(tiny_model: Path) -> None:
    with LlamaEngine(tiny_model, SMALL) as engine, pytest.raises(EngineError, match="no prompts are held"):
        engine.held_logprobs()


def test_a_streamed_answer_is_the_generated_one(llama: LlamaEngine) -> None:
    prompt = prompts_of(llama)[2]
    expected = llama.generate([prompt], max_tokens=12)[0].text
    pieces: list[str] = []
    llama.stream(prompt, max_tokens=12, on_text=pieces.append)
    assert expected
    assert "".join(pieces) == expected
