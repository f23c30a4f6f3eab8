"""Which files of a data set on the Hugging Face hub to read, and how to get them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rosi_edge.errors import FetchError
from rosi_edge.sources.hub import hub_package, parse_reference

_SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson", ".json")
_SPLITS = {"test": "test", "validation": "validation", "val": "validation", "valid": "validation"}
_OTHER_SPLITS = {"train", "dev", "auxiliary_train", "auxiliary", "train_confidence"}
_EVERYTHING = "all"


def plan(reference: str) -> tuple[str, list[list[str]]]:
    """The repository and its files: those of the test part first, then those of the validation part.

    Raises:
        FetchError: the reference is malformed, the package is missing, the repository cannot be listed, or
            holds nothing to read.
    """
    repository, subset = parse_reference(reference, "data set", "SUBSET")
    with hub_package(repository) as huggingface_hub:
        names = [str(name) for name in huggingface_hub.list_repo_files(repository, repo_type="dataset")]
    return repository, choose(repository, names, subset)


def choose(repository: str, names: Sequence[str], subset: str) -> list[list[str]]:
    """The files to read, by part, out of a repository's files.

    Raises:
        FetchError: there are none, or several subsets and none was named.
    """
    by_subset: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        split = _split_of(path)
        if path.suffix.lower() in _SUFFIXES and split:
            by_subset.setdefault(_subset_of(path), {}).setdefault(split, []).append(name)
    if not by_subset:
        raise FetchError(
            f"{repository} has no test or validation part in CSV, JSON lines or Parquet",
            "Download its files and give their folder",
        )
    listed = ", ".join(filter(None, by_subset))
    if subset:
        if subset not in by_subset:
            raise FetchError(f"{repository} has no {subset}", f"It has {listed or 'a single set'}")
        parts = by_subset[subset]
    elif len(by_subset) == 1:
        parts = next(iter(by_subset.values()))
    elif _EVERYTHING in by_subset:
        parts = by_subset[_EVERYTHING]
    else:
        raise FetchError(
            f"{repository} holds several sets", f"Write hf:{repository}:SUBSET with one of {listed}"
        )
    return [_one_format(parts[split]) for split in ("test", "validation") if split in parts]


def download(repository: str, name: str) -> Path:
    """One file, in the hub package's own cache.

    Raises:
        FetchError: it cannot be fetched.
    """
    with hub_package(repository) as huggingface_hub:
        return Path(huggingface_hub.hf_hub_download(repository, name, repo_type="dataset"))


def _split_of(path: PurePosixPath) -> str | None:
    """The part that a file belongs to, by the last folder or the word of its name that says so."""
    words = [*re.split(r"[-_.]", path.stem.lower())[::-1], *(folder.lower() for folder in path.parts[-2::-1])]
    for word in words:
        if word in _SPLITS:
            return _SPLITS[word]
        if word in _OTHER_SPLITS:
            return None
    return None


def _subset_of(path: PurePosixPath) -> str:
    folders = [f for f in path.parts[:-1] if f.lower() not in {*_SPLITS, *_OTHER_SPLITS, "data"}]
    return "/".join(folders)


def _one_format(names: list[str]) -> list[str]:
    """Files of one kind only: some repositories hold the same questions in two, and text needs no package."""
    for suffixes in ((".csv",), (".jsonl", ".ndjson", ".json"), (".parquet",)):
        found = [name for name in names if PurePosixPath(name).suffix.lower() in suffixes]
        if found:
            return found
    return names
