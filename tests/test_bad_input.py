"""What is wrong with the input: one line on stderr with its mend, exit code 2, nothing written or lost."""

from __future__ import annotations

import hashlib
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from command import Result, assert_refused, called, rosi_edge, write_requests
from tiny_gguf import CHATML, write_tiny_llama

from rosi_edge.basics.arrays import Float32

QUICK = ("-t", "1", "-c", "1024")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # A search is kept there, to be gone on with: neither the user's folder nor an earlier test's.
    monkeypatch.setenv("ROSI_EDGE_CACHE", str(tmp_path_factory.mktemp("cache")))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash, links as what they point to."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else digest(path)
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def refused(
    folder: Path,
    *arguments: str | Path,
    words: tuple[str, ...] = (),
    run: Callable[..., Result] = called,
) -> None:
    before = content(folder)
    assert_refused(run(folder, *arguments), *words)
    assert content(folder) == before


# --- files that are no sound models ----------------------------------------------------------------------


def truncated(sound: bytes) -> bytes:
    return sound[: len(sound) * 2 // 3]


def cut_in_the_header(sound: bytes) -> bytes:
    return sound[:900]


def too_many_tensors(sound: bytes) -> bytes:
    return sound[:8] + struct.pack("<Q", 1 << 60) + sound[16:]


def one_tensor_too_many(sound: bytes) -> bytes:
    (count,) = struct.unpack_from("<Q", sound, 8)
    return sound[:8] + struct.pack("<Q", count + 1) + sound[16:]


def too_many_keys(sound: bytes) -> bytes:
    return sound[:16] + struct.pack("<Q", (1 << 64) - 1) + sound[24:]


def endless_string(sound: bytes) -> bytes:
    # The first key's length.
    return sound[:24] + struct.pack("<Q", (1 << 63) - 1) + sound[32:]


def at_tensor(name: str, change: Callable[[bytearray, int], None]) -> Callable[[bytes], bytes]:
    """Change the table's entry of a matrix: after its name come dimensions, two extents, type and offset."""

    def damage(sound: bytes) -> bytes:
        data = bytearray(sound)
        entry = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", 2)
        assert data.count(entry) == 1
        change(data, data.index(entry) + len(entry))
        return bytes(data)

    return damage


def offset_outside(data: bytearray, at: int) -> None:
    struct.pack_into("<Q", data, at + 20, 1 << 40)


def offset_of_another(data: bytearray, at: int) -> None:
    struct.pack_into("<Q", data, at + 20, 0)


def huge_shape(data: bytearray, at: int) -> None:
    struct.pack_into("<QQ", data, at, 1 << 40, 1 << 40)


def other_shape(data: bytearray, at: int) -> None:
    (rows,) = struct.unpack_from("<Q", data, at + 8)
    struct.pack_into("<Q", data, at + 8, rows - 32)


def unknown_type(data: bytearray, at: int) -> None:
    struct.pack_into("<I", data, at + 16, 999)


DOWN = "blk.1.ffn_down.weight"
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda sound: b"", "empty"),
    "not GGUF": (lambda sound: b"This is my shopping list.\n" * 20, "not a GGUF file"),
    "a web page": (lambda sound: b"<!DOCTYPE html><html>" * 20, "web page"),
    "truncated": (truncated, "truncated"),
    "cut in the header": (cut_in_the_header, "truncated"),
    "too many tensors": (too_many_tensors, "tensors"),
    "one tensor too many": (one_tensor_too_many, "damaged"),
    "too many keys": (too_many_keys, "metadata keys"),
    "endless string": (endless_string, "length"),
    "offset outside": (at_tensor(DOWN, offset_outside), DOWN),
    "overlapping tensors": (at_tensor(DOWN, offset_of_another), "overlap"),
    "huge shape": (at_tensor(DOWN, huge_shape), DOWN),
    "wrong shape": (at_tensor(DOWN, other_shape), DOWN),
    "unknown type": (at_tensor(DOWN, unknown_type), "unknown type"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files(tiny_model: Path, tmp_path: Path, name: str) -> None:
    damage, word = DAMAGES[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(damage(tiny_model.read_bytes()))
    refused(tmp_path, "inspect", path, words=("model.gguf", word))


@pytest.mark.parametrize("command", ["harden", "extract", "eval"])
def test_other_commands_refuse_a_truncated_file_too(tiny_model: Path, tmp_path: Path, command: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(truncated(tiny_model.read_bytes()))
    output = () if command == "eval" else ("-o", "out.gguf")
    refused(tmp_path, command, path, *output, words=("truncated",))


def test_a_missing_file(tmp_path: Path) -> None:
    refused(tmp_path, "harden", "missing.gguf", "-o", "out.gguf", words=("missing.gguf does not exist",))
    refused(tmp_path, "inspect", tmp_path, words=("is a folder",))
    refused(tmp_path, "inspect", "\x1b[31mred.gguf", words=("does not exist",))


# --- models that cannot be hardened ----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["harden", "extract"])
def test_a_base_model(tmp_path: Path, command: str) -> None:
    path = write_tiny_llama(tmp_path / "base.gguf", chat_template=None)
    refused(tmp_path, command, path, "-o", "out.gguf", words=("no chat template",))


def test_an_unsupported_architecture(tmp_path: Path) -> None:
    path = tmp_path / "strange.gguf"
    for architecture, word in (("bert", "bert"), ("perpetuum", "perpetuum")):
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_chat_template(CHATML)
        writer.add_tensor("token_embd.weight", np.ones((4, 32), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        refused(tmp_path, "harden", path, "-o", "out.gguf", words=(word,))


def test_a_layer_that_is_not_there(tiny_model: Path, tmp_path: Path) -> None:
    refused(
        tmp_path, "harden", tiny_model, "-o", "out.gguf", "--layer", "99", words=("no layer 99", "0 to 2")
    )


def test_an_endless_or_broken_template(tiny_model: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{% for %}")
    flags = ("-o", "out.gguf", "--template", template)
    refused(tmp_path, "extract", tiny_model, *flags, words=("template",))
    template.write_bytes(b"\xff\xfe")
    refused(tmp_path, "extract", tiny_model, *flags, words=("template.jinja", "UTF-8"))
    template.unlink()
    refused(tmp_path, "extract", tiny_model, *flags, words=("template.jinja",))


def test_a_llama_cpp_abort(tmp_path: Path) -> None:
    """Sound to our reader; llama.cpp asserts while it builds the graph."""
    path = write_tiny_llama(
        tmp_path / "crash.gguf", architecture="qwen2", metadata={"qwen2.rope.dimension_count": 200}
    )
    refused(tmp_path, "extract", path, "-o", "out.gguf", words=("llama.cpp crashed", "GGML_ASSERT"))
    refused(tmp_path, "harden", path, "-o", "out.gguf", words=("llama.cpp cannot load", "GGML_ASSERT"))


def test_a_file_llama_cpp_refuses(tmp_path: Path) -> None:
    def shorten(name: str, weights: Float32) -> Float32:
        return weights[:-1] if name == "output_norm.weight" else weights

    path = write_tiny_llama(tmp_path / "model.gguf", change=shorten)
    words = ("llama.cpp cannot load", "output_norm")
    refused(tmp_path, "harden", path, "-o", "out.gguf", words=words, run=rosi_edge)


# --- places that cannot be written -----------------------------------------------------------------------


def test_the_output_is_the_input(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "model.gguf")
    (tmp_path / "symbolic.gguf").symlink_to(path)
    os.link(path, tmp_path / "hard.gguf")
    for command, output in (
        ("harden", "model.gguf"),
        ("harden", "symbolic.gguf"),
        ("extract", "./model.gguf"),
        ("extract", "hard.gguf"),
    ):
        refused(tmp_path, command, path, "-o", output, words=("overwrite the input",))
    refused(
        tmp_path, "harden", path, "-o", "out.gguf", "--adapter", "model.gguf", words=("overwrite the input",)
    )


def test_an_output_that_cannot_be_there(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for output, word in (
        ("missing/out.gguf", "does not exist"),
        ("file/out.gguf", "not a folder"),
        ("folder", "is a folder"),
        ("/dev/null", "not a regular file"),
        ("n" * 300, "cannot be written"),
    ):
        refused(tmp_path, "extract", tiny_model, "-o", output, words=(word,))
    refused(tmp_path, "harden", tiny_model, "-o", "folder", words=("is a folder",))
    refused(
        tmp_path, "harden", tiny_model, "-o", "out.gguf", "--report", "file", words=("file", "not a folder")
    )
    refused(
        tmp_path, "harden", tiny_model, "-o", "out.gguf", "--adapter", "missing/a", words=("does not exist",)
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    refused(tmp_path, "harden", tiny_model, "-o", folder / "out.gguf", words=("not writable",))


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files fails as a full disk does: in the middle of writing."""
    path = write_tiny_llama(tmp_path / "model.gguf")
    (tmp_path / "out.gguf").write_bytes(b"an older file")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, resource.RLIM_INFINITY))

    flags = [*write_requests(tmp_path, 36), "--layer", "1", "--alpha", "1", "--force", "--trials", "1"]
    flags += ["--stress", "0", *QUICK]
    before = content(tmp_path)
    result = rosi_edge(tmp_path, "harden", path, "-o", "out.gguf", *flags, before=limit)
    # The frontier is told before the disk fills up.
    last = result.error.splitlines()[-1]
    assert result.code == 2, result.error
    assert result.out == ""
    assert last.startswith("rosi-edge: ")
    assert "out.gguf" in last
    assert "larger than this system or disk allows" in last
    assert "Traceback" not in result.error
    assert content(tmp_path) == before


def test_no_room_for_a_small_output_either(tiny_model: Path, tmp_path: Path) -> None:
    for kind in ("harmful", "harmless"):
        (tmp_path / f"{kind}.txt").write_text("".join(f"{kind} {index}\n" for index in range(4)))
    before = content(tmp_path)
    result = rosi_edge(
        tmp_path, "extract", tiny_model, "-o", "out.gguf", "--harmful", "harmful.txt",
        "--harmless", "harmless.txt", *QUICK,
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY)),
    )  # fmt: skip
    assert_refused(result)
    assert content(tmp_path) == before


# --- prompts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_of_file", "word"),
    [
        ("", "holds no prompts"),
        (" \n\t\n", "holds no prompts"),
        ('{"prompt": "one"}\n{"prompt": \n', "line 2"),
        ('{"text": "one"}\n', 'no "prompt"'),
        (b"\xff\xfe\x00bad", "UTF-8"),
        ("one\ntwo\nthree\n", "too few prompts"),
    ],
)
def test_prompt_files(tiny_model: Path, tmp_path: Path, content_of_file: str | bytes, word: str) -> None:
    path = tmp_path / "prompts.txt"
    raw = content_of_file if isinstance(content_of_file, bytes) else content_of_file.encode()
    path.write_bytes(raw)
    refused(tmp_path, "harden", tiny_model, "-o", "out.gguf", "--harmful", path, words=("prompts.txt", word))


def test_prompt_files_of_other_commands(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    refused(tmp_path, "extract", tiny_model, "-o", "out.gguf", "--harmful", path, words=("does not exist",))
    refused(tmp_path, "eval", tiny_model, "--harmless", tmp_path, words=("is a folder",))
    path.write_text("only one\n")
    refused(
        tmp_path, "extract", tiny_model, "-o", "out.gguf", "--harmless", path, words=("a direction cannot",)
    )


def test_a_prompt_longer_than_the_context(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("short\n" + "long " * 2000 + "\n")
    refused(
        tmp_path, "extract", tiny_model, "-o", "out.gguf", "--harmful", path, *QUICK, words=("-c", "tokens")
    )
