"""Where a draft is written, that it can be dropped half-written, and that it takes its place whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from split_gguf import split_gguf
from tiny_gguf import write_tiny_llama

from rosi_edge.draft import Draft, checked_place
from rosi_edge.errors import OutputError
from rosi_edge.models.gguf_file import GgufFile


def test_one_file(tmp_path: Path) -> None:
    with GgufFile.open(write_tiny_llama(tmp_path / "base.gguf")) as file:
        draft = Draft.beside(file, tmp_path / "out.gguf")
    assert draft.moves == ((tmp_path / ".out.gguf.draft.gguf", tmp_path / "out.gguf"),)
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
