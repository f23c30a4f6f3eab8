"""Which settings a search may try, and where it starts. Depths are shares, so that one space fits every
model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rosi_edge.edits.keys import Form
from rosi_edge.edits.profile import Profile, Setting
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.search.candidates import MIDDLE, CandidateDirection

if TYPE_CHECKING:
    from optuna import Trial

_BELOW_GUARDED = -0.2
"""β of guarded requests: they are pushed a little along. Pushed away as benign ones are, or not at all, they
were refused less often on the demo model: a direction of declining shares something with that of refusal."""


@dataclass(frozen=True)
class Space:
    """The settings of one model.

    Attributes:
        layers: of the model.
        benign_sets: how many sets of benign inputs the keys are solved with.
        guarded: whether they are solved with guarded ones besides.
    """

    layers: int
    benign_sets: int
    guarded: bool = False

    def start(
        self,
        matrices: Sequence[WriteMatrix],
        directions: Sequence[CandidateDirection],
        strength: float = 0.5,
    ) -> Setting:
        """Where a search starts: a plateau over the upper middle of the model.

        Args:
            matrices: those that may be edited.
        """
        center = float(np.clip(0.65 * self.layers, matrices[0].block, matrices[-1].block))
        plateau = Profile(center, max(0.16 * self.layers, 0.5))
        middle = min(directions, key=lambda candidate: abs(candidate.layer - MIDDLE * self.layers))
        below = (*(0.25, 0.1)[: self.benign_sets], *([_BELOW_GUARDED] if self.guarded else []))
        return Setting(middle.name, Form.RIDGE, plateau, plateau, below=below, strength=strength)

    def starting_points(self, direction: str) -> list[dict[str, Any]]:
        """What ``suggest`` is to give first, by its names."""
        point = {"direction": direction, "form": str(Form.RIDGE), "center": 0.65, "width": 0.16}
        point |= {"shift": 0.0, "mlp width": 0.16, "mlp": 1.0, "below": 0.25, "below others": 0.1}
        if self.guarded:
            point["below guarded"] = _BELOW_GUARDED
        # Benign requests that only sound harmful are the hard ones: pushed down further than the plain ones,
        # they take many of these along.
        hard = {"below": 0.25, "below others": 0.4}
        attention = {"center": 0.67, "width": 0.17, "mlp width": 0.18, "mlp": 0.35}
        return [
            point,
            point | attention | hard | {"form": str(Form.DISCRIMINANT)},
            point | {"form": str(Form.NULL_SPACE), "below": 0.45, "below others": 0.4},
            point | attention | hard | {"below": 0.4},
            point | hard | {"form": str(Form.DISCRIMINANT), "center": 0.7, "width": 0.2, "mlp width": 0.2},
        ]

    def suggest(self, trial: Trial, directions: Sequence[str], strength: float) -> Setting:
        """A setting of the trial's choosing.

        Args:
            directions: names of candidates.
        """
        center = trial.suggest_float("center", 0.5, 0.82)
        shift = trial.suggest_float("shift", -0.1, 0.1)
        return Setting(
            direction=str(trial.suggest_categorical("direction", list(directions))),
            form=Form(str(trial.suggest_categorical("form", [str(form) for form in Form]))),
            attention=Profile(center * self.layers, trial.suggest_float("width", 0.05, 0.25) * self.layers),
            mlp=Profile(
                (center + shift) * self.layers,
                trial.suggest_float("mlp width", 0.05, 0.25) * self.layers,
                trial.suggest_float("mlp", 0.3, 1.7),
            ),
            below=self._suggest_below(trial),
            strength=strength,
        )

    def _suggest_below(self, trial: Trial) -> tuple[float, ...]:
        benign = (trial.suggest_float("below", 0.0, 0.7), trial.suggest_float("below others", 0.0, 0.5))
        guarded = (trial.suggest_float("below guarded", -0.6, 0.0),) if self.guarded else ()
        return (*benign[: self.benign_sets], *guarded)
