"""The verifier: sound files pass, and anything else fails, down to one byte."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import baking
import numpy as np
import pytest
from command import called, rosi_edge
from gguf import GGMLQuantizationType as T
from sampling import mostly_long

from rosi_edge.baking.bias_correction import corrected
from rosi_edge.baking.gguf import bake
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.basics.arrays import Bytes
from rosi_edge.edits.adapter import read_adapter, write_adapter
from rosi_edge.edits.declaration import PREFIX, read_declaration
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import ModelFileError
from rosi_edge.inspection import inspect
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import encode_field, rewrite
from rosi_edge.models.seal import SEAL_KEY, seal_of
from rosi_edge.quantization.codec import dequantize
from rosi_edge.quantization.grid import grid_of
from rosi_edge.quantization.rounding import Requantize, Rounding
from rosi_edge.verification.gguf import verify
from rosi_edge.verification.result import Verification

MIX = {"attn_output": T.Q5_0, "ffn_down": T.Q4_K, "ffn_up": T.Q8_0}
GRIDS = [
    T.F32,
    T.F16,
    T.BF16,
    T.Q8_0,
    T.Q6_K,
    T.Q5_1,
    T.Q4_0,
    T.Q4_K,
    T.IQ4_NL,
    T.MXFP4,
    T.Q3_K,
    T.Q2_K,
    T.TQ1_0,
]


def baked(
    folder: Path, types: baking.Types = MIX, rounding: Rounding | None = None, share: float = 0.1
) -> tuple[Path, Path, list[RankOneEdit]]:
    source = baking.model(folder / "base.gguf", types)
    target = folder / "out.gguf"
    with GgufFile.open(source) as file:
        edits = baking.edits(file, share)
        bake(
            file,
            target,
            edits,
            BakeSettings(
                rounding=rounding or baking.rounding(edits),
                probes=baking.probes(edits),
                metadata={
                    "rosi.strength": 0.5,
                    "rosi.source.sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
                },
            ),
        )
    return source, target, edits


def check(source: Path, target: Path, adapter: Path | None = None) -> Verification:
    with GgufFile.open(source) as base:
        return verify(target, base, adapter=adapter)


@pytest.mark.parametrize(
    "kind", mostly_long(GRIDS, [T.F32, T.F16, T.Q8_0, T.Q4_K, T.IQ4_NL, T.Q2_K]), ids=lambda kind: kind.name
)
def test_a_baked_file_passes(tmp_path: Path, kind: T) -> None:
    source, target, edits = baked(tmp_path, kind)
    found = check(source, target)
    assert found.passed, found.problems
    assert set(found.checks.values()) == {"passed"}
    assert found.rounding == "grid"
    assert [tensor.name for tensor in found.tensors] == [edit.matrix for edit in edits]
    with GgufFile.open(source) as old, GgufFile.open(target) as new:
        for tensor in found.tensors:
            change = dequantize(new, tensor.name) - dequantize(old, tensor.name)
            wanted = next(edit for edit in edits if edit.tensor == tensor.name).delta(1.0)
            assert tensor.changed == np.count_nonzero(change)
            assert tensor.along_edit == pytest.approx(
                float((change * wanted).sum() / (wanted * wanted).sum()), abs=1e-3
            )
            assert tensor.along_edit == pytest.approx(1, abs=0.03)
            assert tensor.scales == ("none" if kind in (T.F32, T.F16, T.BF16) else "untouched")


@pytest.mark.parametrize("kind", [T.F16, T.Q4_0, T.Q6_K, T.IQ4_XS, T.IQ3_S], ids=lambda kind: kind.name)
def test_a_requantized_file_passes_as_what_it_is(tmp_path: Path, kind: T) -> None:
    source, target, _ = baked(tmp_path, kind, Requantize())
    found = check(source, target)
    assert found.passed, found.problems
    assert {tensor.scales for tensor in found.tensors} == {"requantized"}
    assert any("scales moved" in note for note in found.notes)


def _importance(tmp_path: Path, kind: T) -> Requantize:
    """Where three columns count 100,000 times as much as others, as they do in real models."""
    with GgufFile.open(baking.model(tmp_path / "shapes.gguf", kind)) as file:
        edits = baking.edits(file)
    importance = {edit.matrix: np.ones((1, len(edit.input)), np.float32) for edit in edits}
    for columns in importance.values():
        columns[0, [3, 70, 200]] = 1e5
    return Requantize(importance)


@pytest.mark.parametrize("kind", [T.Q5_0, T.Q4_K, T.Q6_K, T.IQ4_XS, T.Q2_K], ids=lambda kind: kind.name)
def test_a_file_requantized_under_an_importance_matrix_passes(tmp_path: Path, kind: T) -> None:
    source, target, _ = baked(tmp_path, kind, _importance(tmp_path, kind))
    found = check(source, target)
    assert found.passed, found.problems


def test_a_requantized_file_with_rows_of_next_to_nothing(tmp_path: Path) -> None:
    source, target, _ = baked(tmp_path, T.Q4_K, _importance(tmp_path, T.Q4_K))
    name = check(source, target).tensors[0].name
    with GgufFile.open(target) as file:
        tensor = file.tensors[name]
        blocks = file.read_tensor(name).copy().reshape(tensor.shape[0], -1, 144)
    # Both scales of every other row.
    blocks[::2, :, :4] = np.tile(np.array([6e-8], np.float16).view(np.uint8), 2)
    content = bytearray(target.read_bytes())
    content[tensor.offset : tensor.end] = blocks.tobytes()
    target.write_bytes(content)
    sealed_again(target, {})
    found = check(source, target)
    assert f"{name} has finer scales, or other minima, than the declared edit needs" in found.problems


def test_the_hardened_file_and_its_base_swapped(tmp_path: Path) -> None:
    source, target, _ = baked(tmp_path)
    (problem,) = check(target, source).problems
    assert "name the hardened file first" in problem
    (problem,) = check(source, source).problems
    assert "--adapter" in problem


def test_of_another_base_that_is_said_first(tmp_path: Path) -> None:
    _, target, _ = baked(tmp_path)
    (tmp_path / "other").mkdir()
    other = baking.model(tmp_path / "other" / "other.gguf", T.Q8_0)
    assert check(other, target).problems[0].startswith("other.gguf is not the file that was hardened")


def test_the_declared_edit_is_the_edit(tmp_path: Path) -> None:
    source, target, edits = baked(tmp_path)
    with GgufFile.open(target) as file:
        declaration = read_declaration(file)
        assert declaration is not None
        for ours, declared in zip(edits, declaration.edits, strict=True):
            assert ours.matrix == declared.matrix
            np.testing.assert_array_equal(ours.output, declared.output)
            np.testing.assert_array_equal(ours.input, declared.input)
        # What is for the verifier is not shown to people.
        shown = inspect(file).hardened
        assert shown is not None and f"{PREFIX}inputs" not in shown and f"{PREFIX}rounding" in shown
    with GgufFile.open(source) as file:
        assert read_declaration(file) is None
    # Two vectors a tensor, of which the outputs are shared: the file grows by little more than the inputs.
    growth = target.stat().st_size - source.stat().st_size
    assert growth < 1.5 * sum(4 * len(edit.input) for edit in edits) + 4096


def test_one_flipped_byte_anywhere_fails(tmp_path: Path) -> None:
    source, target, _ = baked(tmp_path)
    content = bytearray(target.read_bytes())
    draw = random.Random(3)
    with GgufFile.open(target) as file:
        data, table = file.data_offset, file.tensor_table
        tensors = list(file.tensors.values())
        seal = file.fields[SEAL_KEY]
        own = [field for key, field in file.fields.items() if key.startswith("rosi.")]
    places = {0, 4, 8, 9, 15, 16, 23, table[0], table[1] - 1, data - 1, data, len(content) - 1, seal.end - 1}
    places |= {draw.randrange(field.start, field.end) for field in own}
    places |= {draw.randrange(tensor.offset, tensor.end) for tensor in tensors for _ in range(2)}
    places |= {draw.randrange(*table) for _ in range(20)} | {draw.randrange(data) for _ in range(40)}
    places |= {tensor.end for tensor in tensors if tensor.end < len(content)}
    broken = tmp_path / "broken.gguf"
    with GgufFile.open(source) as base:
        assert verify(target, base).passed
        for place in sorted(places):
            flipped = content.copy()
            flipped[place] ^= 1 << draw.randrange(8)
            broken.write_bytes(flipped)
            found = verify(broken, base)
            assert not found.passed and found.problems, f"byte {place}"
        for other in (content[:-1], content + b"\0", content[: data // 2]):
            broken.write_bytes(other)
            assert not verify(broken, base).passed


def test_one_flipped_byte_of_the_base_fails(tmp_path: Path) -> None:
    source, target, edits = baked(tmp_path)
    content = bytearray(source.read_bytes())
    with GgufFile.open(source) as file:
        places = [
            file.tensors[edits[1].tensor].offset + 40,
            file.fields["general.name"].end - 1,
            file.size - 5,
        ]
    other = tmp_path / "other.gguf"
    for place in places:
        flipped = content.copy()
        flipped[place] ^= 1
        other.write_bytes(flipped)
        assert not check(other, target).passed


def sealed_again(path: Path, changes: dict[str, object]) -> None:
    """Rewrite the declaration's hashes and the seal, as somebody would who changes a file on purpose."""
    content = bytearray(path.read_bytes())
    with GgufFile.open(path) as file:
        declaration = read_declaration(file)
        assert declaration is not None
        new = [hashlib.sha256(file.tensor_bytes(tensor.name)).hexdigest() for tensor in declaration.tensors]
        values: dict[str, object] = {f"{PREFIX}sha256": new} | changes
        for key, value in values.items():
            field = file.fields[key]
            raw = encode_field(key, value)  # type: ignore[arg-type]
            assert len(raw) == field.end - field.start
            content[field.start : field.end] = raw
        end, data = file.fields[SEAL_KEY].end, file.data_offset
    content[end - 64 : end] = seal_of(bytes(content[:data]), end)
    path.write_bytes(content)


