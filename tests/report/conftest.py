from __future__ import annotations

from collections.abc import Callable

import pytest
from report.sample_report import make_evaluation, make_report

from rosi_edge.records.evaluation import EvaluationReport
from rosi_edge.records.hardening import HardeningReport


@pytest.fixture
def report() -> HardeningReport:
    return make_report()


@pytest.fixture
def build() -> Callable[..., HardeningReport]:
    """Makes the report with some of its fields replaced."""
    return make_report


@pytest.fixture
def evaluation() -> EvaluationReport:
    return make_evaluation()
