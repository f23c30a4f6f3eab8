"""Edits baked into a checkpoint folder: what is edited arrives, everything else stays byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import baking
import numpy as np
import numpy.typing as npt
import pytest
from models.test_checkpoint import NAMES, folder, shard
from models.test_sources import Listener

from rosi_edge.baking import checkpoint as checkpoint_module
from rosi_edge.baking import tensor as module
from rosi_edge.baking.checkpoint import EDITS, bake_checkpoint, read_facts
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.baking.tensor import UndeliveredError
from rosi_edge.edits.adapter import read_adapter
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import ModelFileError, OutputError, UnsupportedModelError
from rosi_edge.models.checkpoint import Checkpoint, to_float32
from rosi_edge.models.checkpoint_files import INDEX, OWN_FACTS, SINGLE
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.codec import dequantize
from rosi_edge.quantization.grid_rounding import GridRounding, input_factor
from rosi_edge.quantization.rounding import Requantize, Rounding

DOWN = "blk.0.ffn_down.weight"


def edit(tensor: str = DOWN, columns: int = 6, size: float = 1.0) -> RankOneEdit:
    random = np.random.default_rng(1)
    output = random.standard_normal(4).astype(np.float32)
    return RankOneEdit(tensor, output, size * random.standard_normal(columns).astype(np.float32))


def probe(columns: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((40, columns)).astype(np.float32)


def write(
    source: Checkpoint,
    folder: Path,
    edits: list[RankOneEdit],
    rounding: Rounding | None = None,
    min_delivered: float | None = None,
) -> list[BakedTensor]:
    return bake_checkpoint(
        source,
        folder,
        edits,
        BakeSettings(
            rounding=rounding or Requantize(),
            probes={edit.tensor: probe(len(edit.input)) for edit in edits},
            metadata={"rosi.method": "conditional", "rosi.strength": 0.5},
            min_delivered=min_delivered,
        ),
    )


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("rows_at_a_time", [1, 1 << 21])
def test_only_the_edited_tensor_changes(
    dtype: str, rows_at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_VALUES", rows_at_a_time)
    path = folder(tmp_path / "old", content=shard(NAMES, dtype))
    (path / "tokenizer.json").write_text("{}", "utf-8")
    (path / "pytorch_model.bin").write_bytes(b"not copied")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    wanted = edit()
    with Checkpoint.open(path) as source:
        (result,) = write(source, tmp_path / "new", [wanted])
        weights = dequantize(source, DOWN).astype(np.float64)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    with Checkpoint.open(tmp_path / "new") as target:
        assert (target.path / "tokenizer.json").read_text("utf-8") == "{}"
        assert target.metadata["rosi.method"] == "conditional"
        assert target.metadata["rosi.strength"] == 0.5
        assert not (target.path / "pytorch_model.bin").exists()
        old, new = before[SINGLE], (target.path / SINGLE).read_bytes()
        assert len(old) == len(new)
        tensor = target.stored["model.layers.0.mlp.down_proj.weight"]
        span = slice(tensor.offset, tensor.offset + tensor.size)
        assert old[: span.start] == new[: span.start]
        assert old[span.stop :] == new[span.stop :]
        assert old[span] != new[span]
        moved = dequantize(target, DOWN).astype(np.float64) - weights
    exact = np.outer(wanted.output, wanted.input).astype(np.float64)
    np.testing.assert_allclose(moved, exact, atol={"F32": 1e-6, "F16": 4e-3, "BF16": 3e-2}[dtype])
    assert result.type == dtype
    seen = probe(6).astype(np.float64)
    got, asked = seen @ moved.T, seen @ exact.T
    assert result.delivered == pytest.approx((got * asked).sum() / (asked**2).sum(), abs=1e-5)
    noise = np.sqrt(((got - asked) ** 2).sum() / (asked**2).sum())
    # Not to more digits: the noise is the small difference of large sums.
    assert result.noise == pytest.approx(noise, abs=1e-3)
    (declared,) = read_facts(tmp_path / "new").tensors
    assert declared.name == DOWN
    assert declared.base_sha256 == hashlib.sha256(old[span]).hexdigest()
    assert declared.sha256 == hashlib.sha256(new[span]).hexdigest()


def test_the_edits_lie_beside_the_weights(tmp_path: Path) -> None:
    wanted = edit()
    with Checkpoint.open(folder(tmp_path / "old")) as source:
        write(source, tmp_path / "new", [wanted])
    with GgufFile.open(tmp_path / "new" / EDITS) as file:
        assert file.text("general.architecture") == "qwen2"
        (found,) = read_adapter(file)
    assert found.tensor == DOWN
    np.testing.assert_array_equal(found.delta(1.0), wanted.delta(1.0))


def file_a_tensor(path: Path) -> tuple[Path, dict[str, str]]:
    """A checkpoint with every tensor in a file of its own, and which file that is."""
    folder(path)
    (path / SINGLE).unlink()
    table = {}
    for number, (name, shape) in enumerate(NAMES.items()):
        (path / f"part-{number}.safetensors").write_bytes(shard({name: shape}, "BF16", seed=number))
        table[name] = f"part-{number}.safetensors"
    (path / INDEX).write_text(json.dumps({"weight_map": table}), "utf-8")
    return path, table


def test_several_files_keep_their_tensors(tmp_path: Path) -> None:
    path, table = file_a_tensor(tmp_path / "old")
    with Checkpoint.open(path) as source:
        write(source, tmp_path / "new", [edit(), edit("blk.0.attn_output.weight", 4)])
    changed = {
        file.name
        for file in path.iterdir()
        if file.read_bytes() != (tmp_path / "new" / file.name).read_bytes()
    }
    assert changed == {
        table["model.layers.0.mlp.down_proj.weight"],
        table["model.layers.0.self_attn.o_proj.weight"],
    }


def test_files_in_folders_come_along_and_other_weights_do_not(tmp_path: Path) -> None:
    path = folder(tmp_path / "old")
    for name in (
        "additional_chat_templates/tool.jinja",
        "onnx/model.onnx",
        ".git/HEAD",
        "flax_model.msgpack",
    ):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(name, "utf-8")
    listener = Listener()
    with Checkpoint.open(path) as source:
        wanted = edit()
        bake_checkpoint(
            source,
            tmp_path / "new",
            [wanted],
            BakeSettings(rounding=Requantize(), probes={DOWN: probe(6)}),
            progress=listener,
        )
    new = tmp_path / "new"
    found = {file.relative_to(new).as_posix() for file in new.rglob("*") if file.is_file()}
    assert found == {"additional_chat_templates/tool.jinja", "config.json", SINGLE, EDITS, OWN_FACTS}
    assert (new / "additional_chat_templates/tool.jinja").read_text("utf-8").endswith("tool.jinja")
    (note,) = listener.notes
    assert note.endswith(": .git/HEAD, flax_model.msgpack, onnx/model.onnx")


def test_an_input_that_cannot_be_read_is_no_problem_of_the_output(tmp_path: Path) -> None:
    path, table = file_a_tensor(tmp_path / "old")
    last = path / table["model.layers.0.post_feedforward_layernorm.weight"]
    with (
        Checkpoint.open(path) as source,
        pytest.raises(ModelFileError, match=f"{last.name} cannot be read"),
    ):
        bake_checkpoint(
            source,
            tmp_path / "new",
            [edit()],
            BakeSettings(rounding=Requantize(), probes={DOWN: probe(6)}),
            rounded=lambda _: last.unlink(),
        )
    assert [file.name for file in tmp_path.iterdir()] == ["old"]


def test_an_edit_too_small_for_bfloat16_is_told(tmp_path: Path) -> None:
    with Checkpoint.open(folder(tmp_path / "old", content=shard(NAMES, "BF16"))) as source:
        (result,) = write(source, tmp_path / "new", [edit(size=1e-6)])
        assert abs(result.delivered) < 0.5
        with pytest.raises(UndeliveredError):
            write(source, tmp_path / "other", [edit(size=1e-6)], min_delivered=0.95)
    assert not (tmp_path / "other").exists()


def test_error_feedback_keeps_an_edit_that_rounding_alone_garbles(tmp_path: Path) -> None:
    """Weights of size one and an edit of a fraction of their steps, on inputs as correlated as real ones."""
    names = {name: (64, 256) if "down_proj" in name else shape for name, shape in NAMES.items()}
    path = folder(tmp_path / "old", content=shard(names, "BF16"))
    seen = baking.inputs(256, 400, 1)
    key = np.linalg.lstsq(seen, np.linalg.svd(seen, full_matrices=False)[0][:, 4], rcond=1e-3)[0]
    key *= 2e-4 / np.sqrt(np.mean(np.square(key)))
    output = np.random.default_rng(1).choice([-1, 1], 64).astype(np.float32)
    wanted = RankOneEdit(DOWN, output, key.astype(np.float32))
    found = {}
    with Checkpoint.open(path) as source:
        for rounding in (
            Requantize(),
            GridRounding({DOWN: input_factor(seen, 64, wanted.input)}),
        ):
            (found[rounding.name],) = bake_checkpoint(
                source,
                tmp_path / rounding.name,
                [wanted],
                BakeSettings(rounding=rounding, probes={DOWN: baking.inputs(256, 200, 2)}),
            )
    assert abs(found["grid"].delivered - 1) < 0.05, found
    assert found["grid"].noise < 0.5 * found["requantize"].noise, found


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"format": 2, "metadata": {}, "rounding": "grid", "tensors": [], "aims": {}}',
        b'{"format": 1, "metadata": {}, "rounding": "grid", "tensors": [], "aims": {}}',
        b'{"format": 1, "metadata": {}, "rounding": "grid", "tensors": [{"name": "a"}], "aims": {}}',
        b'{"format": 1, "metadata": {}, "rounding": "grid", "tensors": [3], "aims": {"a": 1e9}}',
        b'{"seal": "", "format": 1, "metadata": {}, "rounding": "grid", "tensors": [], "aims": {}}',
        b'{"seal": {}, "format": 1, "metadata": {}, "rounding": "grid", "tensors": [], "aims": {}}',
    ],
)
def test_damaged_facts(content: bytes, tmp_path: Path) -> None:
    (tmp_path / OWN_FACTS).write_bytes(content)
    with pytest.raises(ModelFileError, match="is damaged"):
        read_facts(tmp_path)


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ([edit("blk.7.ffn_down.weight")], "no such tensor: blk.7"),
        ([edit(columns=5)], "does not fit its shape"),
        ([edit()] * 9, "9 edits"),
    ],
)
def test_edits_that_do_not_fit(edits: list[RankOneEdit], reason: str, tmp_path: Path) -> None:
    with Checkpoint.open(folder(tmp_path / "old")) as source, pytest.raises(ValueError, match=reason):
        write(source, tmp_path / "new", edits)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpoint.open(folder(tmp_path / "old")) as source:
        with pytest.raises(OutputError, match="is there already"):
            write(source, tmp_path / "old", [edit()])
        with pytest.raises(OutputError, match="is not a folder"):
            write(source, tmp_path / "no" / "where", [edit()])

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(checkpoint_module, "write_adapter", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(source, tmp_path / "new", [edit()])
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_eight_bit_floats_cannot_be_edited() -> None:
    with pytest.raises(UnsupportedModelError, match="F8_E4M3"):
        to_float32(np.zeros(4, dtype=np.uint8), "F8_E4M3")
