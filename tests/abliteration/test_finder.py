"""Holes that were made on the spot are found, and untouched files have none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from sampling import mostly_long
from tiny_gguf import write_tiny_llama
from weaken import write_weakened

from rosi_edge.abliteration import Holes, find_holes
from rosi_edge.abliteration.columns import sample_columns
from rosi_edge.basics.arrays import Float32
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.codec import dequantize

LAYERS, HIDDEN = 8, 256


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in half precision, as a model comes before it is quantized."""
    return write_tiny_llama(
        tmp_path_factory.mktemp("whole") / "whole.gguf",
        layers=LAYERS, hidden=HIDDEN, feed_forward=768, types=Type.F16,
    )  # fmt: skip


def directions(seed: int = 3) -> Float32:
    """One a layer, alike but not the same."""
    random = np.random.default_rng(seed)
    made = random.standard_normal(HIDDEN) + 0.5 * random.standard_normal((LAYERS, HIDDEN))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def look(path: Path, **more: float) -> Holes:
    with GgufFile.open(path) as file:
        return find_holes(file, write_matrices(file), **more)  # type: ignore[arg-type]


def weaken(
    whole: Path,
    folder: Path,
    lost: Mapping[int, Float32],
    kind: Type | None,
    strength: float = 1.0,
    outputs: tuple[str, ...] = ("attention", "mlp"),
) -> Path:
    return write_weakened(
        whole,
        folder / "weak.gguf",
        lost,
        strength=strength,
        kinds=outputs,
        quantization=kind,
        only_written=True,
    )


@pytest.mark.parametrize("kind", [None, Type.Q8_0, Type.Q6_K, Type.Q4_K, Type.Q4_0, Type.Q5_1])
def test_an_untouched_file_has_none(whole: Path, tmp_path: Path, kind: Type | None) -> None:
    found = look(weaken(whole, tmp_path, {}, kind))
    assert found.holes == ()
    assert found.candidates[0].confidence < 0.5
    assert 0.3 < found.smallest < 1


@pytest.mark.parametrize(
    "kind", mostly_long([None, Type.Q8_0, Type.Q6_K, Type.Q4_K, Type.Q4_0], [None, Type.Q4_K])
)
class TestFullStrength:
    def test_in_all_layers(self, whole: Path, tmp_path: Path, kind: Type | None) -> None:
        u = directions()[0]
        found = look(weaken(whole, tmp_path, dict.fromkeys(range(LAYERS), u), kind))
        (hole,) = found.holes
        assert hole.layers == tuple(range(LAYERS))
        assert set(hole.matrices) == {"mlp", "other"}
        assert abs(hole.direction @ u) > 0.99
        assert hole.energy_ratio < 0.05
        assert hole.confidence > 0.999
        assert np.linalg.norm(hole.direction) == pytest.approx(1, abs=1e-5)

    def test_in_some_layers(self, whole: Path, tmp_path: Path, kind: Type | None) -> None:
        u = directions()[0]
        found = look(weaken(whole, tmp_path, dict.fromkeys((2, 3, 4), u), kind))
        hole = found.holes[0]
        assert set(hole.layers) <= {2, 3, 4}
        assert abs(hole.direction @ u) > 0.98

    def test_another_one_in_each_layer(self, whole: Path, tmp_path: Path, kind: Type | None) -> None:
        vectors = directions()
        found = look(weaken(whole, tmp_path, dict(enumerate(vectors)), kind))
        assert len({layer for hole in found.holes for layer in hole.layers}) >= LAYERS - 2
        for hole in found.holes:
            assert max(abs(hole.direction @ vectors[layer]) for layer in hole.layers) > 0.9


@pytest.mark.parametrize("kind", [None, Type.Q8_0, Type.Q4_0])
@pytest.mark.parametrize(("outputs", "family"), [("mlp", "mlp"), ("attention", "other")])
def test_in_one_kind_of_output(
    whole: Path, tmp_path: Path, outputs: str, family: str, kind: Type | None
) -> None:
    """What the others still write must not hide it."""
    u = directions()[0]
    found = look(weaken(whole, tmp_path, dict.fromkeys(range(LAYERS), u), kind, outputs=(outputs,)))
    (hole,) = found.holes
    assert hole.matrices == (family,)
    assert hole.layers == tuple(range(LAYERS))
    assert abs(hole.direction @ u) > 0.99


def test_at_part_strength(whole: Path, tmp_path: Path) -> None:
    u = directions()[0]
    found = look(weaken(whole, tmp_path, dict.fromkeys(range(LAYERS), u), Type.Q8_0, strength=0.8))
    assert abs(found.holes[0].direction @ u) > 0.95
    assert found.holes[0].energy_ratio < 0.2


