"""Files that llama.cpp refuses: what is said of them, and that llama.cpp itself agrees."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
from tiny_gguf import write_tiny_llama

from rosi_edge.errors import RosiEdgeError
from rosi_edge.inspection import inspect
from rosi_edge.models import trial
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import MetadataArray
from rosi_edge.models.trial import objection
from rosi_edge.policy.model import DEFAULT_POLICY
from rosi_edge.policy.result import Status
from rosi_edge.policy.run import Checked, CheckOptions, check

T = gguf.GGUFValueType
_SCALARS = {T.UINT8: "<B", T.UINT16: "<H", T.UINT32: "<I", T.INT32: "<i", T.UINT64: "<Q", T.FLOAT32: "<f"}
Fields = dict[str, bytes]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def number(key: str, kind: gguf.GGUFValueType, value: float) -> bytes:
    return text(key) + struct.pack("<I", kind) + struct.pack(_SCALARS[kind], value)


def texts(key: str, values: Sequence[str]) -> bytes:
    return text(key) + struct.pack("<IIQ", T.ARRAY, T.STRING, len(values)) + b"".join(map(text, values))


def changed(source: Path, target: Path, change: Callable[[Fields, list[str]], None]) -> Path:
    """A copy whose metadata, raw bytes by key, has gone through ``change``, which also gets the tokens."""
    with GgufFile.open(source) as file:
        fields = {key: file.raw(field.start, field.end) for key, field in file.fields.items()}
        tokens = file.metadata["tokenizer.ggml.tokens"]
        assert isinstance(tokens, MetadataArray)
        change(fields, list(tokens))
        head = b"GGUF" + struct.pack("<IQQ", 3, len(file.own_tensors), len(fields))
        head += b"".join(fields.values()) + file.raw(*file.tensor_table)
        target.write_bytes(head + bytes(-len(head) % 32) + file.raw(file.data_offset, file.size))
    return target


def setting(key: str, kind: gguf.GGUFValueType, value: float) -> Callable[[Fields, list[str]], None]:
    def change(fields: Fields, _tokens: list[str]) -> None:
        fields[key] = number(key, kind, value)

    return change


def without(key: str) -> Callable[[Fields, list[str]], None]:
    def change(fields: Fields, _tokens: list[str]) -> None:
        del fields[key]

    return change


def with_tokens(
    new: Callable[[list[str]], list[str]], *, whole: bool = False
) -> Callable[[Fields, list[str]], None]:
    def change(fields: Fields, tokens: list[str]) -> None:
        fields["tokenizer.ggml.tokens"] = texts("tokenizer.ggml.tokens", new(tokens))
        if whole:
            count = len(new(tokens))
            for key, kind in (("scores", T.FLOAT32), ("token_type", T.INT32)):
                name = f"tokenizer.ggml.{key}"
                if name in fields:
                    fields[name] = (
                        text(name) + struct.pack("<IIQ", T.ARRAY, kind, count) + struct.pack("<I", 1) * count
                    )

    return change


REFUSED: dict[str, tuple[Callable[[Fields, list[str]], None], str]] = {
    "a token twice": (with_tokens(lambda t: [*t[:5], t[6], *t[6:]]), "a token is listed twice in tokenizer"),
    "a bool as u32": (setting("tokenizer.ggml.add_bos_token", T.UINT32, 0), "add_bos_token is stored as u32"),
    "a bool as u8": (setting("tokenizer.ggml.add_bos_token", T.UINT8, 0), "add_bos_token is stored as u8"),
    "a block count as u64": (setting("llama.block_count", T.UINT64, 2), "block_count is stored as u64"),
    "a block count as i32": (setting("llama.block_count", T.INT32, 2), "block_count is stored as i32"),
    "a width as u16": (setting("llama.embedding_length", T.UINT16, 64), "embedding_length is stored as u16"),
    "no context length": (without("llama.context_length"), "llama.context_length is missing"),
    "no epsilon": (without("llama.attention.layer_norm_rms_epsilon"), "rms_epsilon is missing"),
    "an epsilon as u32": (
        setting("llama.attention.layer_norm_rms_epsilon", T.UINT32, 1),
        "rms_epsilon is stored as u32",
    ),
    "no tokenizer": (without("tokenizer.ggml.model"), "tokenizer.ggml.model is missing"),
    "no tokens": (without("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens"),
    "too few blocks": (setting("llama.block_count", T.UINT32, 1), "these do not: blk.1."),
    "too many blocks": (setting("llama.block_count", T.UINT32, 3), "block 2 of 3"),
    "no feed-forward of that size": (
        setting("llama.feed_forward_length", T.UINT32, 96),
        "does not fit the file's settings",
    ),
    "heads that do not divide": (setting("llama.attention.head_count", T.UINT32, 5), "does not fit"),
    "heads of none": (setting("llama.attention.head_count_kv", T.UINT32, 3), "llama.cpp cannot load it"),
    "a short vocabulary": (with_tokens(lambda t: t[:-8], whole=True), "token_embd.weight does not fit"),
    "an end outside": (
        setting("tokenizer.ggml.eos_token_id", T.UINT32, 99999),
        "eos_token_id is 99999, which is outside the vocabulary",
    ),
    "another version of splits": (setting("split.count", T.UINT32, 1), "split.count is stored as u32"),
}

FINE: dict[str, Callable[[Fields, list[str]], None]] = {
    "as it was": lambda fields, tokens: None,
    "an unknown key": setting("my.own.key", T.UINT64, 7),
    "no name": without("general.name"),
    "another context": setting("llama.context_length", T.UINT32, 4096),
    "a known padding token outside": setting("tokenizer.ggml.padding_token_id", T.UINT32, 2**32 - 1),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("trial") / "base.gguf", layers=2)


def said(path: Path) -> str:
    """Why the file cannot be hardened, empty when it can be."""
    try:
        return "; ".join(inspect(path).reasons)
    except RosiEdgeError as error:
        return str(error)


def passes(path: Path) -> bool:
    """Whether ``check --static`` finds the file whole."""
    report = check(Checked("file", path), DEFAULT_POLICY, options=CheckOptions(behaviour=False))
    return next(rule for rule in report.results if rule.id == "RE101").status is Status.PASSED


def llama_cpp_loads(paths: Sequence[Path]) -> list[bool]:
    """llama.cpp's own answers, with the weights."""
    program = Path(__file__).with_name("load_with_llama_cpp.py")
    run = subprocess.run([sys.executable, program, *paths], capture_output=True, text=True, check=True)
    return [line == "1" for line in run.stdout.split()]


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_refuses_is_not_passed(case: str, base: Path, tmp_path: Path) -> None:
    change, reason = REFUSED[case]
    path = changed(base, tmp_path / "model.gguf", change)
    assert reason in said(path)
    assert not passes(path)


