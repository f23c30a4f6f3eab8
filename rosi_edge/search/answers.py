"""Real answers for the settings that scored best."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rosi_edge.basics.statistics import Estimate
from rosi_edge.edits.profile import Setting
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.evaluation.behaviour import Answered
from rosi_edge.evaluation.verdicts import Verdict
from rosi_edge.search.constraints import Constraints
from rosi_edge.search.questions import Questions
from rosi_edge.search.result import AnsweredPoint, Point, Tried
from rosi_edge.search.score import SettingScorer
from rosi_edge.search.strength import Climb, weaker

_SCREENED = 3
"""Points asked the harmless prompts for each that may be asked everything."""
_SHOWN = 2
"""Points asked everything even when all break the floor."""


class Answers:
    """Asks the most promising points for real answers.

    The harmless prompts are asked first: a point that breaks the floor of benign compliance is dropped
    there, one that breaks nothing but the limit of the divergence is asked again weaker. One that keeps all
    constraints is asked again stronger, and if that was too much, halfway back. When none keeps the floor,
    those that come closest are asked the rest, so that there is something to show.
    """

    def __init__(
        self,
        scorer: SettingScorer,
        questions: Questions,
        constraints: Constraints,
        tried: Callable[[Tried], None],
    ) -> None:
        self._scorer = scorer
        self._questions = questions
        self._constraints = constraints
        self._tried = tried
        self._frontier: list[AnsweredPoint] = []
        self._closest: list[tuple[Setting, Answered]] = []
        self._failures = 0

    def of_best(self, points: Sequence[Point]) -> list[AnsweredPoint]:
        options = self._scorer.options
        left = list(points)
        setting: Setting | None = None
        for _ in range(options.answered * _SCREENED):
            if len(self._frontier) == options.answered or (setting is None and not left):
                break
            if setting is None:
                best = max(left, key=lambda point: self._scorer.value(point.score, self._failures))
                left.remove(best)
                setting, climb = best.setting, Climb(options.max_kl)
            setting = self._ask(setting, climb)
            if options.strength:
                break
        if not any(self._constraints.keeps_answers(point.behaviour) for point in self._frontier):
            for closest, harmless in self._closest[: max(0, _SHOWN - len(self._frontier))]:
                with self._scorer.applied(closest) as applied:
                    self._ask_the_rest(closest, applied.edits, harmless)
        return self._frontier

    def _ask(self, setting: Setting, climb: Climb) -> Setting | None:
        """Ask one setting, and say which to ask next; None for another of the points."""
        constraints = self._constraints
        with self._scorer.applied(setting) as applied:
            harmless = self._questions.harmless(constraints.original)
            if not self._scorer.options.strength:
                if not constraints.answers_enough(_compliance(harmless)):
                    self._drop(setting, harmless)
                    return climb.after_breaking(setting)
                if again := weaker(setting, harmless.kl, constraints.max_kl):
                    return again
            point = self._ask_the_rest(setting, applied.edits, harmless)
        if constraints.keeps_all(point.behaviour):
            return climb.after_keeping(setting, harmless.kl)
        return climb.after_breaking(setting)

    def _drop(self, setting: Setting, harmless: Answered) -> None:
        self._failures += 1
        self._closest.append((setting, harmless))
        # No more than will be shown: the log-probabilities are large.
        self._closest.sort(key=lambda pair: -_compliance(pair[1]).value)
        del self._closest[_SHOWN:]
        self._questions.progress.note(
            f"{setting.describe()}: benign compliance {_compliance(harmless).value:.3f}, under the floor"
        )

    def _ask_the_rest(
        self, setting: Setting, edits: tuple[RankOneEdit, ...], harmless: Answered
    ) -> AnsweredPoint:
        """Of the setting's edits, which are applied now."""
        behaviour = self._questions.all("Asking a candidate", self._constraints.original, harmless)
        layer = self._scorer.editable.direction(setting).layer
        point = AnsweredPoint(layer, setting.strength, behaviour, edits, setting)
        self._frontier.append(point)
        self._questions.progress.note(f"{setting.describe()}: {point.describe()}")
        self._tried(Tried.by_answers(setting, behaviour))
        return point


def _compliance(harmless: Answered) -> Estimate:
    return harmless.judged.share(Verdict.COMPLIED)
