"""RE108: what the file says of its hardening is there, and true."""

from __future__ import annotations

from typing import ClassVar

from rosi_edge.edits.declaration import read_declaration
from rosi_edge.errors import ModelFileError
from rosi_edge.inspection import own_metadata
from rosi_edge.policy.rule import Finding, Subject, could_not_run, failed, not_applicable, passed


class HardeningTrue:
    id: ClassVar[str] = "RE108"
    section: ClassVar[str] = "hardening"
    title: ClassVar[str] = "The declared hardening is true"
    help: ClassVar[str] = (
        "A hardened file declares its edit. Without the base its own hashes are checked, which anybody can "
        "write anew; with --base the two are compared byte by byte (rosi-edge verify): only the declared "
        "tensors differ, and only so. That tells what was done, not that it made the model safer: figures do."
    )

    def check(self, subject: Subject) -> Finding:
        required = subject.policy.hardening.required
        if not own_metadata(subject.file):
            if required:
                return failed("it was not hardened, or does not say so", "Harden it with rosi-edge harden")
            return not_applicable("it does not claim to be hardened")
        try:
            declaration = read_declaration(subject.file)
        except ModelFileError as error:
            return failed(error.message, "Harden the base again")
        if declaration is None:
            return failed(
                "it claims to be hardened and does not declare its edit",
                "Harden the base again with this version",
            )
        # Not at the top: what verify needs takes a while to load, and most files declare nothing.
        from rosi_edge.verification.gguf import verify
        from rosi_edge.verification.own import own_problem

        if subject.base is None:
            if problem := own_problem(subject.file, declaration):
                return failed(problem, "Do not trust what it says; harden the base again")
            if subject.policy.hardening.proven:
                return could_not_run("what it declares can only be proven against the base", "Add --base")
            return passed(
                f"declares an edit of {len(declaration.tensors)} tensors; their hashes and the header's "
                "fit; the rest was not compared, as no base was given",
                tensors=len(declaration.tensors),
            )
        found = verify(subject.file.path, subject.base, progress=subject.progress)
        if not found.passed:
            return failed(
                found.problems[0],
                "Do not trust what it says; harden the base again",
                problems=found.problems,
                checks=dict(found.checks),
            )
        return passed(
            f"proven against the base: {len(found.tensors)} tensors edited as declared, nothing else",
            checks=dict(found.checks),
        )
