"""Models from the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosi_edge.errors import FetchError, RosiEdgeError

_QUANT_NAME = re.compile(r"(?:^|[-._/])((?:I?Q|TQ)\d\w*|BF16|F16|F32|MXFP4\w*)(?=[-._/]|$)", re.IGNORECASE)
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


def fetch_from_hub(reference: str) -> Path:
    """``hf:ORG/REPO[:QUANT]`` through ``huggingface_hub``, which keeps its own cache and credentials.

    Without QUANT the repository must hold a single model: a GGUF file, or where there is none a checkpoint
    (safetensors), whose folder is given back. QUANT is a type such as Q4_K_M, or a file's name.

    Raises:
        FetchError: the package is missing, or the repository or file is, or cannot be reached.
    """
    repository, wanted = parse_reference(reference, "model", "QUANT")
    with hub_package(repository) as huggingface_hub:
        names = [str(name) for name in huggingface_hub.list_repo_files(repository)]
        if not wanted and is_checkpoint_repository(names):
            return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(CHECKPOINT_FILES)))
        name = choose_file(repository, names, wanted)
        return Path(huggingface_hub.hf_hub_download(repository, name))


def parse_reference(reference: str, what: str, part: str) -> tuple[str, str]:
    """``hf:ORG/NAME[:PART]`` as the repository and the part, which may be empty.

    Raises:
        FetchError: it is written otherwise.
    """
    repository, _, wanted = reference.removeprefix("hf:").partition(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise FetchError(
            f"{reference} is not a {what} on the hub", f"Write hf:ORG/NAME or hf:ORG/NAME:{part}"
        )
    return repository, wanted


@contextmanager
def hub_package(repository: str) -> Iterator[Any]:
    """The package ``huggingface_hub``, around what is asked of a repository with it.

    Raises:
        FetchError: the package is missing, or what went wrong, in words.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise FetchError(
            "fetching from the Hugging Face hub needs the package huggingface_hub",
            "Install it with pip install 'rosi-edge[hub]'",
        ) from None
    try:
        yield huggingface_hub
    except RosiEdgeError:
        raise
    except Exception as error:
        # The package's errors come from whichever HTTP library its version uses.
        raise _hub_error(repository, error) from error


CHECKPOINT_FILES = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*",
    "LICENSE*",
    "NOTICE*",
)
"""What a checkpoint is run by: no pickled weights and no programs."""


def is_checkpoint_repository(names: list[str]) -> bool:
    """Whether a repository's files are a checkpoint in safetensors, and no GGUF file."""
    top = {name for name in names if "/" not in name}
    weights = any(name.endswith(".safetensors") for name in top)
    return weights and "config.json" in top and not any(name.lower().endswith(".gguf") for name in names)


def choose_file(repository: str, names: list[str], wanted: str) -> str:
    """The one GGUF file among a repository's files that ``wanted`` (a quantization, a file name or "") means.

    Raises:
        FetchError: none or several do; the message lists what there is.
    """
    models = sorted(name for name in names if name.lower().endswith(".gguf") and not _is_companion(name))
    if not models:
        raise FetchError(f"{repository} holds no GGUF file", "Look for a repository whose name ends in -GGUF")
    kinds = {name: _quantization(name) for name in models}
    if wanted:
        chosen = [name for name in models if name == wanted or kinds[name].lower() == wanted.lower()]
    else:
        chosen = models
    whole = [name for name in chosen if not _PART.search(name)]
    if len(whole) == 1:
        return whole[0]
    if chosen and not whole:
        raise FetchError(
            f"{repository} holds that model in parts, which cannot be hardened",
            "Download them, join them with llama-gguf-split --merge and give the path",
        )
    listed = (
        ", ".join(dict.fromkeys(kinds[name] or name for name in models if not _PART.search(name)))
        or "parts only"
    )
    if not chosen:
        raise FetchError(f"{repository} has no {wanted}", f"It has {listed}")
    if wanted:
        raise FetchError(f"several files of {repository} are {wanted}", f"Name one of {', '.join(whole)}")
    raise FetchError(
        f"{repository} holds several models", f"Write hf:{repository}:QUANT with one of {listed}"
    )


def _is_companion(name: str) -> bool:
    """Files beside a model that are not one: image projectors, importance matrices."""
    base = name.rpartition("/")[2].lower()
    return "mmproj" in base or "imatrix" in base


def _quantization(name: str) -> str:
    found = _QUANT_NAME.findall(_PART.sub("", name.rpartition("/")[2].removesuffix(".gguf")))
    return str(found[-1]).upper() if found else ""


def _hub_error(repository: str, error: Exception) -> FetchError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return FetchError(
            f"{repository} asks for its terms to be accepted",
            "Accept them on its page and log in with hf auth login",
        )
    if "RepositoryNotFoundError" in kinds:
        return FetchError(
            f"{repository} does not exist on the hub, or is private",
            "Check its name, or log in with hf auth login",
        )
    if "EntryNotFoundError" in kinds and "LocalEntryNotFoundError" not in kinds:
        return FetchError(f"a file of {repository} is gone", "Run the command again")
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return FetchError(
        f"{repository} could not be fetched: {lines[0].rstrip('.')}",
        "Check the network, or give a path",
    )
