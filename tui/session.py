"""What the wizard asks of the library, as one small interface, so that tests can put a fake in its place."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # Not at run time: the wizard shall be there before scipy, optuna and matplotlib are.
    from rosi_edge.baking.measure import BakedTensor
    from rosi_edge.basics.progress import Progress
    from rosi_edge.direction.difference import Directions
    from rosi_edge.evaluation.behaviour import Behaviour
    from rosi_edge.evaluation.verdicts import Judge
    from rosi_edge.hardening.events import Events
    from rosi_edge.hardening.options import HardenOptions
    from rosi_edge.inspection import Inspection
    from rosi_edge.prompts.plan import PromptPlan
    from rosi_edge.records.hardening import HardeningReport, HardeningVerdict
    from rosi_edge.search.result import AnsweredPoint, SearchResult


class Session(Protocol):
    """The steps of ``rosi_edge.hardening.session.HardeningSession``."""

    options: HardenOptions
    progress: Progress
    events: Events
    directions: Directions | None
    found: SearchResult | None
    chosen: AnsweredPoint | None

    @property
    def findings(self) -> list[str]: ...

    @property
    def after(self) -> Behaviour | None: ...

    @property
    def baked(self) -> list[BakedTensor]: ...

    def reconfigure(self, options: HardenOptions) -> None: ...

    def calibrate(self) -> Directions: ...

    def search(self) -> SearchResult: ...

    def choose(self, point: AnsweredPoint | None) -> None: ...

    def apply(self, strength: float | None) -> None: ...

    def answer(self, request: str, on_text: Callable[[str], None], *, max_tokens: int = 200) -> None: ...

    def check_target(self, output: Path) -> list[Path]: ...

    def measure_before(self) -> Behaviour: ...

    def bake(self, output: Path) -> list[BakedTensor]: ...

    def measure_after(self) -> Behaviour | None: ...

    def verdict(self) -> HardeningVerdict: ...

    @property
    def costs_refusals(self) -> bool: ...

    def finish(self, *, command: str | None = None, force: bool | None = None) -> HardeningReport: ...

    def cancel(self) -> None: ...

    def close(self) -> None: ...


class Library:
    """The rosi_edge library; every method may be slow and raises RosiEdgeError."""

    def preload(self) -> None:
        """Import what takes seconds to import."""
        import rosi_edge.hardening.session
        import rosi_edge.report.write  # noqa: F401

        # Modules stay. Looking through all of theirs for garbage, again and again, holds up the screen for a
        # tenth of a second at a time.
        gc.freeze()

    def resolve(self, reference: str, progress: Progress) -> Path:
        from rosi_edge.sources.resolve import resolve

        return resolve(reference, progress)

    def inspect(self, path: Path) -> Inspection:
        from rosi_edge.inspection import inspect

        return inspect(path)

    def open(
        self, path: Path, prompts: PromptPlan, judge: Judge, options: HardenOptions, progress: Progress
    ) -> Session:
        from rosi_edge.hardening.session import HardeningSession

        return HardeningSession(path, prompts, judge, options, progress)

    def check_report_folder(self, folder: Path) -> None:
        from rosi_edge.report.write import check_folder

        check_folder(folder)

    def write_report(self, report: HardeningReport, folder: Path) -> None:
        from rosi_edge.report.write import write_report

        write_report(report, folder)
