"""Where a draft is written, that it can be dropped half-written, and that it takes its place whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from models.test_checkpoint import folder
from split_gguf import split_gguf
from tiny_gguf import write_tiny_llama

from rosi_edge.draft import Draft, checked_place
from rosi_edge.errors import OutputError
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile


def test_one_file(tmp_path: Path) -> None:
    with GgufFile.open(write_tiny_llama(tmp_path / "base.gguf")) as file:
        draft = Draft.beside(file, tmp_path / "out.gguf")
    ((path, place),) = draft.moves
    assert path.parent == tmp_path
    assert path.suffix == ".gguf"
    assert place == tmp_path / "out.gguf"
    draft.drop()  # Nothing has been written.
    draft.model.write_bytes(b"new")
    (tmp_path / "out.gguf").write_bytes(b"old")
    draft.keep()
    assert (tmp_path / "out.gguf").read_bytes() == b"new"
    assert not draft.model.exists()
    draft.drop()
    assert (tmp_path / "out.gguf").read_bytes() == b"new"


def test_all_parts_of_a_split_model(tmp_path: Path) -> None:
    parts = split_gguf(write_tiny_llama(tmp_path / "base.gguf"), tmp_path / "split.gguf", 10)
    assert len(parts) > 1
    with GgufFile.open(parts[0]) as file:
        draft = Draft.beside(file, tmp_path / "out.gguf")
    count = len(parts)
    places = [tmp_path / f"out-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    assert [place for _, place in draft.moves] == places
    assert len({path for path, _ in draft.moves}) == count
    draft.model.write_bytes(b"half of the parts, as a killed run leaves them")
    draft.drop()
    for path, _ in draft.moves:
        assert not path.exists()
        path.write_bytes(path.name.encode())
    draft.keep()
    assert [place.read_bytes() for place in places] == [path.name.encode() for path, _ in draft.moves]


@pytest.mark.parametrize("name", ["split.gguf", "split-00001-of-0000{}.gguf", "split-00002-of-0000{}.gguf"])
def test_no_part_of_the_model_is_overwritten(tmp_path: Path, name: str) -> None:
    parts = split_gguf(write_tiny_llama(tmp_path / "base.gguf"), tmp_path / "split.gguf", 10)
    with GgufFile.open(parts[0]) as file:
        with pytest.raises(OutputError, match="would overwrite the input"):
            checked_place(file, tmp_path / name.format(len(parts)))
        assert checked_place(file, tmp_path / "other.gguf") == tmp_path / "other.gguf"


def test_only_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    """Whole drafts and half of one, as files and as folders; not the drafts of other places or runs."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        dead = (
            ".out.99999999-0badcafe.draft",
            "..out.99999999-0badcafe.draft.99999999-0badcafe.partial",
            f".out.{os.getpid()}-0badcafe.draft",
        )
        kept = (
            f".out.{other.pid}-0badcafe.draft",
            ".out.draft",
            ".other.99999999-0badcafe.draft",
            "out.draft",
        )
        for name in (*dead, *kept):
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text("{}", "utf-8")
        (tmp_path / ".out.99999999-0badcafe.draft-00001-of-00002.gguf").write_bytes(b"part")
        with Checkpoint.open(folder(tmp_path / "base")) as weights:
            draft = Draft.beside(weights, tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(("base", *kept))
        draft.model.mkdir()
        with Checkpoint.open(tmp_path / "base") as weights:
            assert Draft.beside(weights, tmp_path / "elsewhere") != draft
        assert draft.model.is_dir()
        other.communicate(b"\n")


def test_an_input_with_a_name_like_a_draft_is_kept(tmp_path: Path) -> None:
    for name in (".out.draft", ".out.99999999-0badcafe.draft"):
        with Checkpoint.open(folder(tmp_path / name)) as weights:
            draft = Draft.beside(weights, checked_place(weights, tmp_path / "out"))
            draft.drop()
            assert draft.model != weights.path
        assert (tmp_path / name / "config.json").is_file()


def test_a_place_that_was_taken_meanwhile(tmp_path: Path) -> None:
    with Checkpoint.open(folder(tmp_path / "base")) as weights:
        draft = Draft.beside(weights, tmp_path / "out")
    for path in (draft.model, tmp_path / "out"):
        path.mkdir()
        (path / "config.json").write_text(path.name, "utf-8")
    with pytest.raises(OutputError, match="out cannot be written"):
        draft.keep()
    assert (tmp_path / "out" / "config.json").read_text("utf-8") == "out"
    assert draft.model.is_dir()