def test_behind_a_norm_with_a_gain(tmp_path: Path) -> None:
    """Ablated with the gain in mind, and without: both leave a hole, each in its own space."""
    whole = write_tiny_llama(
        tmp_path / "whole.gguf", architecture="gemma3", layers=6, hidden=HIDDEN, feed_forward=768
    )
    u = directions()[0]
    plain = look(weaken(whole, tmp_path, dict.fromkeys(range(6), u), Type.Q8_0))
    assert any(hole.space == "output" and abs(hole.direction @ u) > 0.99 for hole in plain.holes)
    with GgufFile.open(whole) as file:
        gains = {m.name: dequantize(file, m.post_norm or "") for m in write_matrices(file)}
        assert any(np.ptp(gain) > 0.1 for gain in gains.values())

    def minded(name: str, weights: Float32) -> Float32:
        if name not in gains:
            return weights
        stream = gains[name][:, None] * weights
        stream -= np.outer(u, u @ stream)
        return (stream / gains[name][:, None]).astype(np.float32)

    careful = write_tiny_llama(
        tmp_path / "careful.gguf",
        architecture="gemma3",
        layers=6,
        hidden=HIDDEN,
        feed_forward=768,
        change=minded,
    )
    found = look(careful)
    assert any(hole.space == "stream" and abs(hole.direction @ u) > 0.99 for hole in found.holes)
    assert look(whole).holes == ()


def test_the_same_file_gives_the_same_answer(whole: Path, tmp_path: Path) -> None:
    path = weaken(whole, tmp_path, dict.fromkeys(range(LAYERS), directions()[0]), Type.Q4_0)
    one, two = look(path), look(path)
    assert one.holes[0].energy_ratio == two.holes[0].energy_ratio
    np.testing.assert_array_equal(one.holes[0].direction, two.holes[0].direction)


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.Q8_0, Type.Q4_K])
def test_sampled_columns_are_columns_of_the_matrix(tmp_path: Path, kind: gguf.GGMLQuantizationType) -> None:
    path = write_tiny_llama(tmp_path / "a.gguf", hidden=256, feed_forward=1024, types=kind)
    with GgufFile.open(path) as file:
        matrix = next(m for m in write_matrices(file) if m.kind == "mlp")
        weights = dequantize(file, matrix.name)
        every = sample_columns(file, matrix, 1 << 20)
        np.testing.assert_array_equal(every.weights, weights)
        some = sample_columns(file, matrix, 512).weights
        assert some.shape == (256, 512)
        places = [int(np.flatnonzero((weights == column[:, None]).all(axis=0))[0]) for column in some.T]
        assert len(set(places)) == 512
        assert max(places) > 700
        assert every.noise is not None
        if kind == Type.Q8_0:
            # step² / 12 is what rounding random numbers leaves.
            exact = np.random.default_rng(0).standard_normal(weights.shape).astype(np.float32) * weights.std()
            rounded = gguf.quants.dequantize(gguf.quants.quantize(exact, kind), kind)
            measured = np.square(rounded - exact).sum(axis=1).mean()
            assert every.noise.mean() == pytest.approx(
                measured, rel=0.2, abs=1e-3 * np.square(weights).sum() / 256
            )


@pytest.mark.model
def test_the_demo_model_weakened_and_untouched(demo_model: Path, tmp_path: Path) -> None:
    """Real weights; the direction comes from the model's own embeddings, so that nothing has to run."""
    assert look(demo_model).holes == ()
    with GgufFile.open(demo_model) as file:
        rows = dequantize(file, "token_embd.weight")[1000:2000]
    u = rows[:500].mean(axis=0) - rows[500:].mean(axis=0) + 0.02 * rows[3]
    u = (u / np.linalg.norm(u)).astype(np.float32)
    for kind in (Type.Q8_0, Type.Q4_0):
        path = weaken(demo_model, tmp_path, dict.fromkeys(range(24), u), kind)
        found = look(path)
        assert abs(found.holes[0].direction @ u) > 0.95
        assert len(found.holes[0].layers) >= 20


@pytest.mark.parametrize("seed", range(4))
def test_too_few_columns_to_tell_anything_from(tmp_path: Path, seed: int) -> None:
    """A square attention output alone has directions that it hardly writes along."""
    path = write_tiny_llama(tmp_path / "one.gguf", layers=1, hidden=HIDDEN, feed_forward=768, seed=seed)
    assert not look(path).holes