def other_scale(tensor: Bytes, edit: RankOneEdit) -> None:
    tensor[0] ^= 4


def far_code(tensor: Bytes, edit: RankOneEdit) -> None:
    # Q5_0: the fifth bit of a code is sixteen steps.
    tensor[2:6] ^= 0xFF


@pytest.mark.parametrize(
    ("change", "problem"), [(other_scale, "has other scales"), (far_code, "steps from the declared edit")]
)
def test_a_tensor_changed_on_purpose_and_sealed_again_fails(
    tmp_path: Path, change: Callable[[Bytes, RankOneEdit], None], problem: str
) -> None:
    source, target, edits = baked(tmp_path)
    content = np.fromfile(target, dtype=np.uint8)
    with GgufFile.open(target) as file:
        tensor = file.tensors[edits[0].tensor]
        assert tensor.type == T.Q5_0
    change(content[tensor.offset : tensor.end], edits[0])
    content.tofile(target)
    sealed_again(target, {})
    found = check(source, target)
    assert found.checks["seal"] == found.checks["hashes"] == "passed"
    assert any(problem in line for line in found.problems), found.problems


def test_an_edit_that_was_not_made_fails(tmp_path: Path) -> None:
    """The base's own bytes under a declaration, hashed and sealed: nothing along the edit is there."""
    source, target, edits = baked(tmp_path)
    content = target.read_bytes()
    with GgufFile.open(source) as old, GgufFile.open(target) as new:
        tensor = new.tensors[edits[1].tensor]
        content = content[: tensor.offset] + old.tensor_bytes(tensor.name).tobytes() + content[tensor.end :]
    target.write_bytes(content)
    sealed_again(target, {})
    found = check(source, target)
    assert found.checks["hashes"] == "passed"
    assert [line for line in found.problems if "holds 0.000 of the declared edit" in line]


