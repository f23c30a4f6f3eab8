"""What may be left out of an installation: whatever only looks at files works without it.

``hub`` and ``torch`` are asked for where they are used.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from rosi_edge.errors import RosiEdgeError

Extra = Literal["run", "tui"]

_RUN = ("llama_cpp", "optuna", "scipy", "matplotlib")
_MODULES: dict[Extra, tuple[str, ...]] = {
    "run": _RUN,
    "tui": (*_RUN, "textual", "textual_plot"),
}
"""By the extras of pyproject.toml."""


class MissingExtraError(RosiEdgeError):
    """Something is asked for that needs packages which are not installed."""


NOT_TRIED = "whether llama.cpp loads it was not tried: llama-cpp-python is not installed"


def llama_cpp_is_installed() -> bool:
    return find_spec("llama_cpp") is not None


def require(extra: Extra, what: str) -> None:
    """
    Args:
        what: is asked for, as the beginning of a sentence.

    Raises:
        MissingExtraError: a package of the extra is not installed.
    """
    missing = [module for module in _MODULES[extra] if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"{what} needs packages that are not installed ({', '.join(missing)})",
            f"Install them with pip install 'rosi-edge[{extra}]'",
        )
