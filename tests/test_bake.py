"""The bake: what changes, what stays, and whether the reported figures are what numpy finds in the file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import baking
import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as T
from plain_llama import high_level_llama
from sampling import mostly_long
from tiny_gguf import write_tiny_llama

from rosi_edge.baking import tensor as bake_module
from rosi_edge.baking.gguf import bake
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.baking.tensor import _LARGE_CHANGE, UndeliveredError, _short_of
from rosi_edge.basics.arrays import Float32
from rosi_edge.edits.rank_one import MOST_DIRECTIONS, RankOneEdit
from rosi_edge.errors import OutputError, RosiEdgeError, UnsupportedModelError
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.grid_rounding import GridRounding, input_factor
from rosi_edge.quantization.promotion import Promotion, promotion_of
from rosi_edge.quantization.rounding import Requantize, Rounding
from rosi_edge.verification.gguf import verify

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
        baked = bake(
            file, target, edits, BakeSettings(rounding=Requantize(), probes=probes, metadata=METADATA)
        )
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

    runner = high_level_llama(target, n_ctx=64, n_threads=1)
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
    # The interval of a slope through nothing, were the inputs independent of each other.
    along = (probe @ edit.input) * (moved @ edit.output)
    square = np.square(probe @ edit.input) * (edit.output @ edit.output)
    errors = (along - slope * square) / square.mean()
    reach = 1.96 * errors.std() / np.sqrt(len(probe))
    assert result.estimate is not None
    assert (result.estimate.value, result.estimate.n) == (pytest.approx(result.delivered), len(probe))
    assert (result.estimate.high - result.estimate.low) / 2 == pytest.approx(reach, rel=0.5, abs=1e-4)
    noise = np.sqrt(np.mean((moved - wanted) ** 2) / np.mean(wanted**2))
    assert result.noise == pytest.approx(noise, rel=2e-3, abs=2e-3)


def test_full_precision_delivers_everything(tmp_path: Path) -> None:
    with GgufFile.open(model(tmp_path, "F32")) as file:
        edits = edits_of(file)
        baked = bake(
            file, tmp_path / "out.gguf", edits, BakeSettings(rounding=Requantize(), probes=probes_of(edits))
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
            file, tmp_path / "out.gguf", edits, BakeSettings(rounding=Requantize(), probes=probes_of(edits))
        )
    for tensor in baked:
        assert tensor.delivered < 0.5


def test_an_edit_of_nothing_has_no_figures_to_divide_by(tmp_path: Path) -> None:
    with GgufFile.open(model(tmp_path, "F16")) as file:
        edits = [edit.scaled(0.0) for edit in edits_of(file)]
        baked = bake(
            file, tmp_path / "out.gguf", edits, BakeSettings(rounding=Requantize(), probes=probes_of(edits))
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
        def round(self, tensor, kind, data, weights, change, *push):  # type: ignore[no-untyped-def]
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
            figures = bake(file, target, edits, BakeSettings(rounding=Watching(), probes=probes))
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
        def round(self, tensor, kind, data, weights, change, *push):  # type: ignore[no-untyped-def]
            if tensor.startswith("blk.1"):
                raise KeyboardInterrupt
            return super().round(tensor, kind, data, weights, change)

    source = model(tmp_path, "Q4_0")
    with GgufFile.open(source) as file:
        edits = edits_of(file)
        with pytest.raises(KeyboardInterrupt):
            bake(
                file, tmp_path / "out.gguf", edits, BakeSettings(rounding=Failing(), probes=probes_of(edits))
            )
        with pytest.raises(OutputError, match="overwrite the input"):
            bake(file, source, edits, BakeSettings(rounding=Requantize(), probes=probes_of(edits)))
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


# --- promotion -------------------------------------------------------------------------------------------

COARSE = {"attn_output": T.Q8_0, "ffn_down": T.Q2_K, "ffn_up": T.Q8_0}


def bake_coarse(
    folder: Path,
    promotion: Promotion,
    types: baking.Types = COARSE,
    rounding: Rounding | None = None,
) -> tuple[Path, Path, list[BakedTensor]]:
    source = baking.model(folder / "model.gguf", types)
    target = folder / "out.gguf"
    with GgufFile.open(source) as file:
        edits = baking.edits(file)
        results = bake(
            file,
            target,
            edits,
            BakeSettings(
                rounding=rounding or baking.rounding(edits),
                probes=baking.probes(edits),
                min_delivered=0.95,
                promotion=promotion,
            ),
        )
    return source, target, results


def test_a_tensor_too_coarse_for_its_edit_stops_the_bake(tmp_path: Path) -> None:
    with pytest.raises(UndeliveredError, match=r"delivers only 0\.\d+ of its edit.*--promote auto"):
        bake_coarse(tmp_path, "never", rounding=Requantize())
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_tensor_too_coarse_for_its_edit_gets_the_smallest_type_that_holds_it(tmp_path: Path) -> None:
    source, target, results = bake_coarse(tmp_path, "auto", rounding=Requantize())
    old, new = read(source), read(target)
    promoted = [result for result in results if result.promoted_from]
    assert {(result.promoted_from, result.type) for result in promoted} == {("Q2_K", "Q3_K")}
    for result in results:
        assert result.delivered >= 0.95
        assert new[result.name].tensor_type.name == result.type
        assert old[result.name].tensor_type.name == (result.promoted_from or result.type)
    assert set(old) == set(new)
    for name in set(old) - {result.name for result in results}:
        assert np.array_equal(np.asarray(old[name].data), np.asarray(new[name].data))
    with GgufFile.open(source) as base:
        edits = {edit.tensor: edit for edit in baking.edits(base)}
        found = verify(target, base)
        assert found.passed, found.problems
        scales = {check.name: check.scales for check in found.tensors}
        assert {name for name, kind in scales.items() if kind == "promoted"} == {
            result.name for result in promoted
        }
    for result in promoted:
        # It answers inputs as the edited tensor would.
        probe = baking.inputs(len(edits[result.name].input), 200, 2)
        change = floats(new[result.name]) - floats(old[result.name])
        check_figures(result, edits[result.name], probe, change)
    runner = high_level_llama(target, n_ctx=64, n_threads=1)
    assert runner.create_completion("Hi", max_tokens=2)["usage"]["completion_tokens"] >= 1
    runner.close()
    content = bytearray(target.read_bytes())
    with GgufFile.open(target) as file:
        places = [file.tensors[promoted[0].name].offset + 3, file.tensors[promoted[0].name].end - 1]
    with GgufFile.open(source) as base:
        for place in places:
            content[place] ^= 1
            target.write_bytes(content)
            assert not verify(target, base).passed
            content[place] ^= 1


RESCALED = [
    T.Q4_0,
    T.Q4_1,
    T.Q5_0,
    T.Q5_1,
    T.Q8_0,
    T.Q2_K,
    T.Q3_K,
    T.Q4_K,
    T.Q5_K,
    T.Q6_K,
    T.IQ4_NL,
    T.IQ4_XS,
    T.MXFP4,
]


@pytest.mark.parametrize(
    "kind", mostly_long(RESCALED, [T.Q4_0, T.Q8_0, T.Q4_K, T.IQ4_NL]), ids=lambda kind: kind.name
)
def test_an_edit_larger_than_the_steps_gets_other_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: T
) -> None:
    source = baking.model(tmp_path / "model.gguf", kind)
    noise = {}
    for name, limit in (("kept", np.inf), ("rescaled", _LARGE_CHANGE)):
        monkeypatch.setattr(bake_module, "_LARGE_CHANGE", limit)
        target = tmp_path / f"{name}.gguf"
        with GgufFile.open(source) as file:
            edits = baking.edits(file, share=1.5)
            results = bake(
                file,
                target,
                edits,
                BakeSettings(rounding=baking.rounding(edits), probes=baking.probes(edits)),
            )
            other = tmp_path / "requantized.gguf"
            requantized = bake(file, other, edits, BakeSettings(Requantize(), baking.probes(edits)))
            found = verify(target, file)
        noise[name] = max(result.noise for result in results)
        assert {result.rescaled for result in results} == {name == "rescaled"}
        assert {result.promoted_from for result in results} == {None}
        assert {check.scales for check in found.tensors} == {
            "rescaled" if name == "rescaled" else "untouched"
        }
        assert bool(found.notes) == (name == "rescaled")
        if name == "rescaled":
            assert found.passed, found.problems
    old, new = read(source), read(target)
    for edit, result, plain in zip(edits, results, requantized, strict=True):
        assert result.delivered == pytest.approx(1, abs=0.02)
        assert result.noise < 0.8 * plain.noise
        change = floats(new[edit.tensor]) - floats(old[edit.tensor])
        check_figures(result, edit, baking.probes(edits)[edit.matrix], change)
    assert noise["rescaled"] < 0.5 * noise["kept"]


def test_a_small_edit_leaves_the_scales_alone(tmp_path: Path) -> None:
    source = baking.model(tmp_path / "model.gguf", T.Q4_K)
    with GgufFile.open(source) as file:
        edits = baking.edits(file)
        target = baking.baked(file, tmp_path / "out.gguf", edits)
        found = verify(target, file)
    assert {check.scales for check in found.tensors} == {"untouched"} and not found.notes


def test_what_is_too_little_of_an_edit() -> None:
    settings = BakeSettings(Requantize(), {}, min_delivered=0.9)
    full, half = BakedTensor("a", "Q4_0", 1.0, 0.5), BakedTensor("a", "Q4_0", 0.5, 0.5)
    drowned = BakedTensor("a", "Q4_0", 1.0, 9.0)
    experts = [BakedTensor(f"a[{i}]", "Q4_0", delivered, 9.0) for i, delivered in enumerate((0.7, 1.2))]
    short = _short_of
    assert short([full], settings) is None
    assert short([half], settings) == half
    assert short([drowned], settings) == drowned
    assert short(experts, settings) is None, "their mean is enough, and few inputs tell little of noise"
    assert short([half], replace(settings, min_delivered=0.0)) is None
    assert short([drowned], replace(settings, min_delivered=0.0)) is None


class OnlyFloats(GridRounding):
    """A rounding for which blocks hold no edit."""

    def round(self, tensor: str, kind: T, data: Any, *rest: Any) -> Any:
        return super().round(tensor, kind, data, *rest) if kind == T.F16 else data.copy()


def test_weights_of_zero_promoted_to_floats(tmp_path: Path) -> None:
    """Many weights of a Q5_0 block are zero, which as a float has no exponent to tell a step from."""
    types = {"ffn_down": T.Q5_0, "attn_output": T.Q5_0}
    source = baking.model(tmp_path / "base.gguf", types)
    with GgufFile.open(source) as file:
        edits = baking.edits(file)
    factors = {
        edit.matrix: input_factor(baking.inputs(len(edit.input), 400, 1), 64, edit.input) for edit in edits
    }
    source, target, results = bake_coarse(tmp_path, promotion_of("F16"), types, OnlyFloats(factors))
    assert {(result.promoted_from, result.type) for result in results} == {("Q5_0", "F16")}
    old = read(source)
    assert all(np.count_nonzero(floats(old[result.name]) == 0) > 1000 for result in results)
    assert all(result.noise < 0.02 and abs(result.delivered - 1) < 0.01 for result in results)
    with GgufFile.open(source) as base:
        found = verify(target, base)
    assert found.passed, found.problems
    assert all(check.largest_step is not None and check.largest_step < 2.6 for check in found.tensors)


def test_a_codebook_type_needs_a_promotion(tmp_path: Path) -> None:
    types = {"ffn_down": T.IQ3_S, "attn_output": T.Q8_0}
    with pytest.raises(UnsupportedModelError, match=r"codebook.*--promote IQ4_XS"):
        bake_coarse(tmp_path, "never", types)
    source, target, results = bake_coarse(tmp_path, "auto", types)
    assert {result.promoted_from for result in results} == {None, "IQ3_S"}
    with GgufFile.open(source) as base:
        assert verify(target, base).passed


def test_a_type_to_promote_to_can_be_named(tmp_path: Path) -> None:
    types = {"ffn_down": T.IQ3_S, "attn_output": T.Q8_0}
    _, _, results = bake_coarse(tmp_path, promotion_of("q6_k"), types)
    assert {result.type for result in results} == {"Q8_0", "Q6_K"}
    # It matters only for a tensor that needs it.
    assert {result.type for result in bake_coarse(tmp_path, promotion_of("Q8_0"), COARSE)[2]} == {
        "Q8_0",
        "Q2_K",
    }
    with pytest.raises(UnsupportedModelError, match="no larger"):
        bake_coarse(tmp_path, promotion_of("Q2_K"), types)
    with pytest.raises(RosiEdgeError, match="Choose auto, never or one of"):
        promotion_of("IQ1_S")


def test_what_arrives_on_aims_is_made_good(tmp_path: Path) -> None:
    """Rounding that has seen few inputs leans on them, and delivers less on others."""
    source = baking.model(tmp_path / "model.gguf", T.Q4_0)
    with GgufFile.open(source) as file:
        edits = baking.edits(file, 0.02)
        few = GridRounding(
            {
                edit.matrix: input_factor(baking.inputs(len(edit.input), 12, 1), 64, edit.input)
                for edit in edits
            }
        )
        aims = {edit.matrix: baking.inputs(len(edit.input), 200, 3) for edit in edits}
        off = []
        for target, given in (("plain.gguf", None), ("aimed.gguf", aims)):
            results = bake(
                file,
                tmp_path / target,
                edits,
                BakeSettings(rounding=few, probes=baking.probes(edits), aims=given or {}),
            )
            off.append(np.mean([abs(result.delivered - 1) for result in results]))
            found = verify(tmp_path / target, file)
            assert found.passed, found.problems
        assert off[1] < 0.6 * off[0]


# --- cancelling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 3, 10])
def test_the_listener_can_cancel_at_any_time(tmp_path: Path, after: int) -> None:
    class Listener:
        calls = 0

        @contextmanager
        def stage(self, description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
            def advance(units: int) -> None:
                self.calls += 1
                if self.calls > after:
                    raise KeyboardInterrupt

            yield advance

        def note(self, line: str) -> None:
            pass

    source = baking.model(tmp_path / "model.gguf", T.Q4_0)
    with GgufFile.open(source) as file:
        edits = baking.edits(file)
        with pytest.raises(KeyboardInterrupt):
            bake(
                file,
                tmp_path / "out.gguf",
                edits,
                BakeSettings(rounding=baking.rounding(edits), probes=baking.probes(edits)),
                progress=Listener(),
            )
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_progress_counts_tensors_and_bytes(tmp_path: Path) -> None:
    done: dict[str, list[int]] = {}

    class Listener:
        @contextmanager
        def stage(self, description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
            counts = done.setdefault(description, [total or 0, 0])

            def advance(units: int) -> None:
                counts[1] += units

            yield advance

        def note(self, line: str) -> None:
            pass

    source = baking.model(tmp_path / "model.gguf", T.Q4_0)
    with GgufFile.open(source) as file:
        edits = baking.edits(file)
        bake(
            file,
            tmp_path / "out.gguf",
            edits,
            BakeSettings(rounding=Requantize(), probes=baking.probes(edits)),
            progress=Listener(),
        )
    assert done["Rounding tensors"] == [len(edits), len(edits)]
    total, counted = done["Writing out.gguf"]
    assert counted == total == (tmp_path / "out.gguf").stat().st_size


def test_edits_that_do_not_fit_are_a_mistake(tmp_path: Path) -> None:
    with GgufFile.open(baking.model(tmp_path / "model.gguf", T.Q4_0)) as file:
        good = baking.edits(file)[0]
        for edits in (
            [good] * (MOST_DIRECTIONS + 1),
            [RankOneEdit("no.such", good.output, good.input)],
            [RankOneEdit(good.tensor, good.output[1:], good.input)],
            [RankOneEdit(good.tensor, good.output, good.input, expert=0)],
        ):
            with pytest.raises(ValueError):
                bake(file, tmp_path / "out.gguf", edits, BakeSettings(rounding=Requantize(), probes={}))


def test_each_matrix_is_told_as_it_is_rounded(tmp_path: Path) -> None:
    source = model(tmp_path, "Q4_K_M")
    told: list[BakedTensor] = []
    with GgufFile.open(source) as file:
        edits = edits_of(file)

        def rounded(result: BakedTensor) -> None:
            assert not (tmp_path / "hardened.gguf").exists(), "while the file is being written"
            told.append(result)

        baked = bake(
            file,
            tmp_path / "hardened.gguf",
            edits,
            BakeSettings(rounding=Requantize(), probes=probes_of(edits), metadata=METADATA),
            rounded=rounded,
        )
    assert sorted(told, key=lambda result: result.name) == sorted(baked, key=lambda result: result.name)


def test_whoever_is_told_can_cancel(tmp_path: Path) -> None:
    source = model(tmp_path, "Q4_K_M")
    told: list[str] = []

    def rounded(result: BakedTensor) -> None:
        told.append(result.name)
        raise KeyboardInterrupt

    with GgufFile.open(source) as file:
        edits = edits_of(file)
        with pytest.raises(KeyboardInterrupt):
            bake(
                file,
                tmp_path / "hardened.gguf",
                edits,
                BakeSettings(rounding=Requantize(), probes=probes_of(edits), metadata=METADATA),
                rounded=rounded,
            )
    assert len(told) == 1
    assert [path.name for path in tmp_path.iterdir()] == [source.name], "nothing is left behind"
