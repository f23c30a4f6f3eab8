"""The manifest: a sound in-toto statement, and it proves what it says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_llama

from rosi_edge.errors import RosiEdgeError
from rosi_edge.models.digest import sha256_of_model
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.policy.provenance import (
    Manifest,
    check_manifest,
    make_manifest,
    manifest_path,
    read_manifest,
    write_manifest,
)

EDITED = "blk.1.ffn_down.weight"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base = write_tiny_llama(tmp_path / "base.gguf")
    new = write_tiny_llama(tmp_path / "new.gguf", change=lambda name, w: w + 1 if name == EDITED else w)
    return base, new


def manifest_of(path: Path, base: Path | None = None) -> Manifest:
    with GgufFile.open(path) as file:
        if base is None:
            return make_manifest(file, sha256=sha256_of_model(file))
        with GgufFile.open(base) as original:
            return make_manifest(
                file, sha256=sha256_of_model(file), base=original, base_sha256=sha256_of_model(original)
            )


def problems(manifest: Manifest, path: Path, base: Path | None = None) -> list[str]:
    with GgufFile.open(path) as file:
        digest = sha256_of_model(file)
        if base is None:
            return check_manifest(manifest, file, sha256=digest)
        with GgufFile.open(base) as original:
            return check_manifest(manifest, file, sha256=digest, base=original)


def test_it_is_an_in_toto_statement_with_slsa_provenance(pair: tuple[Path, Path]) -> None:
    base, new = pair
    statement = json.loads(manifest_of(new, base).to_json())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [
        {
            "name": "new.gguf",
            "digest": {"sha256": hashlib.sha256(new.read_bytes()).hexdigest()},
            "annotations": {},
        }
    ]
    definition = statement["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["editedTensors"] == [EDITED]
    assert (
        definition["resolvedDependencies"][0]["digest"]["sha256"]
        == hashlib.sha256(base.read_bytes()).hexdigest()
    )
    byproducts = {item["name"]: item for item in statement["predicate"]["runDetails"]["byproducts"]}
    with GgufFile.open(new) as file:
        assert len(byproducts) == len(file.tensors) + 1
        for name in file.tensors:
            expected = hashlib.sha256(file.tensor_bytes(name).tobytes()).hexdigest()
            assert byproducts[f"tensor:{name}"]["digest"]["sha256"] == expected
            assert byproducts[f"tensor:{name}"]["annotations"]["edited"] == (name == EDITED)


def test_it_agrees_with_its_file_and_base_and_with_nothing_else(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, new = pair
    manifest = manifest_of(new, base)
    assert problems(manifest, new) == []
    assert problems(manifest, new, base) == []
    assert problems(manifest, base)
    other = write_tiny_llama(tmp_path / "other.gguf", seed=1)
    assert "another base" in "".join(problems(manifest, new, other))


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9999])
def test_one_changed_byte_is_found(pair: tuple[Path, Path], tmp_path: Path, place: float) -> None:
    base, new = pair
    manifest = manifest_of(new, base)
    data = bytearray(new.read_bytes())
    with GgufFile.open(new) as file:
        start = file.data_offset
    data[start + int(place * (len(data) - start - 1))] ^= 1
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(data)
    found = problems(manifest, changed)
    assert any("another file" in line for line in found)
    assert any("bytes of" in line for line in found) or place > 0.99


def test_an_edit_that_is_not_named(pair: tuple[Path, Path]) -> None:
    base, new = pair
    # Made without the base, and the file declares nothing: so it claims that nothing was edited.
    silent = manifest_of(new)
    assert problems(silent, new) == []
    assert any(EDITED in line for line in problems(silent, new, base))


def test_written_beside_the_file_and_read_back(pair: tuple[Path, Path]) -> None:
    base, new = pair
    place = manifest_path(new)
    assert place.name == "new.gguf.intoto.json"
    manifest = manifest_of(new, base)
    write_manifest(manifest, place)
    assert read_manifest(place) == manifest


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"_type": "https://in-toto.io/Statement/v0.1"}', "[" * 100_000]
)
def test_what_is_no_manifest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(RosiEdgeError, match="not an in-toto statement"):
        read_manifest(path)
    with pytest.raises(RosiEdgeError, match="cannot be read"):
        read_manifest(tmp_path / "none")


def test_a_source_hash_that_is_no_hash_is_left_out(tmp_path: Path) -> None:
    odd = write_tiny_llama(tmp_path / "odd.gguf", metadata={"rosi.source.sha256": "../../x", "rosi.layer": 3})
    statement = json.loads(manifest_of(odd).to_json())
    assert statement["predicate"]["buildDefinition"]["resolvedDependencies"] == []
    assert statement["predicate"]["buildDefinition"]["externalParameters"]["layer"] == 3
