"""The direction, against numpy and scikit-learn, and the control vector, against gguf-py."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from fake_engine import FakeEngine
from sklearn.metrics import roc_auc_score

from rosi_edge.basics.arrays import Float32
from rosi_edge.direction.difference import (
    Directions,
    LayerSeparation,
    extract_directions,
    write_control_vector,
)
from rosi_edge.direction.elicitation import DEFAULT_ELICITATION
from rosi_edge.errors import PromptSetError
from rosi_edge.runtime.engine import Conversation, Role

HIDDEN, LAYERS = 40, 5
POSITIVE = [f"harmful {index}" for index in range(21)]
NEGATIVE = [f"harmless {index}" for index in range(24)]


def stream(conversation: Conversation, layer: int) -> Float32:
    """Noise around a mean that differs between the sets, the more so the later the layer."""
    text = conversation[-1].content
    noise = np.random.default_rng([layer, *text.encode()]).standard_normal(HIDDEN)
    # In layer 0 there is nothing to be found.
    shift = layer * 0.35 * (text in POSITIVE)
    return np.asarray(noise + shift + 3, dtype=np.float32)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(LAYERS, {}, rows=stream, hidden=HIDDEN)


def rows(texts: list[str], layer: int) -> npt.NDArray[np.float64]:
    from rosi_edge.runtime.engine import ask

    return np.stack([stream(ask(text), layer) for text in texts]).astype(np.float64)


def test_unit_difference_of_means(engine: FakeEngine) -> None:
    found = extract_directions(engine, POSITIVE, NEGATIVE)
    assert found.vectors.shape == (LAYERS, HIDDEN)
    assert (found.positive, found.negative, found.elicitation) == (21, 24, None)
    for layer in range(LAYERS):
        difference = rows(POSITIVE, layer).mean(axis=0) - rows(NEGATIVE, layer).mean(axis=0)
        length = np.linalg.norm(difference)
        np.testing.assert_allclose(found.vectors[layer], difference / length, rtol=1e-5, atol=1e-6)
        assert np.linalg.norm(found.vectors[layer]) == pytest.approx(1, abs=1e-6)
        assert found.separation[layer].layer == layer
        assert found.separation[layer].norm == pytest.approx(length, rel=1e-5)


def test_separation_is_measured_on_left_out_prompts(engine: FakeEngine) -> None:
    found = extract_directions(engine, POSITIVE, NEGATIVE)
    for layer, separation in enumerate(found.separation):
        high, low = rows(POSITIVE, layer), rows(NEGATIVE, layer)
        scores: list[float] = []
        labels: list[int] = []
        for fitted, tested in ((0, 1), (1, 0)):
            direction = high[fitted::2].mean(axis=0) - low[fitted::2].mean(axis=0)
            direction /= np.linalg.norm(direction)
            for label, group in ((1, high), (0, low)):
                scores += (group[tested::2] @ direction).tolist()
                labels += [label] * len(group[tested::2])
        assert separation.auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
        p = np.array([score for score, label in zip(scores, labels, strict=True) if label])
        q = np.array([score for score, label in zip(scores, labels, strict=True) if not label])
        d_prime = (p.mean() - q.mean()) / np.sqrt((p.std() ** 2 + q.std() ** 2) / 2)
        assert separation.d_prime == pytest.approx(d_prime, rel=1e-6)
        a, b = high.mean(axis=0), low.mean(axis=0)
        assert separation.cosine_of_means == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    # Nothing there: near chance, although 40 dimensions could be made to fit 45 prompts.
    assert 0.3 < found.separation[0].auc < 0.7
    assert abs(found.separation[0].d_prime) < 1
    assert found.separation[4].auc > 0.99
    assert found.separation[4].d_prime > found.separation[2].d_prime > found.separation[0].d_prime


def test_elicitation_is_the_system_prompt_of_every_request(engine: FakeEngine) -> None:
    found = extract_directions(engine, POSITIVE, NEGATIVE, elicitation=DEFAULT_ELICITATION)
    assert found.elicitation == DEFAULT_ELICITATION
    assert len(engine.conversations) == len(POSITIVE) + len(NEGATIVE)
    for conversation in engine.conversations:
        system, user = conversation
        assert (system.role, system.content) == (Role.SYSTEM, DEFAULT_ELICITATION)
        assert user.role is Role.USER


@pytest.mark.parametrize(("positive", "negative"), [(0, 5), (5, 0), (1, 5), (5, 1)])
def test_too_few_prompts(engine: FakeEngine, positive: int, negative: int) -> None:
    with pytest.raises(PromptSetError, match=f"{positive} and {negative} prompts"):
        extract_directions(engine, POSITIVE[:positive], NEGATIVE[:negative])


@pytest.mark.parametrize("number", [2, 3])
def test_the_fewest_prompts(engine: FakeEngine, number: int) -> None:
    found = extract_directions(engine, POSITIVE[:number], NEGATIVE[:number])
    figures = [(entry.norm, entry.cosine_of_means, entry.d_prime, entry.auc) for entry in found.separation]
    assert np.isfinite(figures).all()


def test_equal_sets_give_finite_figures() -> None:
    engine = FakeEngine(2, {}, rows=lambda conversation, layer: np.ones(8, dtype=np.float32), hidden=8)
    found = extract_directions(engine, POSITIVE, NEGATIVE)
    assert np.isfinite(found.vectors).all()
    assert found.separation[0].norm == 0
    assert np.isfinite([found.separation[0].d_prime, found.separation[0].auc]).all()


def test_control_vector_is_readable_by_gguf_py(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((4, 16)).astype(np.float32)
    separation = tuple(LayerSeparation(layer, 1.0, 0.5, 2.0, 0.9) for layer in range(4))
    path = tmp_path / "direction.gguf"
    write_control_vector(
        path,
        Directions(vectors, separation, 50, 60, "Be safe."),
        architecture="qwen2",
        source_sha256="ab" * 32,
    )
    reader = gguf.GGUFReader(path)
    facts = {key: field.contents() for key, field in reader.fields.items()}
    assert facts["general.architecture"] == "controlvector"
    assert facts["controlvector.model_hint"] == "qwen2"
    assert facts["controlvector.layer_count"] == 3
    assert facts["rosi.source.sha256"] == "ab" * 32
    assert facts["rosi.direction.elicitation"] == "Be safe."
    assert (facts["rosi.direction.positive_prompts"], facts["rosi.direction.negative_prompts"]) == (50, 60)
    # llama.cpp has no vector for block 0 and rejects a file that names one.
    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2", "direction.3"]
    for layer, tensor in enumerate(reader.tensors, 1):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        np.testing.assert_array_equal(np.asarray(tensor.data), vectors[layer])
    assert [entry.name for entry in tmp_path.iterdir()] == ["direction.gguf"]
