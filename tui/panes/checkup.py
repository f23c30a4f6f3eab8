"""Step 2: what the file is, and whether it can be hardened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from textual.containers import VerticalScroll
from textual.widget import Widget

from rosi_edge.basics.text import megabytes

from ..jobs import Activity
from ..steps import Step
from ..widgets.facts import Facts
from .base import StepPane

if TYPE_CHECKING:
    from rosi_edge.inspection import Inspection


def facts(found: Inspection) -> list[tuple[str, str]]:
    """An inspection in words."""
    types = ", ".join(f"{name} × {share.tensors}" for name, share in found.quantization.items())
    matrices = Counter((matrix.kind, matrix.type) for matrix in found.write_matrices)
    return [
        (
            "can be hardened",
            "✓ yes" if found.can_harden else "✗ no: " + "; ".join(found.reasons),
        ),
        *(("warning", f"! {warning}") for warning in found.warnings),
        ("file", f"{found.path} ({megabytes(found.size, 0)})"),
        ("name", found.name or "not given"),
        ("architecture", found.architecture or "not given"),
        ("parameters", f"{found.parameters / 1e6:,.0f} million"),
        ("blocks, hidden size", f"{found.block_count or '?'}, {found.hidden_size or '?'}"),
        ("quantization", f"{found.file_type or 'not named'}: {types}"),
        ("chat template", "yes" if found.chat_template else "no"),
        (
            "places to edit",
            ", ".join(f"{count} × {kind} ({kind_type})" for (kind, kind_type), count in matrices.items())
            or "none",
        ),
    ]


class CheckupPane(StepPane):
    STEP = Step.CHECKUP

    def body(self) -> Iterable[Widget]:
        with VerticalScroll(can_focus=False):
            yield Facts(id="facts")

    def draw(self) -> None:
        found = self.journey.inspection
        self.query_one(Facts).show(facts(found) if found else [])

    def event(self, event: Any) -> None:
        self.journey.inspection = event

    def primary(self) -> str:
        if self.journey.session is not None:
            return "Continue ›"
        found = self.journey.inspection
        return "Choose another model" if found and not found.can_harden else "Check ›"

    def press(self) -> None:
        found = self.journey.inspection
        if self.journey.session is not None:
            self.journey.go(Step.CALIBRATE)
        elif found is not None and not found.can_harden:
            self.journey.go(Step.MODEL)
        else:
            self.check()

    def check(self) -> None:
        """Inspect the file, and open it for the steps to come."""
        journey = self.journey
        path = journey.path
        assert path is not None

        def work(activity: Activity) -> Any:
            with activity.stage(f"Reading {path.name}"):
                found = journey.library.inspect(path)
            if journey.choices.text("template"):
                found = found.with_template()
            activity.emit(found)
            if not found.can_harden:
                return None
            options = journey.choices.options(journey.memory.journals)
            prompts, judge, about = journey.choices.requests()
            return prompts, about, journey.library.open(path, prompts, judge, options, activity)

        def then(value: Any) -> None:
            if value is not None:
                journey.prompts, journey.attribute, journey.session = value
                journey.complete(Step.CHECKUP)

        def discard(value: Any) -> None:
            if value is not None:
                value[-1].close()

        self.start("Checking the file", work, then, discard=discard)

    def forget(self) -> None:
        self.problem.clear()
