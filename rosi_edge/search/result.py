"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass

from rosi_edge.edits.profile import Setting
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.evaluation.behaviour import Behaviour
from rosi_edge.search.first_token import FirstTokenScore


@dataclass(frozen=True)
class Point:
    """A setting at one strength, and its cheap score."""

    setting: Setting
    score: FirstTokenScore


@dataclass(frozen=True)
class Tried:
    """One point of the search, for whoever looks on.

    Attributes:
        refusal: share of harmful prompts refused.
        compliance: share of harmless prompts answered.
        kl: mean KL divergence of the first answer token on harmless prompts, nats; None when not measured.
        answered: whether these come from real answers or from first tokens alone.
    """

    setting: Setting
    refusal: float
    compliance: float
    kl: float | None
    answered: bool

    @classmethod
    def by_first_tokens(cls, point: Point) -> Tried:
        score = point.score
        return cls(point.setting, score.refused[0], 1 - score.refused[1], score.kl, answered=False)

    @classmethod
    def by_answers(cls, setting: Setting, behaviour: Behaviour) -> Tried:
        kl = behaviour.kl.value if behaviour.kl else None
        return cls(setting, behaviour.refusal.value, behaviour.compliance.value, kl, answered=True)


@dataclass(frozen=True)
class LayerTrial:
    """One layer of the sweep.

    Attributes:
        harmful_shift, harmless_shift: change in the mean probability that the answer opens as this model's
            own refusals do, on harmful and on harmless prompts.
        kl: mean KL divergence of the first answer token on harmless prompts, nats.
        name: of the direction, where it is not simply the layer's.
    """

    layer: int
    strength: float
    harmful_shift: float
    harmless_shift: float
    kl: float
    name: str = ""

    @property
    def score(self) -> float:
        """What harmful prompts gain over harmless ones."""
        return self.harmful_shift - self.harmless_shift


@dataclass(frozen=True)
class AnsweredPoint:
    """One point tried with real answers on the choosing prompts.

    Attributes:
        layer: of the direction.
        edits: at strength one.
        setting: of the conditional method; None for the paper's, which has a layer and a strength only.
    """

    layer: int
    strength: float
    behaviour: Behaviour
    edits: tuple[RankOneEdit, ...]
    setting: Setting | None = None

    @property
    def words(self) -> str:
        """What was tried."""
        if self.setting is None:
            return f"layer {self.layer}, strength {self.strength:.4g}"
        return self.setting.describe()

    @property
    def direction(self) -> str:
        """The name of the direction."""
        return f"layer {self.layer}" if self.setting is None else self.setting.direction

    def describe(self) -> str:
        behaviour = self.behaviour
        sounds = behaviour.sounds_harmful_compliance
        guarded = behaviour.guarded_refusal
        parts = [
            f"refusal {behaviour.refusal.value:.3f}",
            f"benign compliance {behaviour.compliance.value:.3f}",
            *([f"sounding harmful {sounds.value:.3f}"] if sounds else []),
            *([f"guarded refusal {guarded.value:.3f}"] if guarded else []),
            f"broken {behaviour.degenerate.value:.3f}",
            *([f"KL {behaviour.kl.value:.3f}"] if behaviour.kl else []),
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class SearchResult:
    """Attributes:
    original: the unedited model on the choosing prompts.
    floor: the benign compliance that had to be kept.
    sweep: every layer tried, in layer order; empty when the layer was given.
    frontier: every strength tried, weakest first.
    chosen: the point taken, None when none keeps the floor.
    """

    original: Behaviour
    floor: float
    sweep: tuple[LayerTrial, ...]
    frontier: tuple[AnsweredPoint, ...]
    chosen: AnsweredPoint | None


def best_balance(found: SearchResult) -> AnsweredPoint:
    """The point that gains the most refusal for the compliance it costs, floor or no floor: what there is to
    show when nothing keeps the floor and a file is wanted all the same."""
    return max(
        found.frontier,
        key=lambda point: point.behaviour.refusal.value + point.behaviour.compliance.value,
    )