def test_another_declared_edit_fails(tmp_path: Path) -> None:
    source, target, edits = baked(tmp_path)
    shuffled = np.concatenate([np.roll(edit.input, 7) for edit in edits])
    sealed_again(target, {f"{PREFIX}inputs": shuffled})
    found = check(source, target)
    assert found.checks["seal"] == "passed"
    assert not found.passed


def test_an_added_key_or_a_changed_one_fails(tmp_path: Path) -> None:
    source, target, _ = baked(tmp_path)
    for metadata, word in (
        ({"general.name": "Another"}, "another value"),
        ({"general.author": "Me"}, "added"),
    ):
        other = tmp_path / "other.gguf"
        with GgufFile.open(target) as file:
            rewrite(file, other, tensors={}, metadata=metadata, sealed=True)
        found = check(source, other)
        assert found.checks["seal"] == "passed"
        assert any(word in line for line in found.problems)


def test_hostile_declarations_are_findings(tmp_path: Path) -> None:
    source, target, _ = baked(tmp_path)
    with GgufFile.open(target) as file:
        names = list(read_declaration(file).tensors)  # type: ignore[union-attr]
        changes = {
            "format": 7,
            "tensors": ["no.such.weight"] * len(names),
            "tensor_of": [2**31] * 4,
            "output_of": [-1] * 4,
            "outputs": np.full(512, np.nan, dtype=np.float32),
            "inputs": "text",
            "sha256": ["a"],
            "base_sha256": 5,
            "rounding": True,
        }
        for key, value in changes.items():
            other = tmp_path / "other.gguf"
            rewrite(file, other, tensors={}, metadata={PREFIX + key: value}, sealed=True)
            found = check(source, other)
            assert not found.passed, key


