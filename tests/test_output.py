"""Figures as the terminal shows them."""

from __future__ import annotations

from rosi_edge.basics.statistics import mean, proportion
from rosi_edge.commands.output import estimate_text


def test_every_figure_has_its_n_and_its_interval_if_there_is_one() -> None:
    assert estimate_text(None) == "–"
    assert estimate_text(mean([0.25])) == "0.250  (n=1)"
    assert estimate_text(mean([0.25, 0.25])) == "0.250  (0.250 to 0.250, n=2)"
    # A share of one has an interval, and a wide one.
    assert " to " in estimate_text(proportion(1, 1))
