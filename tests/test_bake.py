"""The bake: what changes, what stays, and whether the reported figures are what numpy finds in the file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as T
from tiny_gguf import write_tiny_llama

from rosi_edge import bake as bake_module
from rosi_edge.bake import BakedTensor, bake
from rosi_edge.errors import OutputError
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.rounding import Requantize

Float32 = npt.NDArray[np.float32]

MIXES: dict[str, T | dict[str, T]] = {
    "F32": T.F32,
    "F16": T.F16,
    "BF16": T.BF16,
    "Q8_0": T.Q8_0,
    "Q4_0": T.Q4_0,
    "Q4_K_M": {
        "token_embd": T.Q6_K,
        "attn_q": T.Q4_K,
        "attn_k": T.Q5_0,
        "attn_v": T.Q8_0,
        "attn_output": T.Q4_K,
        "ffn_gate": T.Q4_K,
        "ffn_up": T.Q4_K,
        "ffn_down": T.Q6_K,
    },
    "IQ4": {"attn_output": T.IQ4_XS, "ffn_down": T.IQ4_NL, "ffn_up": T.Q4_K},
}
METADATA: dict[str, str | bool | int | float] = {
    "rosi.method": "rosi",
    "rosi.strength": 2.0,
    "rosi.layer": 1,
    "rosi.elicited": False,
}


def model(folder: Path, mix: str) -> Path:
    return write_tiny_llama(folder / "model.gguf", hidden=256, feed_forward=512, types=MIXES[mix])


def edits_of(file: GgufFile, size: float = 1.0) -> list[RankOneEdit]:
    random = np.random.default_rng(5)
    return [
        RankOneEdit(
            matrix.name,
            (size * random.standard_normal(256) / 16).astype(np.float32),
            (random.standard_normal(matrix.shape[1]) / 16).astype(np.float32),
        )
        for matrix in write_matrices(file)
    ]


def probes_of(edits: Sequence[RankOneEdit], count: int = 24) -> dict[str, Float32]:
    random = np.random.default_rng(6)
    return {
        edit.tensor: random.standard_normal((count, len(edit.input))).astype(np.float32) for edit in edits
    }


def read(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def floats(tensor: gguf.ReaderTensor) -> npt.NDArray[np.float64]:
    return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float64)


@pytest.mark.parametrize("mix", MIXES)
def test_only_the_edited_tensors_change(tmp_path: Path, mix: str) -> None:
    source = model(tmp_path, mix)
    before_hash = hashlib.sha256(source.read_bytes()).hexdigest()
    target = tmp_path / "hardened.gguf"
    with GgufFile.open(source) as file:
        edits = edits_of(file)
        probes = probes_of(edits)
        baked = bake(file, target, edits, rounding=Requantize(), probes=probes, metadata=METADATA)
        data_size = file.size - file.data_offset
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before_hash
    assert [tensor.name for tensor in baked] == [edit.tensor for edit in edits]

    old, new = read(source), read(target)
    assert list(old) == list(new)
    edited = {edit.tensor for edit in edits}
    for name in old:
        assert old[name].tensor_type == new[name].tensor_type
        assert old[name].shape.tolist() == new[name].shape.tolist()
        same = np.array_equal(np.asarray(old[name].data), np.asarray(new[name].data))
        assert same == (name not in edited), name
    with GgufFile.open(target) as file:
        assert file.size - file.data_offset == data_size

    reader, source_reader = gguf.GGUFReader(target), gguf.GGUFReader(source)
    for key, value in METADATA.items():
        assert reader.fields[key].contents() == value
    for key, field in source_reader.fields.items():
        if not key.startswith("GGUF."):
            assert reader.fields[key].contents() == field.contents()

    for edit, result in zip(edits, baked, strict=True):
        assert result.type == old[edit.tensor].tensor_type.name
        check_figures(result, edit, probes[edit.tensor], floats(new[edit.tensor]) - floats(old[edit.tensor]))

    runner = llama_cpp.Llama(str(target), n_ctx=64, verbose=False, n_threads=1)
    answer = runner.create_chat_completion([{"role": "user", "content": "Hi"}], max_tokens=2, temperature=0)
    assert answer["usage"]["completion_tokens"] >= 1
    runner.close()


def check_figures(
    result: BakedTensor, edit: RankOneEdit, probe: Float32, change: npt.NDArray[np.float64]
) -> None:
    """``delivered`` and ``noise`` as their docstring defines them, by least squares."""
    moved = probe @ change.T
    wanted = np.outer(probe @ edit.input, edit.output)
    push = moved @ edit.output / (edit.output @ edit.output)
    slope = np.linalg.lstsq((probe @ edit.input)[:, None], push, rcond=None)[0][0]
    assert result.delivered == pytest.approx(slope, rel=1e-3, abs=1e-4)
    noise = np.sqrt(np.mean((moved - wanted) ** 2) / np.mean(wanted**2))
    assert result.noise == pytest.approx(noise, rel=2e-3, abs=2e-3)


def test_full_precision_delivers_everything(tmp_path: Path) -> None:
    with GgufFile.open(model(tmp_path, "F32")) as file:
        edits = edits_of(file)
        baked = bake(
            file,
            tmp_path / "out.gguf",
            edits,
            rounding=Requantize(),
            probes=probes_of(edits),
            metadata={},
        )
    old, new = read(tmp_path / "model.gguf"), read(tmp_path / "out.gguf")
    for edit, result in zip(edits, baked, strict=True):
        assert result.delivered == pytest.approx(1, abs=1e-4)
        assert result.noise < 1e-3
        np.testing.assert_allclose(
            floats(new[edit.tensor]), floats(old[edit.tensor]) + edit.delta(1.0), rtol=1e-5, atol=1e-6
        )


def test_a_change_far_below_the_grid_is_reported_as_lost(tmp_path: Path) -> None:
    with GgufFile.open(model(tmp_path, "Q8_0")) as file:
        edits = edits_of(file, size=1e-5)
        baked = bake(
            file,
            tmp_path / "out.gguf",
            edits,
            rounding=Requantize(),
            probes=probes_of(edits),
            metadata={},
        )
    for tensor in baked:
        assert tensor.delivered < 0.5


def test_an_edit_of_nothing_has_no_figures_to_divide_by(tmp_path: Path) -> None:
    with GgufFile.open(model(tmp_path, "F16")) as file:
        edits = [edit.scaled(0.0) for edit in edits_of(file)]
        baked = bake(
            file,
            tmp_path / "out.gguf",
            edits,
            rounding=Requantize(),
            probes=probes_of(edits),
            metadata={},
        )
    assert {(tensor.delivered, tensor.noise) for tensor in baked} == {(0.0, 0.0)}
    assert all(
        np.array_equal(np.asarray(a.data), np.asarray(b.data))
        for a, b in zip(
            read(tmp_path / "model.gguf").values(), read(tmp_path / "out.gguf").values(), strict=True
        )
    )


def test_rows_are_rounded_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a bake is that of a chunk; the result does not depend on where chunks end."""
    seen: list[int] = []

    class Watching(Requantize):
        def round(self, tensor, kind, data, weights, change):  # type: ignore[no-untyped-def]
            assert len(data) == len(weights) == len(change)
            seen.append(weights.size)
            return super().round(tensor, kind, data, weights, change)

    results = {}
    with GgufFile.open(model(tmp_path, "Q4_K_M")) as file:
        edits = edits_of(file)
        probes = probes_of(edits)
        for limit in (1 << 22, 5000, 1):
            monkeypatch.setattr(bake_module, "_CHUNK_VALUES", limit)
            seen.clear()
            target = tmp_path / f"{limit}.gguf"
            figures = bake(file, target, edits, rounding=Watching(), probes=probes, metadata={})
            # A row is the smallest piece.
            assert max(seen) <= max(limit, 512)
            assert sum(seen) == sum(len(edit.output) * len(edit.input) for edit in edits)
            results[limit] = (target.read_bytes(), figures)
    first = results[1 << 22]
    for content, figures in results.values():
        assert content == first[0]
        for a, b in zip(figures, first[1], strict=True):
            assert (a.delivered, a.noise) == pytest.approx((b.delivered, b.noise), rel=1e-3)


def test_a_failing_rounding_leaves_nothing(tmp_path: Path) -> None:
    class Failing(Requantize):
        def round(self, tensor, kind, data, weights, change):  # type: ignore[no-untyped-def]
            if tensor.startswith("blk.1"):
                raise KeyboardInterrupt
            return super().round(tensor, kind, data, weights, change)

    source = model(tmp_path, "Q4_0")
    with GgufFile.open(source) as file:
        edits = edits_of(file)
        with pytest.raises(KeyboardInterrupt):
            bake(
                file,
                tmp_path / "out.gguf",
                edits,
                rounding=Failing(),
                probes=probes_of(edits),
                metadata={},
            )
        with pytest.raises(OutputError, match="overwrite the input"):
            bake(file, source, edits, rounding=Requantize(), probes=probes_of(edits), metadata={})
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
