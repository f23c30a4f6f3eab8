"""What a report says about its inputs: the model, the prompts, the tool."""

from __future__ import annotations

from typing import Self

from rosi_edge.inspection import Inspection, TypeShare
from rosi_edge.prompts.sets import PromptSet
from rosi_edge.records.record import Record, Sha256, Text


class ModelFacts(Record):
    """Which model file it was.

    Attributes:
        file_name: the name without its folder, which concerns nobody but its owner.
        reference: what the user asked for: a path, ``hf:org/repo:QUANT`` or ``demo``.
        size: bytes.
        name: the name that the file gives itself. Untrusted, like every text in a model file.
        file_type: the quantization mix, such as Q4_K_M.
        tensor_types: by type, the largest share first.
    """

    file_name: Text
    reference: Text
    sha256: Sha256
    size: int
    architecture: Text | None
    name: Text | None
    file_type: Text | None
    layers: int | None
    hidden_size: int | None
    tensor_types: dict[str, TypeShare]

    @classmethod
    def of(cls, inspection: Inspection, reference: str) -> Self:
        """Taken from an inspection that was made with its hash.

        Raises:
            ValueError: the inspection has no hash.
        """
        if inspection.sha256 is None:
            raise ValueError("a report names its model by hash: inspect it with with_sha256=True")
        return cls(
            file_name=inspection.path.name,
            reference=reference,
            sha256=inspection.sha256,
            size=inspection.size,
            architecture=inspection.architecture,
            name=inspection.name,
            file_type=inspection.file_type,
            layers=inspection.block_count,
            hidden_size=inspection.hidden_size,
            tensor_types=inspection.quantization,
        )


class PromptSetFacts(Record):
    """Which prompts were used; the hash is that of :meth:`rosi_edge.prompts.sets.PromptSet.of`."""

    name: Text
    n: int
    sha256: Sha256

    @classmethod
    def of(cls, prompts: PromptSet) -> Self:
        return cls(name=prompts.name, n=len(prompts), sha256=prompts.sha256)


class EvaluationFacts(Record):
    """How the figures were measured.

    Attributes:
        judge: which judge told refused from complied, such as ``keyword``.
        max_tokens: tokens of each answer that the judge saw.
        prompt_sets: prompts that were used for nothing else.
    """

    judge: Text
    max_tokens: int
    prompt_sets: tuple[PromptSetFacts, ...]


class ToolFacts(Record):
    """What made the report.

    Attributes:
        command: as it can be typed again.
    """

    name: str = "rosi-edge"
    version: str
    llama_cpp_python: str
    seed: int
    command: Text


class OutputFile(Record):
    """The file that was written.

    Attributes:
        size: bytes.
    """

    file_name: Text
    sha256: Sha256
    size: int
