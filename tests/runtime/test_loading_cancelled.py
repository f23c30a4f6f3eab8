"""A model that is being loaded can be let go of."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from rosi_edge.runtime.child_engine import ChildEngine


def test_whoever_waits_for_the_model_can_cancel(tiny_model: Path) -> None:
    looked: list[int] = []
    # Engines that other tests keep are none of this one's business.
    others = set(psutil.Process().children())

    def look() -> None:
        looked.append(len(looked))
        if len(looked) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ChildEngine(tiny_model, look=look)
    assert looked == [0, 1]
    assert not set(psutil.Process().children()) - others


def test_looking_on_changes_nothing(tiny_model: Path) -> None:
    with ChildEngine(tiny_model, look=lambda: None) as engine:
        assert engine.facts.layers == 3
        assert engine.alive
