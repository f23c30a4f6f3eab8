"""The kinds of values that options take: strengths, durations, sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType[float]):
    """Seconds, or a number followed by ``s``, ``m`` or ``h``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smh]?)", str(value).strip(), re.ASCII)
        seconds = float(found[1]) * _SECONDS[found[2]] if found else math.nan
        if not seconds > 0:
            self.fail(f"{value!r} is not a time: write 90, 10m or 1h", param, ctx)
        return seconds


PATH = click.Path(path_type=Path)


class Auto(click.ParamType[float | None]):
    """``auto`` (as None) or a number."""

    def __init__(self, number: Callable[[str], float], smallest: float) -> None:
        self.name = "auto|number"
        self._number = number
        self._smallest = smallest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if value is None or value == "auto":
            return None
        try:
            number = self._number(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither 'auto' nor a number", param, ctx)
        if not number >= self._smallest or number == float("inf"):
            self.fail(f"{value} is out of range", param, ctx)
        return number


class Strength(Auto):
    def __init__(self) -> None:
        # Only ever safer: a negative strength would remove refusals.
        super().__init__(float, smallest=1e-9)


class Sizes(click.ParamType[tuple[int, ...]]):
    """Numbers of prompts, separated by commas."""

    name = "sizes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        try:
            sizes = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers: write 5,10,20", param, ctx)
        if not all(2 <= size <= 100_000 for size in sizes):
            self.fail("every size must be at least 2", param, ctx)
        return sizes
