"""A manifest beside the file: what it is, tensor by tensor, and what it was made from.

An in-toto statement (https://in-toto.io/Statement/v1) with an SLSA provenance predicate
(https://slsa.dev/spec/v1.0/provenance). Signing is left to other tools: they sign it as any file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rosi_edge import __version__
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.text import printable
from rosi_edge.errors import RosiEdgeError
from rosi_edge.models.atomic import atomic_write
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import TensorInfo
from rosi_edge.models.seal import OWN_PREFIX
from rosi_edge.records.record import Sha256, Text

SUFFIX = ".intoto.json"
MAX_MANIFEST_BYTES = 1 << 26
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:rosi-edge:rank-one-edit:v1"
BUILDER = "urn:rosi-edge"
_STEP = 1 << 22
_HEADER = "header"


class _Part(BaseModel):
    # Frozen, but open: a statement made elsewhere may say more than this tool reads.
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class Digest(_Part):
    sha256: Sha256


class Described(_Part):
    """A ResourceDescriptor: a file, or a tensor as a by-product."""

    name: Text
    digest: Digest
    annotations: dict[str, Any] = Field(default_factory=dict)


class BuildDefinition(_Part):
    build_type: str = Field(alias="buildType")
    external_parameters: dict[str, Any] = Field(default_factory=dict, alias="externalParameters")
    internal_parameters: dict[str, Any] = Field(default_factory=dict, alias="internalParameters")
    resolved_dependencies: tuple[Described, ...] = Field(default=(), alias="resolvedDependencies")


class Builder(_Part):
    id: str
    version: dict[str, str] = Field(default_factory=dict)


class RunDetails(_Part):
    builder: Builder
    byproducts: tuple[Described, ...] = ()


class Predicate(_Part):
    build_definition: BuildDefinition = Field(alias="buildDefinition")
    run_details: RunDetails = Field(alias="runDetails")


class Manifest(_Part):
    """The statement. ``subject`` is the file; the tensors are the run's by-products."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[Described, ...] = Field(min_length=1)
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = Field(alias="predicateType")
    predicate: Predicate

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def make_manifest(
    file: GgufFile,
    *,
    sha256: str,
    base: GgufFile | None = None,
    base_sha256: str | None = None,
    progress: Progress = SILENT,
) -> Manifest:
    """Describe a file, every tensor by its hash.

    Args:
        sha256: of the file.
        base: what it was made from: the tensors that differ from it are named as edited. Without it, those
            that the file itself declares.
        base_sha256: of the base.
    """
    digests = tensor_digests(file, progress)
    if base is not None:
        old = tensor_digests(base, progress)
        edited = {name for name, digest in digests.items() if old.get(name) != digest}
    else:
        edited = set(_declared(file))
    own = {
        key.removeprefix(OWN_PREFIX): value
        for key, value in file.metadata.items()
        if key.startswith(OWN_PREFIX) and isinstance(value, (str, int, float, bool))
    }
    dependencies = []
    source = base_sha256 or _hash(own.get("source.sha256"))
    if source:
        name = base.path.name if base is not None else _text(own.get("source.file")) or "base"
        dependencies.append(Described(name=printable(name), digest=Digest(sha256=source)))
    byproducts = [Described(name=_HEADER, digest=Digest(sha256=header_digest(file)))]
    for name, digest in digests.items():
        tensor = file.tensors[name]
        byproducts.append(
            Described(
                name=f"tensor:{name}",
                digest=Digest(sha256=digest),
                annotations={"type": tensor.type.name, "shape": list(tensor.shape), "edited": name in edited},
            )
        )
    return Manifest(
        _type=STATEMENT,
        subject=(Described(name=file.path.name, digest=Digest(sha256=sha256)),),
        predicateType=PREDICATE,
        predicate=Predicate(
            buildDefinition=BuildDefinition(
                buildType=BUILD_TYPE,
                externalParameters=own,
                internalParameters={"editedTensors": sorted(edited)},
                resolvedDependencies=tuple(dependencies),
            ),
            runDetails=RunDetails(
                builder=Builder(id=BUILDER, version={"rosi-edge": __version__}), byproducts=tuple(byproducts)
            ),
        ),
    )


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Whole or not at all. Raises OutputError when it cannot be put there."""
    content = manifest.to_json().encode()
    with atomic_write(path, size=len(content)) as stream:
        stream.write(content)


def manifest_path(model: Path) -> Path:
    """Where the manifest of a file lies: beside it."""
    return model.with_name(model.name + SUFFIX)


def manifest_beside(model: Path) -> Path | None:
    """The manifest beside a file, if there is one."""
    try:
        path = manifest_path(model)
        return path if path.is_file() else None
    except (OSError, ValueError):
        return None  # a name that leaves no room for a suffix


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        RosiEdgeError: it is missing, too large, or no statement of this kind.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise RosiEdgeError(
            f"the manifest {path} cannot be read ({error.strerror or error})", "Check the path"
        ) from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise RosiEdgeError(f"{path} is too large for a manifest", "Give the manifest, not the model")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise RosiEdgeError(
            f"{path.name} is not an in-toto statement with SLSA provenance ({where}: {first['msg']})",
            "Give the file that rosi-edge wrote beside the model",
        ) from None


def check_manifest(
    manifest: Manifest,
    file: GgufFile,
    *,
    sha256: str,
    base: GgufFile | None = None,
    progress: Progress = SILENT,
) -> list[str]:
    """What does not agree, in words; empty when the file is the one described.

    Args:
        sha256: of the file.
        base: when given, also that every tensor which the manifest does not name as edited is the base's.
    """
    problems: list[str] = []
    if not any(subject.digest.sha256 == sha256 for subject in manifest.subject):
        problems.append(f"the manifest is for another file: it has the SHA-256 {sha256}")
    described = {
        item.name.removeprefix("tensor:"): item
        for item in manifest.predicate.run_details.byproducts
        if item.name.startswith("tensor:")
    }
    header = next((item for item in manifest.predicate.run_details.byproducts if item.name == _HEADER), None)
    if header is not None and header.digest.sha256 != header_digest(file):
        problems.append("the header (metadata and tensor table) is not the one described")
    if not described:
        problems.append("the manifest describes no tensors")
    digests = tensor_digests(file, progress)
    problems += [
        f"{printable(name)} is missing from the file" for name in sorted(described.keys() - digests.keys())
    ]
    problems += [f"{printable(name)} is not described" for name in sorted(digests.keys() - described.keys())]
    problems += [
        f"the bytes of {printable(name)} are not those described"
        for name, digest in digests.items()
        if name in described and described[name].digest.sha256 != digest
    ]
    if base is not None:
        problems += _against_base(manifest, file, digests, base, progress)
    return problems


def _against_base(
    manifest: Manifest, file: GgufFile, digests: dict[str, str], base: GgufFile, progress: Progress
) -> list[str]:
    named = manifest.predicate.build_definition.internal_parameters.get("editedTensors")
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        return ["the manifest does not name the edited tensors"]
    edited = set(named)
    problems = []
    old = tensor_digests(base, progress)
    for name in sorted(old.keys() | digests.keys()):
        if name in edited:
            continue
        if name not in old or name not in digests:
            problems.append(f"{printable(name)} is in one of the file and its base only")
        elif old[name] != digests[name] or _shape(file.tensors[name]) != _shape(base.tensors[name]):
            problems.append(f"{printable(name)} differs from the base's and is not named as edited")
    from rosi_edge.models.digest import sha256_of_model

    sources = [item.digest.sha256 for item in manifest.predicate.build_definition.resolved_dependencies]
    if sources and sha256_of_model(base, progress) not in sources:
        problems.append("the manifest names another base")
    return problems


def tensor_digests(file: GgufFile, progress: Progress = SILENT) -> dict[str, str]:
    """SHA-256 of each tensor's bytes, by name; read in pieces."""
    found = {}
    with progress.stage(f"Hashing the tensors of {file.path.name}", len(file.tensors)) as advance:
        for tensor in file.tensors.values():
            digest = hashlib.sha256()
            for start in range(0, tensor.size, _STEP):
                digest.update(file.read_tensor(tensor.name, start, min(_STEP, tensor.size - start)).data)
            found[tensor.name] = digest.hexdigest()
            advance(1)
    return found


def header_digest(file: GgufFile) -> str:
    """SHA-256 of everything before the tensors' bytes, of all parts."""
    digest = hashlib.sha256()
    for part in file.parts:
        end = min(part.data_offset, part.size)
        for start in range(0, end, _STEP):
            digest.update(part.read(start, min(_STEP, end - start)).data)
    return digest.hexdigest()


def _declared(file: GgufFile) -> Iterable[str]:
    from rosi_edge.edits.declaration import read_declaration

    declaration = read_declaration(file)
    return [] if declaration is None else [tensor.name for tensor in declaration.tensors]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _hash(value: object) -> str | None:
    """A SHA-256 out of a file's metadata, which may hold anything."""
    return value if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else None


def _shape(tensor: TensorInfo) -> tuple[object, ...]:
    return (*tensor.shape, tensor.type)
