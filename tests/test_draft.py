"""Where a draft is written, that it can be dropped half-written, and that it takes its place whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from models.test_checkpoint import folder
from split_gguf import split_gguf
from tiny_gguf import write_tiny_llama

from rosi_edge.baking.destination import Destination
from rosi_edge.baking.draft import Draft
from rosi_edge.errors import OutputError
from rosi_edge.models.atomic import atomic_write
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.open_weights import open_weights


def test_one_file(tmp_path: Path) -> None:
    with GgufFile.open(write_tiny_llama(tmp_path / "base.gguf")) as file:
        draft = Draft.beside(Destination.of(file, tmp_path / "out.gguf"))
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
        draft = Draft.beside(Destination.of(file, tmp_path / "out.gguf"))
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
            Destination.of(file, tmp_path / name.format(len(parts)))
        assert Destination.of(file, tmp_path / "other.gguf").place == tmp_path / "other.gguf"


WRITER = """
import sys
from pathlib import Path
from rosi_edge.baking.destination import Destination
from rosi_edge.baking.draft import Draft
from rosi_edge.models.open_weights import open_weights
with open_weights(Path(sys.argv[1])) as weights:
    draft = Draft.beside(Destination.of(weights, Path(sys.argv[2])))
    for path, _ in draft.moves:
        path.mkdir() if path.suffix == ".draft" else path.write_bytes(b"draft")
    draft.model.with_name(f".{draft.model.name}.123-0badcafe.partial").mkdir()
    print("written", flush=True)
    input()
"""


@pytest.mark.parametrize("kind", ["folder", "file", "parts"])
def test_only_what_killed_runs_left_is_removed(tmp_path: Path, kind: str) -> None:
    """Whole drafts and half of one, but not those of other places, or of runs that go on."""
    models = tmp_path / "models"
    models.mkdir()
    base = folder(models / "base") if kind == "folder" else write_tiny_llama(models / "base.gguf")
    if kind == "parts":
        base = split_gguf(base, models / "split.gguf", 10)[0]
    others = [tmp_path / name for name in (".out.0123.draft", ".else.0123456789abcdef.draft", "out.draft")]
    for path in others:
        path.mkdir()
    with (
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(base), str(tmp_path / "out")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as writer,
        open_weights(base) as weights,
    ):
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        left = set(tmp_path.iterdir()) - {models, *others}
        assert len(left) >= 3
        draft = Draft.beside(Destination.of(weights, tmp_path / "out"))
        assert left < set(tmp_path.iterdir())
        draft.drop()
        assert set(tmp_path.iterdir()) == {models, *others, *left}
        writer.kill()
        writer.wait()
        draft = Draft.beside(Destination.of(weights, tmp_path / "out"))
        draft.drop()
    assert set(tmp_path.iterdir()) == {models, *others}


def test_two_drafts_of_one_process(tmp_path: Path) -> None:
    with Checkpoint.open(folder(tmp_path / "base")) as weights:
        first = Draft.beside(Destination.of(weights, tmp_path / "out"))
        first.model.mkdir()
        second = Draft.beside(Destination.of(weights, tmp_path / "out"))
        assert first.model.is_dir()
        assert first.model != second.model
        first.drop()
        first.drop()
        second.drop()
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_draft_that_somebody_hardens_is_kept(tmp_path: Path) -> None:
    """A killed run's, found by its user."""
    with Checkpoint.open(folder(tmp_path / ".out.0123456789abcdef.draft")) as weights:
        draft = Draft.beside(Destination.of(weights, tmp_path / "out"))
        draft.drop()
        assert (weights.path / "config.json").is_file()


@pytest.mark.parametrize("name", ["a" + 45 * "中", 80 * "ä", 249 * "b"])
def test_long_names_are_cut_between_characters(tmp_path: Path, name: str) -> None:
    with Checkpoint.open(folder(tmp_path / "base")) as weights:
        draft = Draft.beside(Destination.of(weights, tmp_path / name))
        draft.model.name.encode()
        with atomic_write(draft.model.with_name(f"{draft.model.name}.gguf")) as stream:
            stream.write(b"x")
        draft.model.mkdir()
        draft.keep()
    assert (tmp_path / name).is_dir()


def test_a_place_that_was_taken_meanwhile(tmp_path: Path) -> None:
    with Checkpoint.open(folder(tmp_path / "base")) as weights:
        draft = Draft.beside(Destination.of(weights, tmp_path / "out"))
    for path in (draft.model, tmp_path / "out"):
        path.mkdir()
        (path / "config.json").write_text(path.name, "utf-8")
    with pytest.raises(OutputError, match="out cannot be written"):
        draft.keep()
    assert (tmp_path / "out" / "config.json").read_text("utf-8") == "out"
    assert draft.model.is_dir()
    draft.drop()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]
