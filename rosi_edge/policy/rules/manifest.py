"""RE110: the file is the one that its manifest describes."""

from __future__ import annotations

from typing import ClassVar

from rosi_edge.basics.text import printable
from rosi_edge.policy.provenance import check_manifest, read_manifest
from rosi_edge.policy.rule import Finding, Subject, failed, not_applicable, passed


class ManifestTrue:
    id: ClassVar[str] = "RE110"
    section: ClassVar[str] = "provenance"
    title: ClassVar[str] = "The manifest describes this file"
    help: ClassVar[str] = (
        "The in-toto statement names the file's hash and every tensor's; with --base, every tensor it does "
        "not name as edited must be the base's. The signature on it is checked by the tool that made it."
    )

    def check(self, subject: Subject) -> Finding:
        if subject.manifest is None:
            if subject.policy.provenance.required:
                return failed(
                    "it has no manifest",
                    "Write one with --write-manifest where the file is made, or name it with --manifest",
                )
            return not_applicable("no manifest was given")
        manifest = read_manifest(subject.manifest)
        problems = check_manifest(
            manifest, subject.file, sha256=subject.sha256, base=subject.base, progress=subject.progress
        )
        if problems:
            return failed(
                problems[0], "Get the file and its manifest from its maker again", problems=problems[:50]
            )
        compared = ", and the base's tensors are its own" if subject.base is not None else ""
        return passed(
            f"every tensor is as the manifest says{compared}", manifest=printable(subject.manifest.name)
        )
