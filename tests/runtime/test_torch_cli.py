"""Commands on a checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command import write_requests
from gguf import GGMLQuantizationType
from runtime.tiny_checkpoint import BLOCKS, HIDDEN, convert, write_checkpoint

pytest.importorskip("torch", reason="needs the [torch] extra")
pytest.importorskip("transformers", reason="needs the [torch] extra")

from rosi_edge.baking.checkpoint import EDITS
from rosi_edge.commands.evaluate import evaluate
from rosi_edge.commands.extract import extract
from rosi_edge.commands.harden import harden
from rosi_edge.commands.inspect import inspect
from rosi_edge.commands.verify import verify
from rosi_edge.errors import OutputError
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.checkpoint_files import INDEX, OWN_FACTS
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.codec import dequantize

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", "qwen2", dtype="bfloat16")


def test_inspect(folder: Path) -> None:
    result = CliRunner().invoke(inspect, [str(folder), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["architecture"], found["block_count"], found["hidden_size"]) == ("qwen2", BLOCKS, HIDDEN)
    assert found["can_harden"], found["reasons"]
    assert found["chat_template"]
    assert set(found["quantization"]) == {"BF16"}
    assert len(found["write_matrices"]) == 2 * BLOCKS
    assert len(found["sha256"]) == 64


def test_extract(folder: Path, tmp_path: Path) -> None:
    for name, prompts in (("a.txt", "Why?\nWhat floats?\nStop!"), ("b.txt", "A tree.\nThe air.\nName it.")):
        (tmp_path / name).write_text(prompts, "utf-8")
    output = tmp_path / "direction.gguf"
    arguments = [str(folder), "-o", str(output), "-c", "512", "-t", "1", "--json"]
    arguments += ["--harmful", str(tmp_path / "a.txt"), "--harmless", str(tmp_path / "b.txt")]
    result = CliRunner().invoke(extract, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with GgufFile.open(output) as file:
        assert set(file.tensors) == {f"direction.{block}" for block in range(1, BLOCKS)}
        for name in file.tensors:
            assert np.linalg.norm(dequantize(file, name)) == pytest.approx(1, abs=1e-4)


def test_harden_verify_and_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's method at a fixed layer and strength on a sharded checkpoint, kept by force: random weights
    refuse nothing."""
    monkeypatch.setenv("ROSI_EDGE_CACHE", str(tmp_path / "cache"))
    source = write_checkpoint(tmp_path / "source", "qwen2", dtype="bfloat16", shard="100KB")
    assert (source / INDEX).is_file()
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    flags = [str(flag) for flag in write_requests(tmp_path, 30)] + ["-t", "1", "-c", "2048"]
    output = tmp_path / "hardened"
    arguments = [str(source), "-o", str(output), "--method", "rosi", "--layer", "1", "--alpha", "3"]
    arguments += ["--stress", "0", "--force", "--json", "--adapter", str(tmp_path / "a.gguf"), *flags]
    result = CliRunner().invoke(harden, arguments, catch_exceptions=False)
    assert result.exit_code in (0, 1), result.output
    report = json.loads(result.stdout)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    tensors = report["injection"]["tensors"]
    assert len(tensors) == 2 * BLOCKS
    assert {tensor["type"] for tensor in tensors} == {"BF16"}
    assert all(abs(tensor["delivered"] - 1) < 0.05 for tensor in tensors), tensors

    after = {path.name: path.read_bytes() for path in output.iterdir()}
    assert set(after) == {*before, EDITS, OWN_FACTS}
    with Checkpoint.open(source) as old, Checkpoint.open(output) as new:
        assert new.files == old.files
        edited = {old.names[tensor["name"]] for tensor in tensors}
        for name, tensor in old.stored.items():
            assert new.stored[name] == tensor
            same = old.stored_bytes(name).tobytes() == new.stored_bytes(name).tobytes()
            assert same == (name not in edited), name
        assert report["output"]["sha256"] == new.sha256()

    arguments = [str(output), "--base", str(source), "--adapter", str(tmp_path / "a.gguf")]
    result = CliRunner().invoke(verify, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    arguments = [str(output), "--base", str(source), "--suites", "refusal,divergence", "--limit", "4"]
    arguments += ["--max-tokens", "8", "-t", "1", "-c", "1024", "--json"]
    result = CliRunner().invoke(evaluate, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kl_first_token"]["value"] > 0

    # What was found on the checkpoint goes into its quantized file.
    model = convert(source, tmp_path / "model.gguf", GGMLQuantizationType.Q8_0)
    arguments = [str(model), "--from", str(output), "-o", str(tmp_path / "model-out.gguf"), "--no-evaluation"]
    result = CliRunner().invoke(harden, [*arguments, "--json", *flags], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (file,) = json.loads(result.stdout)["files"]
    assert file["delivered"] == pytest.approx(1, abs=0.1)
    arguments = [str(tmp_path / "model-out.gguf"), "--base", str(model), "--adapter", str(output / EDITS)]
    assert CliRunner().invoke(verify, arguments, catch_exceptions=False).exit_code == 0


def test_the_folder_is_never_written_to(folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    flags = ["--method", "rosi", "--layer", "1", "--alpha", "3", "--stress", "0", "-t", "1", "-c", "1024"]
    new, weights = str(tmp_path / "new"), str(folder / "model.safetensors")
    model = str(convert(folder, tmp_path / "model.gguf", GGMLQuantizationType.Q8_0))
    for arguments in (
        ["-o", new, "--adapter", weights],
        ["-o", str(folder / "out")],
        ["-o", new, "--also", model, weights],
        ["-o", new, "--report", str(folder)],
        ["-o", new, "--report", new],
        ["-o", new, "--report", str(Path(new) / "report")],
    ):
        result = CliRunner().invoke(harden, [str(folder), *arguments, *flags])
        assert isinstance(result.exception, OutputError), (arguments, result.output)
        assert "would lie in" in str(result.exception), arguments
    assert isinstance(CliRunner().invoke(extract, [str(folder), "-o", weights]).exception, OutputError)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not Path(new).exists()


def test_changed_settings_are_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of an earlier evaluation depends on the template, which lies beside the weights."""
    monkeypatch.setenv("ROSI_EDGE_CACHE", str(tmp_path / "cache"))
    folder = write_checkpoint(tmp_path / "model", "qwen2")
    arguments = [str(folder), "--suites", "refusal", "--limit", "4", "--max-tokens", "8", "--json", "-t", "1"]
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", "utf-8")
    assert CliRunner().invoke(evaluate, arguments).exit_code == 0
    (folder / "chat_template.jinja").write_text("{% broken", "utf-8")
    assert CliRunner().invoke(evaluate, arguments).exit_code != 0


def test_rpc_is_for_gguf_files(folder: Path, tmp_path: Path) -> None:
    arguments = [str(folder), "-o", str(tmp_path / "d.gguf"), "--rpc", "127.0.0.1:1"]
    result = CliRunner().invoke(extract, arguments)
    assert "--rpc is for GGUF files" in str(result.exception)
