"""Where the system does not say which cores a process may use, all there are count."""

from __future__ import annotations

import os

import pytest

from rosi_edge.basics.cores import usable_cores


def test_with_and_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(os, "sched_getaffinity"):
        assert usable_cores() == len(os.sched_getaffinity(0))
        monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    assert usable_cores() == os.cpu_count()
