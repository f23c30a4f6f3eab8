"""Whether llama.cpp takes a file. It is asked itself, in a process that may crash."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rosi_edge.basics.child import start
from rosi_edge.basics.text import printable
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.gguf_header import MetadataArray

_PATIENCE = 120.0
"""Seconds. Real files take a fraction of one, half a million tokens two."""

_NEEDED_TOKENS = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
"""llama.cpp puts another token in the place of one that is outside the vocabulary, and goes on. A model with
another end goes on too, so these are taken as errors."""

_SHOWN = 3


@dataclass(frozen=True)
class Objection:
    """Why llama.cpp does not take a file, and what to do about it; both in words."""

    reason: str
    advice: str


@dataclass
class _Heard:
    """What llama.cpp said of one file."""

    tensors: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    loaded: bool = False

    def take(self, kind: str, text: str) -> None:
        if kind == "loaded":
            self.loaded = True
        elif kind == "tensor":
            self.tensors.add(text)
        else:
            (self.errors if kind == "error" else self.warnings).append(text)


def objection(file: GgufFile) -> Objection | None:
    """What llama.cpp has against this file; None when it would load it.

    Its settings, its vocabulary and the shapes of its tensors are read by llama.cpp's own loader, and a graph
    is planned; weights are neither read nor given memory.
    """
    heard = _listen(file.path)
    from rosi_edge.native.words import in_plain_words

    wrong_end = next(
        (line for line in heard.warnings if any(f"'{key}'" in line for key in _NEEDED_TOKENS)), None
    )
    if heard.loaded and wrong_end is None:
        return None
    # llama.cpp logs the cause first and wraps it afterwards, so the first line says most.
    said = wrong_end if heard.loaded and wrong_end else next(iter(heard.errors), "no reason given")
    reason, advice = in_plain_words(said)
    return Objection(printable(reason + _details(file, said, heard)), advice)


def _details(file: GgufFile, said: str, heard: _Heard) -> str:
    """The names that llama.cpp's own line leaves out."""
    if "wrong number of tensors" in said:
        return _listed([name for name in file.tensors if name not in heard.tensors], "these do not: ")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if "token_to_id" in said and isinstance(tokens, MetadataArray):
        return _listed([repr(token) for token, count in Counter(tokens).items() if count > 1])
    return ""


def _listed(names: list[str], before: str = "") -> str:
    more = ", …" if len(names) > _SHOWN else ""
    return f": {before}{', '.join(names[:_SHOWN])}{more}" if names else ""


def _listen(path: Path) -> _Heard:
    heard = _Heard()
    with tempfile.TemporaryFile(prefix="rosi-edge-") as last_words:
        process, connection = start("rosi_edge.native.trial", output=last_words, defaults={})
        with connection:
            try:
                connection.send_bytes(os.fsencode(path))
                # Bytes and no objects: whatever the file does to the child, it cannot hand over a pickle.
                while connection.poll(_PATIENCE):
                    kind, _, text = connection.recv_bytes().decode("utf-8", "replace").partition(" ")
                    heard.take(kind, text)
                heard.errors.insert(0, f"llama.cpp has been reading it for {_PATIENCE:.0f} seconds")
                return heard
            except (EOFError, BrokenPipeError, ConnectionResetError):
                process.wait()
            finally:
                process.kill()
                process.wait()
        last_words.seek(0)
        lines = last_words.read().decode("utf-8", "replace").strip().splitlines()
    if process.returncode == 1:
        # So Python ends. llama.cpp aborts.
        raise RuntimeError("\n".join(["the process that tries the file failed:", *lines]))
    if process.returncode:
        heard.loaded = False
        heard.errors.insert(0, lines[-1] if lines else f"llama.cpp crashes on it ({process.returncode})")
    return heard
