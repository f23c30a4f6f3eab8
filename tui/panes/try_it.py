"""Step 5: the original and the hardened model answer the same request, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input

from ..jobs import Activity
from ..steps import Step
from ..widgets.answer_panel import AnswerPanel
from ..widgets.plain import Plain
from ..widgets.prompt_input import PromptInput
from .base import StepPane

_OFFERED = 3
"""Ready requests of each kind."""
_TOKENS = 120


@dataclass(frozen=True)
class Piece:
    """Part of an answer."""

    hardened: bool
    text: str


class TryPane(StepPane):
    STEP = Step.TRY

    def body(self) -> Iterable[Widget]:
        yield PromptInput(id="request")
        yield Plain(id="kind")
        with Horizontal(id="answers"):
            yield AnswerPanel("Original", id="original")
            yield AnswerPanel("Hardened", id="hardened")

    def on_mount(self) -> None:
        self._asked = 0

    def draw(self) -> None:
        session = self.journey.session
        if session is not None and session.chosen is not None:
            self.query_one("#hardened").border_title = f"Hardened, strength {session.chosen.strength:.4g}"
        self._say_kind()

    def _say_kind(self) -> None:
        kind = self.query_one(PromptInput).about
        self.query_one("#kind", Plain).update(f"↑ ↓ ready requests{': this one is ' + kind if kind else ''}")

    def arrive(self) -> None:
        field = self.query_one(PromptInput)
        prompts = self.journey.prompts
        if prompts is not None:
            sets = prompts.reporting
            words: tuple[str, ...] = ("harmful", "in between: it only sounds harmful", "harmless")
            if about := self.journey.attribute:
                names = about.names
                words = tuple(
                    f"one of: {name}" for name in (names.harmful, names.sounds_harmful, names.harmless)
                )
            groups = (sets.harmful, sets.sounds_harmful, sets.harmless)
            kinds = [(word, group) for word, group in zip(words, groups, strict=True) if group]
            texts = [(kind, group.texts[:_OFFERED]) for kind, group in kinds]
            # One of each kind, then the next of each.
            field.offer([(kind, t[n]) for n in range(_OFFERED) for kind, t in texts if n < len(t)])
        if not field.value and not self._asked:
            field.action_ready(1)
        super().arrive()

    def focus_here(self) -> None:
        self.query_one(PromptInput).focus()

    def primary(self) -> str:
        return "Ask ›" if self.query_one(PromptInput).value.strip() else "Continue ›"

    def press(self) -> None:
        request = self.query_one(PromptInput).value.strip()
        if request:
            self.ask(request)
        else:
            self.journey.complete(Step.TRY)
            self.journey.go(Step.BAKE)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if not self.works:
            self.press()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._say_kind()
        self.refresh_all()

    def ask(self, request: str) -> None:
        session = self.session
        chosen = session.chosen
        if chosen is None:
            self.problem.tell("There is no hardened model to ask: choose a strength first (Back).")
            return
        if self.refused():
            return
        for panel in self.query(AnswerPanel):
            panel.start()

        def work(activity: Activity) -> None:
            with activity.stage("Loading the original model"):
                session.apply(None)
            with activity.stage("The original answers"):
                session.answer(request, lambda text: activity.emit(Piece(False, text)), max_tokens=_TOKENS)
            with activity.stage("The hardened model answers"):
                session.apply(chosen.strength)
                session.answer(request, lambda text: activity.emit(Piece(True, text)), max_tokens=_TOKENS)

        def then(value: Any) -> None:
            self._asked += 1
            self.journey.complete(Step.TRY)
            field = self.query_one(PromptInput)
            if field.value.strip() == request:
                # What has been typed meanwhile is the next request.
                field.value = ""
            field.placeholder = "Another request (↑ ↓ bring ready ones), or Enter to continue"

        self.start("Asking both", work, then)

    def event(self, event: Any) -> None:
        self.query_one("#hardened" if event.hardened else "#original", AnswerPanel).add(event.text)

    def forget(self) -> None:
        self._asked = 0
        for panel in self.query(AnswerPanel):
            panel.start()
        self.problem.clear()
