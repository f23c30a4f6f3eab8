"""What a rule is, and what it may look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rosi_edge.basics.progress import Progress
from rosi_edge.models.digest import sha256_of_model
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.policy.model import Policy
from rosi_edge.policy.result import Status


@dataclass(frozen=True)
class Finding:
    """What a rule says of the file."""

    status: Status
    message: str
    remedy: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)


def passed(message: str, **evidence: Any) -> Finding:
    return Finding(Status.PASSED, message, evidence=evidence)


def failed(message: str, remedy: str = "", **evidence: Any) -> Finding:
    return Finding(Status.FAILED, message, remedy, evidence)


def not_applicable(message: str) -> Finding:
    return Finding(Status.NOT_APPLICABLE, message)


def could_not_run(message: str, remedy: str = "") -> Finding:
    return Finding(Status.COULD_NOT_RUN, message, remedy)


@dataclass
class Subject:
    """A file under a policy, opened and whole as far as its header goes.

    Attributes:
        base: the model it was made from, when the user has it.
        manifest: the path of its manifest, when there is one.
    """

    policy: Policy
    file: GgufFile
    progress: Progress
    base: GgufFile | None = None
    manifest: Path | None = None

    @cached_property
    def sha256(self) -> str:
        """Of the whole file; read once, whoever asks."""
        return sha256_of_model(self.file, self.progress)

    @property
    def hashed(self) -> bool:
        return "sha256" in self.__dict__


class Rule(Protocol):
    """One thing to look at. A rule that raises a RosiEdgeError could not run.

    Attributes:
        id: stable; never used again for something else.
        section: of the policy, which says how severe it is.
        title: a few words.
        help: what it means and what to do, for reports.
    """

    id: ClassVar[str]
    section: ClassVar[str]
    title: ClassVar[str]
    help: ClassVar[str]

    def check(self, subject: Subject) -> Finding: ...