@pytest.mark.parametrize("case", FINE)
def test_what_llama_cpp_takes_is_passed(case: str, base: Path, tmp_path: Path) -> None:
    path = changed(base, tmp_path / "model.gguf", FINE[case])
    assert said(path) == ""
    assert passes(path)


def test_llama_cpp_agrees_with_the_tables(base: Path, tmp_path: Path) -> None:
    # The one file that it takes: it puts another end in the place of the one that does not exist.
    refused = [case for case in REFUSED if case != "an end outside"]
    changes = [*(REFUSED[case][0] for case in refused), *FINE.values()]
    paths = [changed(base, tmp_path / f"{index}.gguf", change) for index, change in enumerate(changes)]
    assert llama_cpp_loads(paths) == [False] * len(refused) + [True] * len(FINE)


def test_tensors_of_no_known_part_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vision tower in the same file, as Ollama writes them."""
    import numpy as np

    write_header = gguf.GGUFWriter.write_header_to_file

    def with_a_tower(writer: gguf.GGUFWriter, *arguments: Any, **keywords: Any) -> None:
        writer.add_tensor("v.blk.0.attn_q.weight", np.ones((8, 8), np.float32))
        write_header(writer, *arguments, **keywords)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_a_tower)
    path = write_tiny_llama(tmp_path / "model.gguf", layers=2)
    assert "these do not: v.blk.0.attn_q.weight" in said(path)
    with GgufFile.open(path) as file:
        against = objection(file)
    assert against is not None and "mmproj" in against.advice


def test_a_trial_that_takes_too_long_is_an_objection(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_PATIENCE", 0.0)
    with GgufFile.open(base) as file:
        against = objection(file)
    assert against is not None and "seconds" in against.reason


def test_a_trial_in_a_plain_script(base: Path, tmp_path: Path) -> None:
    """No ``if __name__ == "__main__":``."""
    script = tmp_path / "plain.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom rosi_edge.inspection import inspect\n"
        "print(inspect(Path(sys.argv[1])).architecture)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(base)], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("llama\n", "")


def test_a_trial_that_cannot_run_says_nothing_of_the_file(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho No module named rosi_edge\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with GgufFile.open(base) as file, pytest.raises(RuntimeError, match="No module named rosi_edge"):
        objection(file)


@pytest.mark.long
def test_llama_cpp_agrees_on_random_changes(base: Path, tmp_path: Path) -> None:
    """Settings dropped, stored in another type or with another value: both answer alike."""
    chance = random.Random(20)
    with GgufFile.open(base) as file:
        keys = [key for key, field in file.fields.items() if field.type in _SCALARS or chance.random() < 0.5]
        values = {key: file.metadata[key] for key in keys}

    def change(fields: Fields, _tokens: list[str]) -> None:
        key = chance.choice(keys)
        value = values[key]
        del fields[key]
        if chance.random() < 0.8:
            kind = chance.choice(list(_SCALARS))
            whole = value if isinstance(value, int) else chance.randrange(256)
            near = chance.choice([whole, whole + 1, whole - 1, whole * 2, whole // 2, 0, 255])
            fields[key] = number(key, kind, max(0, min(near, 255 if kind == T.UINT8 else 65535)))

    paths = [changed(base, tmp_path / f"{index}.gguf", change) for index in range(400)]
    answers = llama_cpp_loads(paths)
    differing = []
    for path, loads in zip(paths, answers, strict=True):
        try:
            with GgufFile.open(path) as file:
                ours = objection(file)
        except RosiEdgeError as error:
            ours = trial.Objection(str(error), "")
        if (ours is None) != loads and "outside the vocabulary" not in (ours.reason if ours else ""):
            differing.append((path, ours, loads))
    assert 40 < sum(answers) < 360
    assert not differing
