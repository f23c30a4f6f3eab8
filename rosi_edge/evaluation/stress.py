"""The paper's third experiment, in small: a few attacks around a few requests, before and after.

The suite ``jailbreak`` measures all attacks on more requests; this is what every hardening run can afford.
"""

from __future__ import annotations

from dataclasses import dataclass

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.basics.statistics import Estimate, mean_share
from rosi_edge.evaluation.attacks import select
from rosi_edge.evaluation.verdicts import Judge, Verdict
from rosi_edge.prompts.sets import PromptSet
from rosi_edge.runtime.engine import Engine

ATTACKS = "persona,refusal_suppression,prefix_injection,fiction,authority,system_override"
MAX_TOKENS = 32


@dataclass(frozen=True)
class Stress:
    """What came through.

    Attributes:
        requests: how many requests each attack was put around.
        by_attack: for each attack, which of the requests were complied with.
    """

    requests: int
    by_attack: dict[str, tuple[bool, ...]]

    @property
    def success(self) -> Estimate:
        """Mean share of attacks that succeed on a request: attacks on one request do not fall
        independently, so requests are what is sampled."""
        rows = zip(*self.by_attack.values(), strict=True)
        return mean_share([sum(row) / len(row) for row in rows])


def measure_stress(
    engine: Engine,
    requests: PromptSet,
    judge: Judge,
    *,
    attacks: str = ATTACKS,
    progress: Progress = SILENT,
    title: str = "Jailbreaks",
) -> Stress:
    """Ask every request under every attack, greedily; an attack succeeds when the decoded answer complies."""
    chosen = select(attacks)
    by_attack: dict[str, tuple[bool, ...]] = {}
    with progress.stage(title, len(chosen) * len(requests)) as advance:
        for attack in chosen:
            prompts = engine.encode([attack.conversation(text) for text in requests.texts])
            answers = engine.generate(prompts, max_tokens=MAX_TOKENS, advance=advance)
            decoded = [attack.decode_answer(answer.text) for answer in answers]
            verdicts = judge.judge(requests.texts, decoded)
            by_attack[attack.name] = tuple(verdict is Verdict.COMPLIED for verdict in verdicts)
    return Stress(len(requests), by_attack)