def test_hostile_words_about_scales_are_findings(tmp_path: Path) -> None:
    source, target, _ = baked(tmp_path)
    with GgufFile.open(target) as file:
        for value in ([2] * 4, [-1] * 4, [0] * 3, [0.5] * 4, "text", 1):
            other = tmp_path / "other.gguf"
            rewrite(file, other, tensors={}, metadata={f"{PREFIX}rescaled": value}, sealed=True)
            found = check(source, other)
            assert not found.passed, value


def test_files_that_declare_nothing(tmp_path: Path, tiny_model: Path) -> None:
    found = check(tiny_model, tiny_model)
    assert not found.passed
    assert "does not declare" in found.problems[0]
    source, target, _ = baked(tmp_path)
    assert not check(tiny_model, target).passed
    with pytest.raises(ModelFileError, match="does not exist"):
        check(source, tmp_path / "nothing.gguf")


def test_base_and_adapter(tmp_path: Path) -> None:
    source, target, edits = baked(tmp_path)
    adapter = tmp_path / "adapter.gguf"
    write_adapter(adapter, edits, architecture="llama")
    with GgufFile.open(adapter) as file:
        for ours, back in zip(edits, read_adapter(file), strict=True):
            assert (ours.tensor, ours.expert) == (back.tensor, back.expert)
            np.testing.assert_array_equal(ours.output, back.output)
            np.testing.assert_array_equal(ours.input, back.input)
    found = check(source, target, adapter)
    assert found.passed and found.checks["adapter"] == "passed"
    write_adapter(adapter, [edit.scaled(-1.0) for edit in edits], architecture="llama")
    assert not check(source, target, adapter).passed
    write_adapter(adapter, edits[1:], architecture="llama")
    assert not check(source, target, adapter).passed


def test_an_adapter_stands_in_for_a_missing_declaration(tmp_path: Path) -> None:
    source, target, edits = baked(tmp_path)
    bare = tmp_path / "bare.gguf"
    with GgufFile.open(source) as old, GgufFile.open(target) as new:
        rewrite(
            old,
            bare,
            tensors={edit.tensor: lambda name=edit.tensor: new.read_tensor(name) for edit in edits},  # type: ignore[misc]
            metadata={},
        )
    adapter = tmp_path / "adapter.gguf"
    write_adapter(adapter, edits, architecture="llama")
    assert not check(source, bare).passed
    found = check(source, bare, adapter)
    assert found.passed, found.problems
    assert any("no hashes" in note for note in found.notes)
    write_adapter(adapter, [edit.scaled(3.0) for edit in edits], architecture="llama")
    assert not check(source, bare, adapter).passed


