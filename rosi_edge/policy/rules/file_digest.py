"""RE102: the file has the hash that the policy names."""

from __future__ import annotations

from typing import ClassVar

from rosi_edge.policy.rule import Finding, Subject, failed, not_applicable, passed


class FileDigest:
    id: ClassVar[str] = "RE102"
    section: ClassVar[str] = "file"
    title: ClassVar[str] = "The hash is the expected one"
    help: ClassVar[str] = "The SHA-256 of the whole file is compared with file.sha256 of the policy."

    def check(self, subject: Subject) -> Finding:
        expected = subject.policy.file.sha256
        if expected is None:
            return not_applicable("the policy names no hash")
        if subject.sha256 != expected:
            return failed(
                f"its SHA-256 is {subject.sha256}, not {expected}",
                "Get the file that the policy means, or put the new hash into the policy",
                sha256=subject.sha256,
                expected=expected,
            )
        return passed(f"SHA-256 {expected}", sha256=expected)
