"""Reads files in the format of XSTest (Röttger et al., arXiv 2308.01263).

CSV with a heading: ``prompt`` and ``type``, and in the newer files ``label`` (safe or unsafe). Where there is
no label, the types that XSTest calls ``contrast_…`` are unsafe and the others safe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rosi_edge.errors import PromptSetError
from rosi_edge.prompts.files import decoded, read_file
from rosi_edge.prompts.sets import MAX_PROMPT_CHARACTERS, Prompt, PromptSet

_REMEDY = "Give a CSV file with the columns prompt, type and label, such as xstest_prompts.csv"


@dataclass(frozen=True)
class XSTest:
    """The prompts to answer and those to refuse; a prompt's category is its type."""

    safe: PromptSet
    unsafe: PromptSet


def load_xstest(path: Path) -> XSTest:
    """Read an XSTest file. Blank lines are skipped, and a prompt that occurs twice counts once.

    Raises:
        PromptSetError: the file cannot be read or is malformed (the message names the line), or has no safe
            prompt.
    """
    prompts: dict[str, tuple[Prompt, bool]] = {}
    doubled = [0, 0]
    for line, row in _rows(decoded(read_file(path, "XSTest file", _REMEDY), str(path)), path):
        text = row.get("prompt", "").strip()
        kind = row.get("type", "").strip()
        label = row.get("label", "").strip().lower()
        if not text:
            raise _malformed(path, line, "has no prompt")
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise _malformed(path, line, f"has a prompt of more than {MAX_PROMPT_CHARACTERS:,} characters")
        if label not in ("", "safe", "unsafe"):
            raise _malformed(path, line, f"has the label {label[:20]!r}, which is neither safe nor unsafe")
        if not label and not kind:
            raise _malformed(path, line, "has neither type nor label")
        unsafe = label == "unsafe" if label else kind.startswith("contrast_")
        doubled[unsafe] += text in prompts
        prompts.setdefault(text, (Prompt(text, kind or label), unsafe))
    safe = [prompt for prompt, unsafe in prompts.values() if not unsafe]
    if not safe:
        raise PromptSetError(f"{path} holds no safe prompts", _REMEDY)
    return XSTest(
        PromptSet.of(f"{path.stem}_safe", safe, str(path), doubled=doubled[False]),
        PromptSet.of(
            f"{path.stem}_unsafe",
            (p for p, unsafe in prompts.values() if unsafe),
            str(path),
            doubled=doubled[True],
        ),
    )


def _rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    heading: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise _malformed(path, line, f"is not CSV ({error})") from None
        if not any(cell.strip() for cell in cells):
            continue
        if heading is None:
            heading = [cell.strip().lower() for cell in cells]
            if "prompt" not in heading or not {"type", "label"} & set(heading):
                raise PromptSetError(f"{path} does not begin with the headings of XSTest", _REMEDY)
            continue
        yield line, dict(zip(heading, cells, strict=False))
    if heading is None:
        raise PromptSetError(f"{path} is empty", _REMEDY)


def _malformed(path: Path, line: int, problem: str) -> PromptSetError:
    return PromptSetError(f"{path}, line {line}, {problem}", _REMEDY)