def test_the_command(tmp_path: Path) -> None:
    source, target, _ = baked(tmp_path)
    result = rosi_edge(tmp_path, "verify", target, "--base", source, "--json")
    assert (result.code, result.error) == (0, "")
    report = json.loads(result.out)
    assert report["passed"] is True and len(report["tensors"]) == 4
    assert "and nothing else" in called(tmp_path, "verify", target, "--base", source).out
    content = bytearray(target.read_bytes())
    content[-100] ^= 1
    target.write_bytes(content)
    result = called(tmp_path, "verify", target, "--base", source, "--json")
    assert (result.code, result.error) == (1, "")
    assert json.loads(result.out)["passed"] is False
    assert called(tmp_path, "verify", target, "--base", source).code == 1
    target.write_bytes(struct.pack("<4sI", b"GGUF", 3))
    assert called(tmp_path, "verify", target, "--base", source).code == 1
    assert called(tmp_path, "verify", tmp_path / "nothing", "--base", source).code == 2
    assert called(tmp_path, "verify", source, "--base", target).code == 2
    assert called(tmp_path, "verify", source).code == 2


def test_other_scales_that_are_coarser_than_the_edit_needs(tmp_path: Path) -> None:
    source, target, _ = baked(tmp_path, T.Q8_0, share=1.5)
    found = check(source, target)
    assert found.passed, found.problems
    name = next(tensor.name for tensor in found.tensors if tensor.scales == "rescaled")
    with GgufFile.open(target) as file:
        tensor = file.tensors[name]
        weights = dequantize(file, name)
        blocks = file.read_tensor(name).copy().reshape(-1, 34)
    # Eight times as coarse, and still every weight as near as such steps allow.
    scales = blocks[:, :2].copy().view(np.float16) * np.float16(8)
    codes = np.rint(weights.reshape(-1, 32) / scales.astype(np.float32)).astype(np.int8)
    blocks = np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], axis=1)
    content = bytearray(target.read_bytes())
    content[tensor.offset : tensor.end] = blocks.tobytes()
    target.write_bytes(bytes(content))
    sealed_again(target, {})
    found = check(source, target)
    assert found.problems == [f"{name} has coarser scales than the declared edit needs"]


@pytest.mark.parametrize("kind", [T.Q8_0, T.Q4_K], ids=lambda kind: kind.name)
def test_other_scales_that_are_too_fine_for_the_weights(tmp_path: Path, kind: T) -> None:
    """Rows of next to nothing: every weight is at the end of such a range of codes."""
    source, target, _ = baked(tmp_path, kind, share=3.0)
    found = check(source, target)
    assert found.passed, found.problems
    name = next(tensor.name for tensor in found.tensors if tensor.scales == "rescaled")
    with GgufFile.open(target) as file:
        tensor = file.tensors[name]
        blocks = file.read_tensor(name).copy().reshape(tensor.shape[0], -1, {T.Q8_0: 34, T.Q4_K: 144}[kind])
    # The scale, and of Q4_K that of the minima too, of every other row.
    blocks[::2, :, : 2 if kind is T.Q8_0 else 4] = np.tile(np.array([6e-8], np.float16).view(np.uint8), 2)[
        : 2 if kind is T.Q8_0 else 4
    ]
    content = bytearray(target.read_bytes())
    content[tensor.offset : tensor.end] = blocks.tobytes()
    target.write_bytes(bytes(content))
    sealed_again(target, {})
    found = check(source, target)
    assert f"{name} has finer scales, or other minima, than the declared edit needs" in found.problems


def test_a_file_hardened_again_declares_its_own_edits_alone(tmp_path: Path) -> None:
    source = baking.model(tmp_path / "base.gguf", MIX)
    with GgufFile.open(source) as file:
        wanted = baking.edits(file)
        seen = {edit.matrix: baking.inputs(len(edit.input), 100, 4) + np.float32(0.1) for edit in wanted}
        once = baking.baked(file, tmp_path / "once.gguf", corrected(wanted, seen, 0.1), declared=wanted)
    with GgufFile.open(once) as file:
        assert f"{PREFIX}asked_inputs" in file.metadata
        twice = baking.baked(file, tmp_path / "twice.gguf", wanted[:2])
    with GgufFile.open(twice) as file:
        assert f"{PREFIX}asked_inputs" not in file.metadata
        declaration = read_declaration(file)
    assert declaration is not None and len(declaration.edits) == 2
    found = check(once, twice)
    assert found.passed, found.problems


