"""Which files of a data set on the Hugging Face hub to read, and how to get them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rosi_edge.errors import FetchError, RosiEdgeError

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
    repository, _, subset = reference.removeprefix("hf:").partition(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise FetchError(
            f"{reference} is not a data set on the hub", "Write hf:ORG/DATASET or hf:ORG/DATASET:SUBSET"
        )
    try:
        import huggingface_hub
    except ImportError:
        raise FetchError(
            "fetching from the Hugging Face hub needs the package huggingface_hub",
            "Install it with pip install 'rosi-edge[hub]'",
        ) from None
    try:
        names = [str(name) for name in huggingface_hub.list_repo_files(repository, repo_type="dataset")]
    except Exception as error:
        # The package's errors come from whichever HTTP library its version uses.
        raise _hub_error(repository, error) from error
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
    try:
        import huggingface_hub

        return Path(huggingface_hub.hf_hub_download(repository, name, repo_type="dataset"))
    except RosiEdgeError:
        raise
    except Exception as error:
        raise _hub_error(repository, error) from error


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


def _hub_error(repository: str, error: Exception) -> FetchError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return FetchError(
            f"{repository} asks for its terms to be accepted",
            "Accept them on its page and log in with hf auth login",
        )
    if "RepositoryNotFoundError" in kinds:
        return FetchError(f"{repository} is not a data set on the hub, or is private", "Check its name")
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return FetchError(
        f"{repository} could not be fetched: {lines[0].rstrip('.')}",
        "Check the network, or give the path of a file",
    )
