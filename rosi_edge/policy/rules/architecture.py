"""RE103: an architecture that the policy allows."""

from __future__ import annotations

from typing import ClassVar

from rosi_edge.basics.text import printable
from rosi_edge.inspection import inspect
from rosi_edge.policy.rule import Finding, Subject, failed, passed


class ArchitectureAllowed:
    id: ClassVar[str] = "RE103"
    section: ClassVar[str] = "architecture"
    title: ClassVar[str] = "The architecture is allowed"
    help: ClassVar[str] = "general.architecture must be one of architecture.allowed, or known at all."

    def check(self, subject: Subject) -> Finding:
        from rosi_edge.models.architectures import known_architectures

        found = inspect(subject.file).architecture
        if not found:
            return failed("it does not say which architecture it has", "Convert the model again")
        allowed = subject.policy.architecture.allowed
        if allowed and found not in allowed:
            return failed(
                f"the architecture {printable(found, 80)} is not allowed ({', '.join(allowed)} are)",
                "Publish another model, or allow it in architecture.allowed",
                architecture=found,
            )
        if found not in known_architectures():
            return failed(
                f"the architecture {printable(found, 80)} is not known to llama.cpp as this tool knows it",
                "Update rosi-edge, or choose another model",
                architecture=found,
            )
        return passed(found, architecture=found)
