"""Which files of a checkpoint folder belong to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rosi_edge.errors import ModelFileError
from rosi_edge.models.safetensors_header import DOWNLOAD_AGAIN, damaged_file, json_object

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
OWN_FACTS = "rosi-edge.json"
"""What was done to a hardened checkpoint: the ``rosi.*`` metadata of a hardened GGUF file, and hashes."""
_WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5", ".onnx", ".onnx_data", ".ckpt",
    ".tflite", ".npz", ".pkl",
)  # fmt: skip
_LONGEST_NAME = 200
"""Bytes of a file's name; every file system takes that many."""
_DEEPEST = 32
"""Folders within folders; a version control's are five or so."""


def other_files(folder: Path) -> list[str]:
    """The files of a checkpoint that are neither weights nor this tool's own: settings, tokenizer, texts.

    Those in folders of it count, hidden folders do not. A name has slashes, whatever the system's own are.

    Raises:
        ModelFileError: there is a link that leads elsewhere, to a file that is nobody's to publish, or
            folders are nested too deep.
    """
    found = []
    for path in _entries(folder):
        if path.is_symlink() and not _belongs_to(path, folder):
            raise ModelFileError(
                f"{path} is a link that leads out of the checkpoint", "Put the file itself in its place"
            )
        if path.is_file() and path.name != OWN_FACTS and not path.name.endswith(_WEIGHTS):
            found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def left_out(folder: Path) -> list[str]:
    """What a hardened checkpoint does not take over: the same weights in other forms, hidden folders, and
    what is no file."""
    known = {*shards(folder), *other_files(folder), OWN_FACTS}
    names = (path.relative_to(folder).as_posix() for path in _entries(folder, hidden=True))
    return sorted(name for name in names if name not in known)


def _entries(folder: Path, *, hidden: bool = False) -> Iterator[Path]:
    """All that lies in a folder and is no folder, in hidden folders only if asked for. Follows no links."""
    waiting = [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ModelFileError(f"the folders in {folder} are nested too deep", DOWNLOAD_AGAIN)
        for path in place.iterdir():
            if path.is_symlink() or not path.is_dir():
                yield path
            elif hidden or not path.name.startswith("."):
                waiting.append((path, depth + 1))


def _belongs_to(path: Path, folder: Path) -> bool:
    """Whether a link leads to a file of a folder that is not in a hidden one, or into the download cache of
    huggingface_hub, whose ``models--ORG--NAME/snapshots/REVISION`` are links to ``blobs`` beside them."""
    place, root = path.resolve(), folder.resolve()
    if place.is_dir():
        return False
    if place.is_relative_to(root):
        return not any(part.startswith(".") for part in place.relative_to(root).parts[:-1])
    return place.parent.name == "blobs" and place.parent.parent.name.startswith("models--")


def shards(path: Path) -> tuple[str, ...]:
    if (path / INDEX).is_file() and (path / SINGLE).is_file():
        # transformers would run the single file, whatever the index says.
        raise ModelFileError(
            f"{path} holds two models: {SINGLE}, and the files that {INDEX} names",
            "Remove the one that does not belong there",
        )
    if (path / INDEX).is_file():
        table = json_object(path / INDEX).get("weight_map")
        if not isinstance(table, dict) or not table:
            damaged_file(path / INDEX, "it has no weight_map")
        names = sorted({str(name) for name in table.values()})
    elif (path / SINGLE).is_file():
        names = [SINGLE]
    else:
        raise ModelFileError(
            f"{path} holds no {SINGLE} and no {INDEX}",
            "Only safetensors are read: pickled checkpoints can run any program",
        )
    for name in names:
        # The index is part of an untrusted model: it must not lead out of the folder.
        if (
            name != Path(name).name
            or not name.endswith(".safetensors")
            or "\0" in name
            or len(os.fsencode(name)) > _LONGEST_NAME
        ):
            damaged_file(path / INDEX, f"it names {name[:_LONGEST_NAME]!r} as a file")
        if not (path / name).is_file():
            raise ModelFileError(f"{path / name} is missing", DOWNLOAD_AGAIN)
    return tuple(names)
