"""Hardens chat models inside GGUF files against harmful requests, without training (ROSI).

The commands are functions here too; ``docs/python.md`` has an example. Names are imported when they are first
used: whoever only looks at a file does not load what runs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rosi_edge.direction.difference import Directions
    from rosi_edge.errors import RosiEdgeError
    from rosi_edge.evaluation.run import EvaluateOptions
    from rosi_edge.evaluation.suites.suite import SuiteChoices
    from rosi_edge.hardening.options import HardenOptions
    from rosi_edge.inspection import Inspection
    from rosi_edge.library import (
        check,
        evaluate,
        extract,
        harden,
        inspect,
        verify,
    )
    from rosi_edge.policy.model import Policy
    from rosi_edge.policy.result import CheckReport
    from rosi_edge.policy.run import CheckOptions
    from rosi_edge.records.evaluation import EvaluationReport
    from rosi_edge.records.hardening import HardeningReport
    from rosi_edge.runtime.engine import EngineOptions
    from rosi_edge.search.options import (
        ConditionalOptions,
        SearchOptions,
    )
    from rosi_edge.verification.result import Verification

__version__ = "0.2.0"

_PLACES = {
    **dict.fromkeys(("check", "evaluate", "extract", "harden", "inspect", "verify"), "library"),
    "CheckOptions": "policy.run",
    "CheckReport": "policy.result",
    "ConditionalOptions": "search.options",
    "Directions": "direction.difference",
    "EngineOptions": "runtime.engine",
    "EvaluateOptions": "evaluation.run",
    "EvaluationReport": "records.evaluation",
    "HardenOptions": "hardening.options",
    "HardeningReport": "records.hardening",
    "Inspection": "inspection",
    "Policy": "policy.model",
    "RosiEdgeError": "errors",
    "SearchOptions": "search.options",
    "SuiteChoices": "evaluation.suites.suite",
    "Verification": "verification.result",
}
"""Names to their modules."""

__all__ = [
    "CheckOptions",
    "CheckReport",
    "ConditionalOptions",
    "Directions",
    "EngineOptions",
    "EvaluateOptions",
    "EvaluationReport",
    "HardenOptions",
    "HardeningReport",
    "Inspection",
    "Policy",
    "RosiEdgeError",
    "SearchOptions",
    "SuiteChoices",
    "Verification",
    "check",
    "evaluate",
    "extract",
    "harden",
    "inspect",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
