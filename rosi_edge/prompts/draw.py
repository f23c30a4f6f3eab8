"""Samples that are the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import chain, zip_longest


def draw(items: Iterable[tuple[bytes, bytes]], n: int, seed: int) -> list[int]:
    """Indices of at most ``n`` items, ascending, drawn as evenly over the groups as their sizes allow.

    The draw depends on the items and the seed only, not on their order or on a library's random generator. A
    smaller sample with the same seed is part of a larger one.

    Args:
        items: the group and the content of each.
    """

    def rank(key: bytes) -> bytes:
        return hashlib.sha256(f"{seed}\n".encode() + key).digest()

    groups: dict[bytes, list[tuple[bytes, int]]] = {}
    for index, (group, content) in enumerate(items):
        groups.setdefault(group, []).append((rank(content), index))
    # The hash also orders the groups: by name, the last round would always favour the same ones.
    ranked = [sorted(groups[group]) for group in sorted(groups, key=rank)]
    rounds = chain.from_iterable(zip_longest(*ranked))
    return sorted([entry[1] for entry in rounds if entry is not None][:n])
