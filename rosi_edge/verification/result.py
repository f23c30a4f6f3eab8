"""What a verification found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rosi_edge.basics.text import printable
from rosi_edge.edits.rank_one import RankOneEdit, same_edits

Outcome = Literal["passed", "failed", "not checked"]
Scales = Literal["untouched", "changed", "requantized", "promoted", "rescaled", "none"]


class TensorCheck(BaseModel):
    """What was found in one edited matrix.

    Attributes:
        changed: weights that differ from the base.
        scales: ``untouched`` are the base's, ``changed`` are not and should be; ``requantized``, ``promoted``
            and ``rescaled`` ones are others, as declared; plain floats have ``none``.
        largest_step: how far the weight that is furthest from its wanted value lies from it, in steps.
        noise_steps: the same as root mean square over all weights.
        along_edit: the change's projection onto the declared edit, in parts of the edit. What inputs see of
            the edit is more, as rounding follows them. A file that is not quantized has all of it.
        along_edit_by_chance: what that could be, at most, if the change had nothing to do with the edit.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    type: str
    base_type: str
    passed: bool
    problems: list[str]
    changed: int
    scales: Scales
    largest_step: float | None
    noise_steps: float | None
    along_edit: float | None
    along_edit_by_chance: float | None


class Verification(BaseModel):
    """``passed`` is true exactly when ``problems`` is empty. ``notes`` say what could not be checked."""

    model_config = ConfigDict(frozen=True)
    file: str
    base: str
    adapter: str | None
    passed: bool
    checks: dict[str, Outcome]
    problems: list[str]
    notes: list[str]
    rounding: str | None
    tensors: list[TensorCheck]


class Findings:
    """What a comparison with the base has found so far.

    Args:
        path: what is checked.
        base: what it is compared with.
        adapter: an adapter it is compared with as well.
        names: of the checks; none has been made yet.
    """

    def __init__(self, path: Path, base: Path, adapter: Path | None, names: Sequence[str]) -> None:
        self._files = (path, base, adapter)
        self._checks: dict[str, Outcome] = dict.fromkeys(names, "not checked")
        if adapter is not None:
            self._checks["adapter"] = "not checked"
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._rounding: str | None = None
        self._tensors: list[TensorCheck] = []

    def fail(self, check: str, problem: str) -> None:
        self._checks[check] = "failed"
        self._problems.append(printable(problem))

    def _passed(self, check: str) -> None:
        """Unless it has failed."""
        if self._checks[check] == "not checked":
            self._checks[check] = "passed"

    def _compare_with_adapter(
        self, declared: Sequence[RankOneEdit], given: Sequence[RankOneEdit], gains: Mapping[str, float]
    ) -> None:
        problem = same_edits(declared, given, gains)
        if problem is not None:
            self.fail("adapter", problem)
        self._passed("adapter")

    def result(self) -> Verification:
        path, base, adapter = self._files
        return Verification(
            file=str(path),
            base=str(base),
            adapter=None if adapter is None else str(adapter),
            passed=not self._problems,
            checks=self._checks,
            problems=self._problems,
            notes=self._notes,
            rounding=self._rounding,
            tensors=self._tensors,
        )
