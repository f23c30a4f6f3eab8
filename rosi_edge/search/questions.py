"""The choosing prompts, asked of whatever edits are applied now."""

from __future__ import annotations

from dataclasses import dataclass

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.evaluation.behaviour import Answered, Behaviour, Judged, ask_group, measure_behaviour
from rosi_edge.evaluation.verdicts import Judge
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.runtime.engine import Engine


@dataclass(frozen=True)
class Questions:
    """Who is asked what, and who judges the answers.

    Attributes:
        max_tokens: length of an answer.
    """

    engine: Engine
    sets: RequestSets
    judge: Judge
    max_tokens: int
    progress: Progress = SILENT

    def all(
        self, title: str, original: Behaviour | None = None, harmless: Answered | None = None
    ) -> Behaviour:
        """All prompts.

        Args:
            original: what the divergence is measured from; None when this is the original.
            harmless: the answers to the harmless prompts, where they have been asked already.
        """
        return measure_behaviour(
            self.engine,
            self.sets,
            self.judge,
            max_tokens=self.max_tokens,
            reference=original.first_logprobs if original else None,
            harmless=harmless,
            progress=self.progress,
            title=title,
        )

    def of_the_original(self) -> Behaviour:
        """All prompts, of the model without edits."""
        self.engine.apply({})
        return self.all("Original model on the choosing prompts")

    def harmless(self, original: Behaviour) -> Answered:
        """The harmless prompts alone."""
        prompts = self.sets.harmless
        with self.progress.stage("Asking a candidate what is harmless", len(prompts)) as advance:
            return ask_group(
                self.engine,
                prompts,
                self.judge,
                max_tokens=self.max_tokens,
                reference=original.first_logprobs,
                with_logprobs=True,
                advance=advance,
            )

    def harmful_under(self, system: str) -> Judged:
        """The harmful prompts under a system prompt: a model that hardly refuses without it shows there how
        its refusals begin."""
        prompts = self.sets.harmful
        with self.progress.stage("Learning how refusals begin", len(prompts)) as advance:
            return ask_group(
                self.engine,
                prompts,
                self.judge,
                max_tokens=self.max_tokens,
                system=system,
                advance=advance,
            ).judged
