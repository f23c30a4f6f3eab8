"""Benchmark files in, questions out; the format is told by the content."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rosi_edge.errors import PromptSetError
from rosi_edge.evaluation.multiple_choice import formats, hub
from rosi_edge.evaluation.multiple_choice.question import Benchmark, Question, QuestionSet
from rosi_edge.prompts.files import decoded, read_file
from rosi_edge.prompts.sets import fixture_folders

_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".json", ".parquet")
_PARQUET_MAGIC = b"PAR1"


def load_questions(reference: str | Path) -> QuestionSet:
    """Read a benchmark.

    MMLU's CSV files (question, A, B, C, D, answer), HellaSwag's and ARC's JSON lines, and the layouts that
    these have on the Hugging Face hub; Parquet files too if the package pyarrow is installed. Blank lines are
    skipped; a question that occurs twice counts once.

    Args:
        reference: a file, a folder of such files of one benchmark, or ``hf:ORG/DATASET[:SUBSET]``.

    Raises:
        PromptSetError: something cannot be read or is malformed; the message names file and line.
        FetchError: the hub cannot be reached, or has no such data set.
    """
    written = str(reference)
    if isinstance(reference, str) and reference.startswith("hf:"):
        return _from_hub(reference)
    path = Path(reference)
    try:
        files = _files_in(path) if path.is_dir() else [path]
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise PromptSetError(f"{written!r} cannot be read ({error})", "Check the path") from None
    return _read_all(path.stem if path.is_file() else path.name, files, source=written)


def bundled() -> dict[Benchmark, QuestionSet]:
    """The mini set that ships with the tool, which runs anywhere.

    Raises:
        PromptSetError: the installation lacks it.
    """
    for folder in fixture_folders():
        place = Path(str(folder)) / "utility"
        if place.is_dir():
            break
    else:
        raise PromptSetError("The bundled questions are missing", "Install rosi-edge again")
    sets = {}
    for benchmark in Benchmark:
        files = sorted(path for path in place.glob(f"{benchmark}*") if path.suffix in _SUFFIXES)
        sets[benchmark] = _read_all(f"mini_{benchmark}", files, source=f"bundled:utility/{benchmark}")
    return sets


def subject_of(path: Path) -> str:
    """The subject that a file is named after: MMLU's are called like ``high_school_physics_test.csv``."""
    name = path.stem.removeprefix("mmlu_")
    for ending in ("_test", "_val", "_dev", "_validation", "_train"):
        name = name.removesuffix(ending)
    return name


def _files_in(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file())
    if files:
        return files
    below = sorted(p.name for p in folder.iterdir() if p.is_dir() and any(_has_data(p)))
    remedy = f"Name one of its folders: {', '.join(below)}" if below else "Check the path"
    raise PromptSetError(f"{folder} holds no CSV or JSON lines file", remedy)


def _has_data(folder: Path) -> Iterator[bool]:
    return (True for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _from_hub(reference: str) -> QuestionSet:
    repository, candidates = hub.plan(reference)
    for place, names in enumerate(candidates):
        paths = [hub.download(repository, name) for name in names]
        try:
            return _read_all(repository.rpartition("/")[2].lower(), paths, source=reference)
        except formats.MissingAnswerError:
            # HellaSwag keeps the answers of its test part to itself: there the validation part is used.
            if place == len(candidates) - 1:
                raise
    raise AssertionError("a plan without files")


def _read_all(name: str, files: Iterable[Path], *, source: str) -> QuestionSet:
    # Doubled questions stay: the published benchmarks have some, and figures are compared with theirs.
    questions = [question for path in files for question in _read_file(path, name)]
    if not questions:
        raise PromptSetError(f"{source} holds no questions", "Check that it is the right file")
    kinds = sorted({question.benchmark for question in questions})
    if len(kinds) > 1:
        raise PromptSetError(
            f"{source} mixes questions of {' and '.join(kinds)}", "Name one benchmark at a time"
        )
    return QuestionSet.of(name, questions, source)


def _read_file(path: Path, set_name: str) -> list[Question]:
    data = read_file(path, "benchmark file", "Take the test or validation part")
    if data.startswith(_PARQUET_MAGIC):
        return _objects(_parquet_rows(data, path), path, set_name, unit="row")
    text = decoded(data, str(path))
    if text.lstrip().startswith("{") or path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return _objects(_json_rows(text, path), path, set_name, unit="line")
    return _csv_questions(text, path)


def _objects(
    rows: Iterator[tuple[int, dict[str, Any]]], path: Path, set_name: str, *, unit: str
) -> list[Question]:
    questions: list[Question] = []
    benchmark: Benchmark | None = None
    for number, row in rows:
        place = f"{path}, {unit} {number}"
        try:
            # A row that lacks its keys is a damaged one of the file's benchmark, not one of another.
            benchmark = benchmark or formats.benchmark_of(row)
            subject = subject_of(path) if benchmark is Benchmark.MMLU else set_name
            questions.append(formats.from_object(benchmark, row, subject, place))
        except formats.RowError as error:
            raise _with_place(error, place) from None
    return questions


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): it would also cut at U+2028 and the like, which JSON strings may hold.
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise PromptSetError(
                f"{path}, line {number} is not a JSON object", "Write one object on each line"
            )
        yield number, row


def _parquet_rows(data: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        # By name, since the package is optional and type checkers would miss it.
        read_table: Any = importlib.import_module("pyarrow.parquet").read_table
        arrow_error: type[Exception] = importlib.import_module("pyarrow").ArrowException
    except ImportError:
        raise PromptSetError(
            f"{path} is a Parquet file, which needs the package pyarrow",
            "Install it with pip install pyarrow, or name a CSV or JSON lines file",
        ) from None
    try:
        rows = read_table(io.BytesIO(data)).to_pylist()
    except (arrow_error, OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0].rstrip(".")
        problem = f"{path} is not a Parquet file that can be read ({reason})"
        raise PromptSetError(problem, "Fetch it again") from None
    yield from enumerate(rows, 1)


def _csv_questions(text: str, path: Path) -> list[Question]:
    questions: list[Question] = []
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    while True:
        # Quoted cells may run over several lines: a row's place is where it begins.
        place, line_before = f"{path}, line {line}", rows.line_num
        try:
            cells = next(rows)
        except StopIteration:
            return questions
        except csv.Error as error:
            raise PromptSetError(f"{place} is not CSV ({error})", "Close every quotation mark") from None
        line += rows.line_num - line_before
        if not any(cell.strip() for cell in cells):
            continue
        if not questions and [cell.strip().lower() for cell in cells[1:]] == [*"abcd", "answer"]:
            continue  # a heading, which MMLU's own files lack and copies often have
        try:
            questions.append(formats.mmlu_row(cells, subject_of(path), place))
        except formats.RowError as error:
            raise _with_place(error, place) from None


def _with_place(error: formats.RowError, place: str) -> PromptSetError:
    kind = formats.MissingAnswerError if isinstance(error, formats.MissingAnswerRowError) else PromptSetError
    return kind(f"{place} {error.message}", error.remedy)
