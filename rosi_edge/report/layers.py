"""What is known of every direction that could have been taken, put together: how well it separates, how
steady it is, and what it did in the layer sweep."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import ndtri

from rosi_edge.basics.statistics import CONFIDENCE, Estimate
from rosi_edge.direction.difference import LayerSeparation
from rosi_edge.records.hardening import HardeningReport, SweepPoint

_Z = float(ndtri(0.5 + CONFIDENCE / 2))


@dataclass(frozen=True)
class LayerRow:
    """One direction.

    Attributes:
        name: ``layer 14``, or the name of a direction that was found in the weights.
        separation: None for one found in the weights.
        trial: None where it was not part of the layer sweep.
        taken: it is the one that the file was hardened along.
    """

    name: str
    layer: int
    separation: LayerSeparation | None
    trial: SweepPoint | None
    taken: bool


def layer_rows(report: HardeningReport) -> list[LayerRow]:
    """Every layer in order, then the directions found in the weights."""
    direction = report.direction
    taken = direction_taken(report)
    trials = {name_of(point): point for point in direction.sweep}
    rows = []
    for entry in sorted(direction.separation, key=lambda entry: entry.layer):
        name = f"layer {entry.layer}"
        rows.append(LayerRow(name, entry.layer, entry, trials.pop(name, None), name == taken))
    rows += [LayerRow(name, point.layer, None, point, name == taken) for name, point in trials.items()]
    return rows


def direction_taken(report: HardeningReport) -> str | None:
    """The name of the direction that the file was hardened along; None when nothing was good enough."""
    if report.injection.strength == 0:
        return None
    return report.injection.direction or f"layer {report.direction.layer}"


def name_of(point: SweepPoint) -> str:
    return point.direction or f"layer {point.layer}"


def is_layers_own(point: SweepPoint) -> bool:
    """False for a direction found in the weights, whose layer is only a place in the middle."""
    return name_of(point) == f"layer {point.layer}"


def d_prime_estimate(value: float, positive: int, negative: int) -> Estimate:
    """d′ with its large-sample interval (L. V. Hedges, I. Olkin, Statistical Methods for Meta-Analysis, 1985,
    ch. 5): variance (m + n) / (m n) + d² / (2 (m + n)).

    Args:
        positive, negative: numbers of prompts.
    """
    both = positive + negative
    reach = _Z * math.sqrt(both / (positive * negative) + value**2 / (2 * both))
    return Estimate(value=value, n=both, low=value - reach, high=value + reach)


def auc_estimate(value: float, positive: int, negative: int) -> Estimate:
    """An area under the ROC curve with R. G. Newcombe's score-like interval (Statistics in Medicine 25, 2006,
    559–573, method 5): Hanley and McNeil's variance at the limit itself, both sample sizes replaced by their
    mean. It has a width at 0 and 1 too.

    Args:
        positive, negative: numbers of prompts.
    """
    both = positive + negative
    more = both / 2 - 1

    def beyond(limit: float) -> float:
        spread = 1 + more * ((1 - limit) / (2 - limit) + limit / (1 + limit))
        return (limit - value) ** 2 - _Z**2 * limit * (1 - limit) * spread / (positive * negative)

    edge = 1e-9
    low = brentq(beyond, 0.0, min(value, 1 - edge)) if value > edge else 0.0
    high = brentq(beyond, max(value, edge), 1.0) if value < 1 - edge else 1.0
    return Estimate(value=value, n=both, low=float(low), high=float(high))
