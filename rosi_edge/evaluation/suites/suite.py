"""What a suite is: it reads its own input, measures one model, and says what two measurements mean."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from rosi_edge.basics.progress import Progress
from rosi_edge.basics.statistics import (
    Estimate,
    PairedChange,
    mean,
    mean_share,
    paired_change,
    paired_mean_change,
    paired_share_change,
    proportion,
)
from rosi_edge.errors import EngineError
from rosi_edge.evaluation.kept import Kept
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.prompts.sets import (
    Kind,
    Part,
    PromptSet,
    bundled,
    load_prompts,
)
from rosi_edge.records.evaluation import Better, SuiteFinding, Unit
from rosi_edge.runtime.engine import Engine


@dataclass(frozen=True)
class SuiteChoices:
    """What the user asked for; None where a default applies.

    Attributes:
        limit: at most this many prompts or questions of each set, drawn with ``seed``.
        max_tokens: tokens of each answer that the judge sees.
        compared: there is a base to compare with.
    """

    harmful: Path | None = None
    benign: Path | None = None
    sounds_harmful: Path | None = None
    xstest: Path | None = None
    attacks: str | None = None
    utility: tuple[str, ...] | None = None
    text: Path | None = None
    stability_tokens: int | None = None
    limit: int | None = None
    max_tokens: int = 24
    seed: int = 0
    compared: bool = False

    def prompts(self, kind: Kind, default_limit: int | None = None) -> PromptSet:
        """The user's prompts of a kind or the bundled ones, drawn down to the limit.

        Raises:
            PromptSetError: the user's file cannot be used.
        """
        files = {Kind.HARMFUL: self.harmful, Kind.HARMLESS: self.benign}
        path = files.get(kind, self.sounds_harmful)
        found = load_prompts(path) if path is not None else bundled(kind, Part.REPORTING)
        limit = self.limit or default_limit
        return found if limit is None else found.take(limit, self.seed)


@dataclass(frozen=True)
class InputSet:
    """What a suite measured on, for the report.

    Attributes:
        doubled: lines of its file that repeated an earlier one and were left out.
    """

    name: str
    n: int
    sha256: str
    doubled: int = 0

    @classmethod
    def of(cls, prompts: PromptSet) -> Self:
        return cls(prompts.name, len(prompts), prompts.sha256, prompts.doubled)


@dataclass(frozen=True)
class Series:
    """One outcome an item, which two measurements are paired by.

    Attributes:
        name: the figure's key in reports; unique over all suites.
        label: the same in words.
        items: what was measured, as ids that do not depend on the model.
        values: outcomes (their rate is reported) or numbers (their mean).
    """

    name: str
    label: str
    items: tuple[str, ...]
    values: tuple[bool, ...] | tuple[float, ...]
    better: Better
    unit: Unit = "rate"

    def __post_init__(self) -> None:
        if len(self.items) != len(self.values) or not self.items:
            raise ValueError(f"{self.name} has {len(self.values)} values for {len(self.items)} items")

    @property
    def estimate(self) -> Estimate:
        if self._are_outcomes:
            return proportion(sum(map(bool, self.values)), len(self.values))
        return (mean_share if self.unit == "rate" else mean)([float(value) for value in self.values])

    def change_from(self, before: Series) -> PairedChange | None:
        """The paired change on the items that both have; None when they have none in common."""
        earlier = dict(zip(_numbered(before.items), before.values, strict=True))
        pairs = [
            (earlier[item], value)
            for item, value in zip(_numbered(self.items), self.values, strict=True)
            if item in earlier
        ]
        if not pairs:
            return None
        old, new = zip(*pairs, strict=True)
        if self._are_outcomes:
            return paired_change([bool(value) for value in old], [bool(value) for value in new])
        paired = paired_share_change if self.unit == "rate" else paired_mean_change
        return paired([float(value) for value in old], [float(value) for value in new])

    @property
    def _are_outcomes(self) -> bool:
        return all(isinstance(value, bool) for value in self.values)


@dataclass(frozen=True)
class Unpaired:
    """A figure that is no rate or mean of a series, such as a quantile; it has no paired change."""

    name: str
    label: str
    estimate: Estimate
    better: Better
    unit: Unit


@dataclass(frozen=True)
class SuiteResult:
    """One suite on one model.

    Attributes:
        figures: in the order to show them.
        details: whatever else belongs into the JSON report. No answers: verdicts, and at most their opening
            words.
    """

    figures: tuple[Series | Unpaired, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    def series(self, name: str) -> Series | None:
        found = (figure for figure in self.figures if figure.name == name and isinstance(figure, Series))
        return next(found, None)


class Subject:
    """The model being measured. Its engine starts when it is first asked for: a piece of work that an
    earlier call has finished needs none.

    Args:
        title: what progress calls it.
        sha256: of its file.
        open_engine: starts it.
        judge: None when no suite needs one.
        base: the model it is compared with, if any.
    """

    def __init__(
        self,
        title: str,
        sha256: str,
        open_engine: Callable[[], Engine],
        kept: Kept,
        judge: Judge | None,
        base: Subject | None = None,
    ) -> None:
        self.title = title
        self.sha256 = sha256
        self.kept = kept
        self.base = base
        self._judge = judge
        self._open_engine = open_engine
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._open_engine()
        return self._engine

    @property
    def judge(self) -> Judge:
        if self._judge is None:
            raise ValueError("this evaluation was opened without a judge")
        return self._judge

    def close(self) -> None:
        """Stop the engine; the next use starts it again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class Suite(Protocol):
    """Something to measure, with its input read and checked.

    Attributes:
        name: what ``--suites`` calls it.
        description: one line for the help text.
        needs_base: it measures a model against another one.
        needs_judge: it judges answers.
        takes: the fields of ``SuiteChoices`` with input of its own that it reads.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    needs_base: ClassVar[bool] = False
    needs_judge: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, choices: SuiteChoices) -> Self:
        """Read and check the input, before any model is started.

        Raises:
            RosiEdgeError: the input cannot be used.
        """
        ...

    @property
    def inputs(self) -> tuple[InputSet, ...]: ...

    @property
    def settings(self) -> dict[str, Any]:
        """What else decides the result, for the report. JSON."""
        ...

    def measure(self, subject: Subject, progress: Progress) -> SuiteResult:
        """Measure one model; a finished piece of work goes to ``subject.kept``.

        Raises:
            RosiEdgeError: the model, or the judge, cannot do what is needed.
        """
        ...

    def findings(self, base: SuiteResult | None, model: SuiteResult) -> tuple[SuiteFinding, ...]:
        """What the two measurements say beyond their figures."""
        return ()


def item_id(text: str) -> str:
    """A stable name for a prompt or question, which does not repeat it."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def refuse_nan(values: Iterable[float]) -> None:
    """Raise EngineError when a model's figures are not all numbers."""
    if not all(map(math.isfinite, values)):
        raise EngineError(
            "the model's probabilities are not numbers", "The file is damaged, or its weights are broken"
        )


def _numbered(items: Sequence[str]) -> list[str]:
    """Ids made unique: published benchmarks have doubled questions."""
    seen: Counter[str] = Counter()
    numbered = []
    for item in items:
        seen[item] += 1
        numbered.append(f"{item}#{seen[item]}")
    return numbered
