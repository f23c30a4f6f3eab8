"""Importance matrices in both formats, written here by hand, and what they change."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.codec import dequantize_bytes, quantize
from rosi_edge.quantization.imatrix import importance_for, read_importance
from rosi_edge.quantization.rounding import Requantize


def modern(
    path: Path, sums: dict[str, np.ndarray], counts: dict[str, list[float]], kind: str = "imatrix"
) -> Path:
    writer = gguf.GGUFWriter(path, "none")
    writer.add_type(kind)
    for name, values in sums.items():
        writer.add_tensor(f"{name}.in_sum2", values.astype(np.float32))
        writer.add_tensor(f"{name}.counts", np.array(counts[name], dtype=np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def old(path: Path, entries: dict[str, tuple[int, list[float]]]) -> Path:
    parts = [struct.pack("<i", len(entries))]
    for name, (calls, values) in entries.items():
        raw = name.encode()
        parts.append(struct.pack("<i", len(raw)) + raw + struct.pack("<ii", calls, len(values)))
        parts.append(struct.pack(f"<{len(values)}f", *values))
    path.write_bytes(b"".join(parts) + struct.pack("<i", 100) + struct.pack("<i", 4) + b"text")
    return path


def test_both_formats_hold_means(tmp_path: Path) -> None:
    sums = {"a.weight": np.array([[2.0, 4.0]]), "e.weight": np.array([[3.0, 6.0], [0.0, 0.0]])}
    found = read_importance(modern(tmp_path / "m.gguf", sums, {"a.weight": [2], "e.weight": [3, 0]}))
    np.testing.assert_array_equal(found["a.weight"], [[1, 2]])
    # An expert that was never called counts alike everywhere.
    np.testing.assert_array_equal(found["e.weight"], [[1, 2], [1, 1]])
    found = read_importance(old(tmp_path / "m.dat", {"a.weight": (4, [2.0, 8.0])}))
    np.testing.assert_array_equal(found["a.weight"], [[0.5, 2]])


@pytest.mark.parametrize("keep", [0, 2, 4, 7, 15, 20, 26])
def test_truncated_and_other_files(tmp_path: Path, keep: int) -> None:
    path = old(tmp_path / "m.dat", {"a.weight": (4, [2.0, 8.0])})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelFileError):
        read_importance(path)


def test_what_is_no_importance_matrix(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_importance(tmp_path / "nothing")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_importance(tmp_path)
    with pytest.raises(ModelFileError, match="not an importance matrix"):
        read_importance(modern(tmp_path / "a.gguf", {}, {}, kind="model"))
    with pytest.raises(ModelFileError, match="damaged at"):
        read_importance(old(tmp_path / "m.dat", {"a.weight": (1, [float("nan")])}))
    with pytest.raises(ModelFileError, match="damaged at"):
        read_importance(old(tmp_path / "m.dat", {"a.weight": (1, [-1.0])}))
    content = struct.pack("<iii", 1, 1, 0) * 3
    (tmp_path / "m.dat").write_bytes(content)
    with pytest.raises(ModelFileError):
        read_importance(tmp_path / "m.dat")


def test_sums_that_are_no_floats(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "none")
    writer.add_type("imatrix")
    writer.add_tensor("a.weight.in_sum2", np.zeros(34, dtype=np.uint8), raw_dtype=T.Q8_0)
    writer.add_tensor("a.weight.counts", np.ones(1, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match="damaged at a"):
        read_importance(tmp_path / "m.gguf")


def test_it_has_to_be_of_the_model(tmp_path: Path, tiny_model: Path) -> None:
    with GgufFile.open(tiny_model) as file:
        matrices = write_matrices(file)
    first = matrices[0]
    sound = {first.name: np.ones((1, first.shape[1])), "other.weight": np.ones((1, 8))}
    path = modern(tmp_path / "m.gguf", sound, {name: [1.0] for name in sound})
    assert list(importance_for(path, matrices)) == [first.name]
    for sums, word in (
        ({first.name: np.ones((1, first.shape[1] - 1))}, f"columns for {first.name}"),
        ({"other.weight": np.ones((1, 8))}, "covers none of this model's write matrices"),
    ):
        path = modern(tmp_path / "m.gguf", sums, {name: [1.0] for name in sums})
        with pytest.raises(UnsupportedModelError, match=word):
            importance_for(path, matrices)


@pytest.mark.parametrize("kind", [T.Q4_0, T.Q4_K, T.IQ2_XS], ids=lambda kind: kind.name)
def test_important_columns_are_rounded_better(kind: T) -> None:
    random = np.random.default_rng(0)
    weights = random.standard_normal((8, 512)).astype(np.float32)
    importance = np.where(np.arange(512) % 4 == 0, 100.0, 1.0).astype(np.float32)
    data = np.zeros(
        (8, 512 // gguf.GGML_QUANT_SIZES[kind][0] * gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8
    )
    nothing = np.zeros_like(weights)
    rounded = Requantize({"w": importance[None]}).round("w", kind, data, weights, nothing)
    error = np.square(dequantize_bytes(rounded.reshape(-1), weights.shape, kind) - weights).mean(axis=0)
    assert error[importance > 1].mean() < 0.9 * error[importance == 1].mean()
    if kind == T.IQ2_XS:
        with pytest.raises(UnsupportedModelError, match="without an importance matrix"):
            Requantize({"other": importance[None]}).round("w", kind, data, weights, nothing)
    else:
        plain = Requantize({"other": importance[None]}).round("w", kind, data, weights, nothing)
        np.testing.assert_array_equal(plain.reshape(-1), quantize(weights, kind))
    with pytest.raises(UnsupportedModelError, match="importance matrix of this model"):
        Requantize({"w": importance[None, :100]}).round("w", kind, data, weights, nothing)
    with pytest.raises(UnsupportedModelError, match="importance matrix of this model"):
        Requantize({"w": importance[None]}).round("w[1]", kind, data, weights, nothing)
