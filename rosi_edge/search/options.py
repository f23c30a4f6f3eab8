"""What the two searches are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rosi_edge.evaluation.behaviour import Behaviour


@dataclass(frozen=True)
class ConditionalOptions:
    """How hard to look.

    Attributes:
        compliance_margin: how far benign compliance may fall under the original's, as a share.
        min_compliance: an absolute floor instead of the margin.
        max_kl: highest mean KL divergence of the first answer token on harmless prompts, nats.
        ridge: regularisation of the keys.
        trials: settings tried by the cheap score, at two strengths each.
        time_limit: seconds after which no further direction or setting is tried; the first of each always is.
        answered: points of the frontier that are asked for real answers.
        max_tokens: length of these answers.
        layer: a fixed layer of the direction.
        strength: a fixed strength.
        storage: an Optuna storage URL that several processes share; None for a journal in ``folder``.
        folder: where journals are kept, so that an interrupted search goes on; None to keep nothing.
    """

    compliance_margin: float = 0.01
    min_compliance: float | None = None
    max_kl: float = 0.10
    ridge: float = 0.01
    trials: int = 10
    time_limit: float | None = None
    answered: int = 4
    max_tokens: int = 16
    layer: int | None = None
    strength: float | None = None
    storage: str | None = None
    folder: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class SearchOptions:
    """How hard to look.

    Attributes:
        compliance_margin: how far benign compliance may fall under the original's, as a share.
        min_compliance: an absolute floor instead of the margin.
        layers: candidate layers; None takes up to seven, evenly between a quarter and seven eighths of the
            depth, where directions both separate well and still have layers left to act on.
        strength: a fixed α instead of the bisection.
        sweep_prompts: prompts of each set in the layer sweep.
        evaluations: at most this many strengths are tried with real answers.
        max_tokens: answer length while searching.
        sweep_kl: the divergence, in nats, at which layers are compared.
        max_kl: highest mean KL divergence of the first answer token on harmless prompts; None for any.
        original: the unedited model on the same prompts, where it has been measured already.
    """

    compliance_margin: float = 0.02
    min_compliance: float | None = None
    layers: tuple[int, ...] | None = None
    strength: float | None = None
    sweep_prompts: int = 20
    evaluations: int = 4
    max_tokens: int = 16
    sweep_kl: float = 0.02
    max_kl: float | None = None
    original: Behaviour | None = None
