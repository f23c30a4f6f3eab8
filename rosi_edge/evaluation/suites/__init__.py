"""Suites: what an evaluation can measure, each in a file of its own.

Adding one means adding a module to this package with a class ``SUITE`` that implements ``Suite``.
"""

from __future__ import annotations

from rosi_edge.evaluation.suites.registry import built_in, open_suites
from rosi_edge.evaluation.suites.suite import Suite, SuiteChoices, SuiteResult

__all__ = ["Suite", "SuiteChoices", "SuiteResult", "built_in", "open_suites"]
