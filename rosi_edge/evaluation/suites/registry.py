"""Suites by name."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import fields

from rosi_edge.errors import RosiEdgeError
from rosi_edge.evaluation.suites.suite import Suite, SuiteChoices

_PACKAGE = __name__.rpartition(".")[0]
# The order of tables; a suite that is not named here comes after these.
_ORDER = ("refusal", "overrefusal", "jailbreak", "divergence", "utility", "stability")
DEFAULT = ("refusal", "overrefusal", "divergence")


@functools.cache
def built_in() -> dict[str, type[Suite]]:
    """The suites of this package by name, in the order of tables."""
    package = importlib.import_module(_PACKAGE)
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    modules = [importlib.import_module(f"{_PACKAGE}.{name}") for name in names]
    found: list[type[Suite]] = [module.SUITE for module in modules if hasattr(module, "SUITE")]
    if len({suite.name for suite in found}) < len(found):
        raise AssertionError(f"two suites share a name: {sorted(suite.name for suite in found)}")
    place = {name: index for index, name in enumerate(_ORDER)}
    return {s.name: s for s in sorted(found, key=lambda s: (place.get(s.name, len(place)), s.name))}


def open_suites(names: str | None, choices: SuiteChoices) -> list[Suite]:
    """The suites that a comma-separated list names, with their input read.

    ``all`` stands for every suite; None for the usual ones. Neither includes, without a base, what needs one.

    Raises:
        RosiEdgeError: a name is unknown, a suite needs a base that is not given, a choice was made that no
            chosen suite reads, or a suite's input cannot be used.
    """
    kinds = _named(names, choices)
    _refuse_unread(kinds, choices)
    return [kind.of(choices) for kind in kinds]


def _named(names: str | None, choices: SuiteChoices) -> list[type[Suite]]:
    known = built_in()
    asked = [name.strip().lower() for name in (names or "").split(",") if name.strip()]
    everything = not asked or "all" in asked
    wanted = set(known if "all" in asked else asked or DEFAULT)
    unknown = sorted(wanted - set(known) - {"all"})
    if unknown:
        raise RosiEdgeError(
            f"There is no suite called {unknown[0]!r}", f"The suites are all, {', '.join(known)}"
        )
    chosen = [kind for name, kind in known.items() if name in wanted]
    if choices.compared:
        return chosen
    alone = [kind for kind in chosen if not kind.needs_base]
    if len(alone) < len(chosen) and not everything:
        lacking = next(kind.name for kind in chosen if kind.needs_base)
        raise RosiEdgeError(
            f"The suite {lacking} compares a model with its original", "Name the original with --base MODEL"
        )
    return alone


def _refuse_unread(kinds: Sequence[type[Suite]], choices: SuiteChoices) -> None:
    """A flag without effect is a mistake that would go unseen."""
    read = {name for kind in kinds for name in kind.takes}
    for field in fields(SuiteChoices):
        readers = [kind.name for kind in built_in().values() if field.name in kind.takes]
        if readers and field.name not in read and getattr(choices, field.name) is not None:
            flag = "--" + field.name.replace("_", "-")
            raise RosiEdgeError(
                f"{flag} belongs to the suite {' and '.join(readers)}, which was not chosen",
                f"Add {readers[0]} to --suites, or leave {flag} out",
            )