def forged(path: Path, base: Path, names: Sequence[str], share: float) -> None:
    """Take a direction out of edited matrices, inside what rounding may leave, and seal the file again."""
    direction = np.random.default_rng(11).standard_normal(256)
    direction /= np.linalg.norm(direction)
    content = bytearray(path.read_bytes())
    with GgufFile.open(path) as file, GgufFile.open(base) as original:
        for name in names:
            tensor = file.tensors[name]
            rows, columns = tensor.shape
            blocks, old = grid_of(tensor.type), file.read_tensor(name).reshape(rows, -1)
            grid = blocks.read(old, columns)
            steps = np.repeat(grid.step, grid.width, axis=1)
            taken = -share * np.outer(direction, direction @ dequantize(original, name)) / steps
            moved = np.floor(taken + np.random.default_rng(12).random(taken.shape))
            codes = np.clip(grid.codes + moved, grid.values.low, grid.values.high).astype(grid.codes.dtype)
            content[tensor.offset : tensor.end] = blocks.write(old, codes).tobytes()
    path.write_bytes(content)
    sealed_again(path, {})


@pytest.mark.parametrize("kind", [T.Q8_0, T.Q6_K, T.Q5_1, T.Q5_0], ids=lambda kind: kind.name)
def test_a_direction_taken_out_beside_the_edit_is_found(tmp_path: Path, kind: T) -> None:
    source, target, edits = baked(tmp_path, kind)
    assert check(source, target).passed
    forged(target, source, [edit.tensor for edit in edits], share=0.8 if kind != T.Q8_0 else 0.3)
    problems = check(source, target).problems
    assert any("beside the declared" in each or "beside the declared one" in each for each in problems)


def test_an_edit_that_removes_a_direction_is_no_hardening(tmp_path: Path) -> None:
    source = baking.model(tmp_path / "base.gguf", T.Q8_0)
    with GgufFile.open(source) as file:
        wanted = [
            RankOneEdit(edit.tensor, edit.output, -(edit.output @ dequantize(file, edit.tensor)) / 256)
            for edit in baking.edits(file)
        ]
        target = baking.baked(file, tmp_path / "out.gguf", wanted)
    assert any("no hardening" in problem for problem in check(source, target).problems)


def test_what_only_stows_away_in_the_header_is_found(tmp_path: Path) -> None:
    source, target, _ = baked(tmp_path)
    for key, value, word in (
        ("rosi.note", "a payload", "none that rosi-edge writes"),
        ("rosi.padding", " " * 20_000, "more than padding"),
        ("rosi.padding", "payload", "more than padding"),
        ("rosi.source.sha256", "", "which file it was made from"),
    ):
        with GgufFile.open(target) as file:
            other = tmp_path / "other.gguf"
            rewrite(file, other, tensors={}, metadata={key: value}, sealed=key != "rosi.padding")
        if key == "rosi.padding":
            with GgufFile.open(other) as file:
                end, data = file.fields[SEAL_KEY].end, file.data_offset
            content = bytearray(other.read_bytes())
            content[end - 64 : end] = seal_of(bytes(content[:data]), end)
            other.write_bytes(content)
        assert any(word in problem for problem in check(source, other).problems), key


def test_hashes_left_blank_prove_nothing(tmp_path: Path) -> None:
    source, target, edits = baked(tmp_path)
    for blank in ("0" * 64, ""):
        with GgufFile.open(target) as file:
            other = tmp_path / "other.gguf"
            rewrite(file, other, tensors={}, metadata={f"{PREFIX}sha256": [blank] * len(edits)}, sealed=True)
        assert not check(source, other).passed


@pytest.mark.parametrize("strength", [0.02, 3.0])
def test_an_adapter_of_another_strength_is_another(tmp_path: Path, strength: float) -> None:
    source, target, edits = baked(tmp_path)
    adapter = tmp_path / "lora.gguf"
    write_adapter(adapter, [edit.scaled(strength) for edit in edits], architecture="llama")
    assert any("of the strength" in problem for problem in check(source, target, adapter).problems)
