"""RE104: tensor types that the policy allows."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from rosi_edge.policy.rule import Finding, Subject, failed, passed


class TypesAllowed:
    id: ClassVar[str] = "RE104"
    section: ClassVar[str] = "types"
    title: ClassVar[str] = "The tensor types are allowed"
    help: ClassVar[str] = "Every tensor has a type of types.allowed; an empty list allows all."

    def check(self, subject: Subject) -> Finding:
        counts = Counter(tensor.type.name for tensor in subject.file.tensors.values())
        words = ", ".join(f"{kind} × {count}" for kind, count in counts.most_common())
        allowed = set(subject.policy.types.allowed)
        if allowed and (wrong := sorted(set(counts) - allowed)):
            return failed(
                f"{', '.join(wrong)} may not occur; found {words}",
                "Quantize to the types in types.allowed, or allow these",
                types=dict(counts),
            )
        return passed(words, types=dict(counts))
