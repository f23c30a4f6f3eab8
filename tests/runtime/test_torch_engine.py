"""The torch engine against llama.cpp on the same weights, and on its own for what only checkpoints have."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType
from runtime.tiny_checkpoint import BLOCKS, HIDDEN, TEXT, convert, write_checkpoint

from rosi_edge.basics.arrays import Float32

pytest.importorskip("torch", reason="needs the [torch] extra")
pytest.importorskip("transformers", reason="needs the [torch] extra")

from rosi_edge.direction.difference import extract_directions
from rosi_edge.edits.adapter import write_adapter
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import write_direction
from rosi_edge.errors import EngineError, ModelFileError, UnsupportedModelError
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.checkpoint import ARCHITECTURES, Checkpoint
from rosi_edge.models.checkpoint_files import SINGLE
from rosi_edge.runtime.engine import Engine, EngineOptions, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.open_engine import open_engine
from rosi_edge.runtime.taps import Keep, Positions, TapRequest
from rosi_edge.runtime.torch_engine import TorchEngine

pytestmark = pytest.mark.torch


OPTIONS = EngineOptions(threads=1, context_size=1024, sequences=4)
FIRST = ("What is the heart of a tree?", "Stop!", "Say why they float.", "In the air, and then?", "Name it.")
SECOND = ("The heart?", "Name the things that do not fall.", "Why?", "A tree is a tree.", "What is the air?")
EVERYTHING = tuple(f"blk.{n}.{short}.weight" for n in range(BLOCKS) for short in ("attn_output", "ffn_down"))


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp(request.param) / "model", request.param)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Iterator[TorchEngine]:
    with TorchEngine(folder, OPTIONS) as engine:
        yield engine


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Iterator[LlamaEngine]:
    path = convert(folder, folder.with_suffix(".gguf"), GGMLQuantizationType.F16)
    with LlamaEngine(path, OPTIONS) as engine:
        yield engine


def encoded(engine: Engine) -> list[list[int]]:
    return engine.encode([ask(text) for text in (*FIRST, *SECOND)])


def cosines(one: Float32, other: Float32) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return (one.astype(np.float64) * other).sum(axis=-1) / lengths


# --- against llama.cpp ---------------------------------------------------------------------------------


def test_facts_and_tokens(ours: TorchEngine, theirs: LlamaEngine) -> None:
    for fact in ("architecture", "layers", "hidden_size", "vocabulary_size", "has_chat_template"):
        assert getattr(ours.facts, fact) == getattr(theirs.facts, fact)
    assert encoded(ours) == encoded(theirs)
    assert ours.encode([ask("Why?", "Be kind.")]) == theirs.encode([ask("Why?", "Be kind.")])
    assert ours.encode_text(FIRST) == theirs.encode_text(FIRST)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("answer", [0, 2])
@pytest.mark.parametrize("positions", [Positions.LAST, Positions.ALL])
def test_captures(
    ours: TorchEngine, theirs: LlamaEngine, positions: Positions, answer: int, share: bool
) -> None:
    request = TapRequest(
        blocks=tuple(range(BLOCKS)), inputs=EVERYTHING, positions=positions, last=2, answer=answer
    )
    prompts = encoded(ours)
    found = ours.capture(prompts, request, share_prefix=share)
    expected = theirs.capture(prompts, request, share_prefix=share)
    for mine, other in (
        *((found.streams[block], expected.streams[block]) for block in range(BLOCKS)),
        *((found.inputs[name], expected.inputs[name]) for name in EVERYTHING),
    ):
        assert mine.rows is not None and other.rows is not None
        assert mine.prompts is not None and other.prompts is not None
        assert mine.from_end is not None and other.from_end is not None
        assert mine.prompts.tolist() == other.prompts.tolist()
        assert mine.from_end.tolist() == other.from_end.tolist()
        assert cosines(mine.rows, other.rows).min() > 0.999
        np.testing.assert_allclose(mine.rows, other.rows, atol=0.02 * np.abs(other.rows).max())


def test_moments_are_those_of_the_rows(ours: TorchEngine) -> None:
    prompts = encoded(ours)
    rows = ours.capture(prompts, TapRequest(blocks=(1,), positions=Positions.ALL)).stream_rows(1)
    moments = ours.capture(
        prompts, TapRequest(blocks=(1,), positions=Positions.ALL, keep=Keep.SECOND_MOMENT)
    ).streams[1]
    assert moments.mean is not None and moments.second_moment is not None
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.second_moment, rows.T @ rows, rtol=1e-3, atol=1e-2)


def test_probabilities_and_answers(ours: TorchEngine, theirs: LlamaEngine) -> None:
    prompts = encoded(ours)
    answers, logprobs = ours.generate_with_logprobs(prompts, max_tokens=8)
    others, expected = theirs.generate_with_logprobs(prompts, max_tokens=8)
    np.testing.assert_allclose(logprobs, expected, atol=0.05)
    np.testing.assert_allclose(np.exp(logprobs).sum(axis=1), 1, rtol=1e-4)
    np.testing.assert_array_equal(ours.next_token_logprobs(prompts), logprobs)
    # Greedy answers of noise part ways where two tokens are nearly as likely; most stay together.
    same = [a.tokens == b.tokens and a.text == b.text for a, b in zip(answers, others, strict=True)]
    assert sum(same) >= 0.7 * len(same)
    assert [a.tokens for a in ours.generate(prompts[:3], max_tokens=8)] == [a.tokens for a in answers[:3]]


def test_a_streamed_answer_is_the_same_answer(ours: TorchEngine) -> None:
    for prompt in encoded(ours)[:4]:
        pieces: list[str] = []
        ours.stream(prompt, max_tokens=12, on_text=pieces.append)
        whole = ours.generate([prompt], max_tokens=12)[0].text
        assert whole.startswith("".join(pieces))
        assert whole.removeprefix("".join(pieces)).strip("\ufffd") == ""
        assert len(pieces) > 1


def test_an_answer_alone_is_the_answer_in_a_batch(ours: TorchEngine) -> None:
    prompts = encoded(ours)
    together = ours.generate(prompts, max_tokens=6)
    assert [ours.generate([prompt], max_tokens=6)[0].tokens for prompt in prompts] == [
        answer.tokens for answer in together
    ]


def test_continuations(ours: TorchEngine, theirs: LlamaEngine) -> None:
    prompts = encoded(ours)
    branches = ours.encode_text(["A tree.", "Why", "the heart of the air"])
    found = ours.score_continuations([(prompt, branches) for prompt in prompts[:3]])
    expected = theirs.score_continuations([(prompt, branches) for prompt in prompts[:3]])
    for mine, others in zip(found, expected, strict=True):
        for one, other in zip(mine, others, strict=True):
            np.testing.assert_allclose(one, other, atol=0.1)
    whole = ours.continuation_logprobs(prompts[:3], branches)
    for rows, group, tokens, index in zip(whole, found, branches, range(3), strict=True):
        np.testing.assert_allclose(rows[np.arange(len(tokens)), tokens], group[index], atol=1e-4)
    with pytest.raises(EngineError, match="empty continuation"):
        ours.score_continuations([(prompts[0], [[]])])


@pytest.mark.parametrize(
    ("kind", "least"), [(GGMLQuantizationType.F16, 0.999), (GGMLQuantizationType.Q8_0, 0.98)]
)
def test_directions_agree(
    ours: TorchEngine, folder: Path, kind: GGMLQuantizationType, least: float, tmp_path: Path
) -> None:
    mine = extract_directions(ours, FIRST, SECOND)
    with LlamaEngine(convert(folder, tmp_path / "other.gguf", kind), OPTIONS) as engine:
        other = extract_directions(engine, FIRST, SECOND)
    assert cosines(mine.vectors, other.vectors).min() >= least


def test_the_same_edits_do_the_same(ours: TorchEngine, theirs: LlamaEngine, tmp_path: Path) -> None:
    prompts = encoded(ours)
    edits = edits_for(ours)
    changes = []
    for engine in (ours, theirs):
        handle = engine.load_edits(edits)
        before = engine.next_token_logprobs(prompts)
        engine.apply({handle: 0.7})
        after = engine.next_token_logprobs(prompts)
        engine.apply({})
        np.testing.assert_allclose(engine.next_token_logprobs(prompts), before, atol=1e-4)
        engine.unload(handle)
        changes.append(after - before)
    assert np.abs(changes[0]).max() > 0.3
    np.testing.assert_allclose(changes[0], changes[1], atol=0.1 * np.abs(changes[0]).max())
    path = tmp_path / "adapter.gguf"
    write_adapter(path, edits, architecture=ours.facts.architecture)
    handle = ours.load_adapter(path)
    ours.hold(prompts, tail=1)
    ours.apply({handle: 0.7})
    np.testing.assert_allclose(ours.held_logprobs() - changes[0], ours_before(ours, prompts), atol=1e-3)
    ours.apply({})


def ours_before(engine: TorchEngine, prompts: list[list[int]]) -> Float32:
    engine.apply({})
    return engine.next_token_logprobs(prompts)


def edits_for(engine: Engine, seed: int = 0) -> list[RankOneEdit]:
    random = np.random.default_rng(seed)
    inputs = engine.capture(encoded(engine), TapRequest(inputs=EVERYTHING)).inputs
    edits = []
    for name in EVERYTHING:
        rows = inputs[name].rows
        assert rows is not None
        inward = rows.mean(axis=0) / np.square(rows.mean(axis=0)).sum()
        edits.append(RankOneEdit(name, random.standard_normal(HIDDEN).astype(np.float32), inward))
    return edits


# --- sessions and limits -------------------------------------------------------------------------------


def test_a_session_is_a_prompt_that_goes_on(ours: TorchEngine) -> None:
    prompts = encoded(ours)
    ours.extend_session(prompts[0], window=256)
    ours.extend_session(prompts[1], window=256)
    answer = ours.generate_in_session([prompts[2]], max_tokens=6)[0]
    assert answer == ours.generate([[*prompts[0], *prompts[1], *prompts[2]]], max_tokens=6)[0]
    with pytest.raises(EngineError, match="no session"):
        ours.generate_in_session([prompts[2]], max_tokens=1)
    for _ in range(30):
        ours.extend_session(prompts[0], window=100)
    assert ours._session is not None
    assert len(ours._session) <= 100
    assert ours._session[:40] == (prompts[0] * 40)[:40]
    with pytest.raises(EngineError, match="window of 4096"):
        ours.extend_session(prompts[0], window=4096)


def test_what_does_not_fit_is_said(ours: TorchEngine) -> None:
    with pytest.raises(EngineError, match="does not fit into a context of 512"):
        ours.generate([[1] * 600], max_tokens=1)
    with pytest.raises(EngineError, match="empty prompt"):
        ours.next_token_logprobs([[]])
    with pytest.raises(EngineError, match="no block 7"):
        ours.capture([[1, 2]], TapRequest(blocks=(7,)))
    with pytest.raises(EngineError, match="is not a write matrix"):
        ours.capture([[1, 2]], TapRequest(inputs=("blk.0.attn_q.weight",)))
    vector = np.ones(3, dtype=np.float32)
    with pytest.raises(EngineError, match="does not fit this model"):
        ours.load_edits([RankOneEdit("blk.0.ffn_down.weight", vector, vector)])


# --- every kind of checkpoint --------------------------------------------------------------------------

SETTINGS = {
    "phi": {"num_key_value_heads": 4},
    "nemotron": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "granite": {"residual_multiplier": 0.22},
    "qwen3": {"head_dim": 16},
    "seed_oss": {"head_dim": 16},
    "olmo": {},
}
POST_NORM = {"gemma2", "gemma3_text", "olmo2", "glm4", "exaone4"}


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_the_stream_moves_along_the_direction(kind: str, tmp_path: Path) -> None:
    """The last write of each block: what it adds reaches the tap unanswered."""
    path = write_checkpoint(tmp_path / "model", kind, **SETTINGS.get(kind, {}))
    random = np.random.default_rng(0)
    with Checkpoint.open(path) as checkpoint, TorchEngine(path, OPTIONS) as engine:
        matrices = write_matrices(checkpoint)
        assert len(matrices) == 2 * BLOCKS
        prompts = encoded(engine)
        for matrix in matrices:
            if matrix.kind != "mlp":
                continue
            direction = random.standard_normal(HIDDEN).astype(np.float32)
            direction /= np.linalg.norm(direction)
            request = TapRequest(blocks=(matrix.block,), inputs=(matrix.name,))
            before = engine.capture(prompts, request)
            inputs = before.inputs[matrix.name].rows
            assert inputs is not None
            output = write_direction(checkpoint, matrix, direction)
            inward = random.standard_normal(inputs.shape[1]).astype(np.float32)
            edit = RankOneEdit(matrix.name, output, inward)
            strength = 0.02 * float(
                np.abs(before.stream_rows(matrix.block)).mean() / np.abs(inputs @ inward).mean()
            )
            handle = engine.load_edits([edit])
            engine.apply({handle: strength})
            after = engine.capture(prompts, request).stream_rows(matrix.block)
            engine.apply({})
            change = after - before.stream_rows(matrix.block)
            along = np.abs(cosines(change, np.broadcast_to(direction, change.shape)))
            pushes = np.abs(inputs @ inward)
            loud = pushes > 0.2 * pushes.max()
            assert along[loud].min() > (0.9 if kind in POST_NORM else 0.999)


# --- types, folders and what is refused ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_in_several_files(dtype: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", "qwen2", dtype=dtype, shard="100KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    with TorchEngine(path, OPTIONS) as engine:
        answers = engine.generate(encoded(engine), max_tokens=3)
    assert all(answer.tokens or answer.finished for answer in answers)


def test_open_engine_chooses(folder: Path) -> None:
    with open_engine(folder, OPTIONS) as engine:
        assert isinstance(engine, TorchEngine)


def test_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf", reason="transformers reads tokenizer.model through it")
    path = write_checkpoint(tmp_path / "model", "llama")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        (path / name).unlink(missing_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 20),
        model_prefix=str(path / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}', "utf-8")
    expected = sentencepiece.SentencePieceProcessor(model_file=str(path / "tokenizer.model"))
    with TorchEngine(path, OPTIONS) as engine:
        for text in FIRST:
            tokens = engine.encode_text([text])[0]
            assert [token for token in tokens if token != expected.bos_id()] == expected.encode(text)
        with pytest.raises(UnsupportedModelError, match="no chat template"):
            engine.encode([ask("Why?")])


def test_weights_that_are_missing_or_misshapen_are_not_made_up(tmp_path: Path) -> None:
    """transformers fills them with random numbers."""
    from safetensors.numpy import load_file, save_file

    path = write_checkpoint(tmp_path / "model", "qwen2")
    weights = load_file(path / SINGLE)
    name = "model.layers.1.self_attn.q_proj.weight"
    for changed in ({}, {name: weights[name][:-2]}):
        rest = {key: value for key, value in weights.items() if key != name}
        save_file(rest | changed, path / SINGLE, metadata={"format": "pt"})
        with pytest.raises(ModelFileError, match=rf"{name}"):
            TorchEngine(path)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_attention_heads": 0},
        {"num_attention_heads": "4"},
        {"hidden_act": 3},
        {"rms_norm_eps": "x"},
        {"eos_token_id": "x"},
    ],
)
def test_settings_that_transformers_does_not_take(settings: dict[str, object], tmp_path: Path) -> None:
    path = _changed(write_checkpoint(tmp_path / "model", "qwen2"), settings)
    with pytest.raises(ModelFileError, match="transformers cannot load"):
        TorchEngine(path)


def _changed(path: Path, settings: dict[str, object]) -> Path:
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps(config | settings), "utf-8")
    return path


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "someone/kernel"},
        {"experts_implementation": "someone/kernel"},
        {"attribute_map": {"zzz": "_attn_implementation"}, "zzz": "someone/kernel"},
        {"attribute_map": {"zzz": "_attn_implementation_internal"}, "zzz": "someone/kernel"},
        {"return_dict": False},
        {"id2label": 5},
    ],
)
def test_settings_that_are_not_obeyed(
    settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations import hub_kernels

    asked: list[str] = []
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda *_, **__: True)
    monkeypatch.setattr(hub_kernels, "get_kernel_hub", lambda name, **_: asked.append(name), raising=False)
    path = write_checkpoint(tmp_path / "model", "qwen2")
    with TorchEngine(path) as engine:
        expected = engine.next_token_logprobs([[1, 2, 3, 4]])
    with TorchEngine(_changed(path, settings)) as engine:
        np.testing.assert_array_equal(engine.next_token_logprobs([[1, 2, 3, 4]]), expected)
    assert not asked


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("qwen2", {"vocab_size": 1 << 40}),
        ("qwen2", {"intermediate_size": 1 << 40}),
        (
            "stablelm",
            {
                "partial_rotary_factor": 1e6,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "partial_rotary_factor": 1e6,
                },
            },
        ),
    ],
)
def test_a_larger_model_than_the_files_hold_is_not_made_up(
    kind: str, settings: dict[str, object], tmp_path: Path
) -> None:
    path = _changed(write_checkpoint(tmp_path / "model", kind), settings)
    with pytest.raises(ModelFileError, match="its settings are those of a model of"):
        TorchEngine(path)


def test_a_closed_engine_holds_no_weights(folder: Path) -> None:
    engine = TorchEngine(folder)
    engine.hold([[1, 2, 3, 4]], tail=2)
    weight = weakref.ref(next(iter(engine._blocks.values())).mlp.down_proj.weight)
    assert weight() is not None
    engine.close()
    gc.collect()
    assert weight() is None


def test_a_context_that_is_the_model_s_own_is_named(folder: Path) -> None:
    with TorchEngine(folder, OPTIONS) as engine, pytest.raises(EngineError) as caught:
        engine.generate([[1] * 600], max_tokens=8)
    assert "made for 512 tokens" in caught.value.remedy


def test_damaged_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"has no config\.json"):
        TorchEngine(tmp_path)
    path = write_checkpoint(tmp_path / "model", "qwen2")
    (path / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match="tokenizer"):
        TorchEngine(path)
    path = write_checkpoint(tmp_path / "other", "qwen2")
    config = (path / "config.json").read_text("utf-8")
    (path / "config.json").write_text(config.replace('"qwen2"', '"mamba"'), "utf-8")
    with pytest.raises(UnsupportedModelError, match="'mamba' are not covered"):
        TorchEngine(path)
