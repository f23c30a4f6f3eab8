"""Arguments and flags that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from rosi_edge.commands.arguments import PATH
from rosi_edge.errors import RosiEdgeError

Command = TypeVar("Command", bound=Callable[..., Any])


harmful_option = click.option("--harmful", type=PATH, help="Your own harmful requests: a file, one on each "
                              "line (text or JSON lines).")  # fmt: skip
harmless_option = click.option("--harmless", type=PATH, help="Your own harmless requests.")
sounds_harmful_option = click.option("--sounds-harmful", type=PATH,
                                     help="Your own harmless requests that sound harmful.")  # fmt: skip
elicit_option = click.option("--elicit", is_flag=False, flag_value="", default=None, metavar="[TEXT]",
                             help="Measure the refusal direction under a safety system prompt: TEXT, or a "
                                  "built-in one.")  # fmt: skip


def runtime_flags(command: Command) -> Command:
    for option in reversed((
        click.option("-t", "threads", type=click.IntRange(1), help="Threads  [default: all cores]"),
        click.option("-c", "context_size", type=click.IntRange(256), default=4096, show_default=True,
                     help="Context size, shared by all prompts of a batch."),
        click.option("-b", "batch_size", type=click.IntRange(32), default=512, show_default=True,
                     help="Tokens in one batch."),
        click.option("-ngl", "gpu_layers", type=int, default=0, show_default=True,
                     help="Layers to put on the GPU (needs a CUDA build of llama-cpp-python)."),
        click.option("--rpc", metavar="HOST:PORT,…", default=None,
                     help="llama.cpp RPC servers that share the work (needs a build with RPC)."),
        click.option("--template", type=PATH, help="Chat template (Jinja) to use instead of the file's own."),
    )):  # fmt: skip
        command = option(command)
    return command


def engine_options(
    threads: int | None,
    batch_size: int,
    context_size: int,
    gpu_layers: int,
    template: Path | None,
    rpc: str | None = None,
) -> Any:
    from rosi_edge.runtime.engine import EngineOptions

    return EngineOptions(
        gpu_layers=gpu_layers,
        context_size=context_size,
        batch_size=batch_size,
        threads=threads,
        template=read_text(template) if template else None,
        rpc=tuple(server.strip() for server in rpc.split(",")) if rpc is not None else (),
    )


def read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RosiEdgeError(f"{path} cannot be read: {error}", "Give a UTF-8 text file") from error


def elicitation_of(elicit: str | None) -> str | None:
    from rosi_edge.direction.elicitation import DEFAULT_ELICITATION

    return None if elicit is None else (elicit or DEFAULT_ELICITATION)
