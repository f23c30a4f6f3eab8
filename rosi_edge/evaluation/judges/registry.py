"""The judges by the names that ``--judge`` takes, and which guard a model file is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rosi_edge.basics.hashing import sha256_of
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.text import printable
from rosi_edge.errors import RosiEdgeError, UnsupportedModelError
from rosi_edge.evaluation.judges import granite_guardian, llama_guard, qwen3_guard, shield_gemma
from rosi_edge.evaluation.judges.guard import GuardFile, GuardFormat, GuardJudge
from rosi_edge.evaluation.judges.http import HttpJudge
from rosi_edge.evaluation.judges.keyword import KeywordJudge
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.runtime.child_engine import ChildEngine
from rosi_edge.runtime.engine import EngineOptions
from rosi_edge.sources.resolve import resolve

KINDS = (
    "keyword",
    "gguf:PATH",
    "gguf:hf:ORG/REPO[:QUANT]",
    "http://HOST[:PORT][#MODEL]",
    "https://HOST[#MODEL]",
)
GUARDS = ("Llama Guard 2 or 3", "Qwen3Guard-Gen", "Granite Guardian", "ShieldGemma")

# Qwen3Guard before Llama Guard: its prompt has a list of categories under the same heading.
_RECOGNISERS: tuple[Callable[[GuardFile], GuardFormat | None], ...] = (
    qwen3_guard.recognise,
    llama_guard.recognise,
    granite_guardian.recognise,
    shield_gemma.recognise,
)


@contextmanager
def open_judge(
    spec: str, options: EngineOptions | None = None, progress: Progress = SILENT
) -> Iterator[Judge]:
    """The judge that ``spec`` names, open for as long as the context.

    Args:
        spec: one of ``KINDS``. ``http:URL`` is understood too; what follows ``#`` names the server's model.
        options: how a guard model is run; its chat template is chosen here.

    Raises:
        RosiEdgeError: there is no such judge, or a server's address cannot be used.
        ModelFileError, FetchError: the guard's file is missing or damaged, or cannot be fetched.
        UnsupportedModelError: the file is no guard.
        EngineError: llama.cpp cannot run it.
    """
    kind, _, rest = spec.partition(":")
    if spec == "keyword":
        yield KeywordJudge()
    elif kind == "gguf" and rest:
        with _open_guard(rest, options or EngineOptions(), progress) as judge:
            yield judge
    elif kind in ("http", "https") and rest:
        url, _, model = _url(kind, rest).partition("#")
        yield HttpJudge(url, model or None, progress=progress)
    else:
        raise RosiEdgeError(f"there is no judge {printable(spec, 80)!r}", f"Choose one of {', '.join(KINDS)}")


def detect_format(file: GgufFile) -> GuardFormat:
    """Which guard a model file is, by its metadata (names, architecture, chat template).

    Raises:
        UnsupportedModelError: it is none that this tool knows.
    """
    guard_file = GuardFile.of(file)
    for recognise in _RECOGNISERS:
        guard = recognise(guard_file)
        if guard is not None:
            return guard
    called = file.text("general.name") or guard_file.architecture
    raise UnsupportedModelError(
        f"{file.path.name} ({printable(called, 60)}) is no guard model this tool knows",
        f"Give a GGUF file of {', '.join(GUARDS[:-1])} or {GUARDS[-1]}, or use --judge keyword",
    )


def guard_template(file: GgufFile, guard: GuardFormat) -> str:
    """The chat template to run this guard with.

    Raises:
        UnsupportedModelError: only the file's own would do, and it has none.
    """
    template = guard.template(file.text("tokenizer.chat_template"))
    if template is None:
        raise UnsupportedModelError(
            f"{file.path.name} is {guard.name} without the chat template that its prompt is made by",
            "Get a GGUF file that has it, or use --judge keyword",
        )
    return template


@contextmanager
def _open_guard(reference: str, options: EngineOptions, progress: Progress) -> Iterator[Judge]:
    path = resolve(reference, progress)
    with GgufFile.open(path) as file:
        guard = detect_format(file)
        template = guard_template(file, guard)
    sha256 = sha256_of(path, progress)
    with ChildEngine(path, replace(options, template=template)) as engine:
        yield GuardJudge(engine, guard, file_name=path.name, sha256=sha256, progress=progress)


def _url(kind: str, rest: str) -> str:
    """``http://host``, ``http:http://host`` and ``http:host:8080`` all mean a server."""
    if rest.startswith("//"):
        return f"{kind}:{rest}"
    return rest if "://" in rest else f"{kind}://{rest}"
