"""RE101: the file is whole, holds nothing but what its header names, and llama.cpp takes it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rosi_edge.basics.extras import NOT_TRIED, llama_cpp_is_installed
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.not_a_model import not_a_model
from rosi_edge.models.trial import objection
from rosi_edge.policy.rule import Finding, Subject, failed, passed


class FileSanity:
    """The header's own checks ran when the file was opened; here is what it leaves open."""

    id: ClassVar[str] = "RE101"
    section: ClassVar[str] = "file"
    title: ClassVar[str] = "The file is whole"
    help: ClassVar[str] = (
        "Every length in the header fits the file, and no room is left between or after the tensors where "
        "something else could lie. llama.cpp takes its settings, its vocabulary and its tensors: its loader "
        "reads them in a process of its own, without the weights. A file that fails is damaged, badly "
        "converted or was tampered with: get it again."
    )

    def check(self, subject: Subject) -> Finding:
        if other := not_a_model(subject.file):
            return failed(other, "Check the model itself")
        gap = max(map(_largest_gap, subject.file.parts))
        allowed = subject.policy.file.largest_gap
        if gap > allowed:
            return failed(
                f"{gap} bytes in it belong to nothing (at most {allowed} are allowed)",
                "Get the file from its maker again, or raise file.largest_gap if you know what they are",
                largest_gap=gap,
            )
        if used := sum(map(_bytes_in_gaps, subject.file.parts)):
            return failed(
                f"{used} bytes in it that belong to nothing are not zero",
                "Get the file from its maker again: padding is zero, so something was put there",
                bytes_in_gaps=used,
            )
        tried = llama_cpp_is_installed()
        if tried and (against := objection(subject.file)):
            return failed(f"llama.cpp cannot load it: {against.reason}", against.advice)
        return passed(
            f"{len(subject.file.tensors)} tensors, nothing but padding beside them"
            + ("" if tried else f"; {NOT_TRIED}"),
            tensors=len(subject.file.tensors),
            largest_gap=gap,
            llama_cpp_tried=tried,
        )


def _largest_gap(part: GgufFile) -> int:
    return max((length for _, length in _gaps(part)), default=0)


def _bytes_in_gaps(part: GgufFile) -> int:
    return sum(int(np.count_nonzero(part.read(start, length))) for start, length in _gaps(part))


def _gaps(part: GgufFile) -> list[tuple[int, int]]:
    """Start and length of what lies between the header and the tensors, between these and after them."""
    position, gaps = part.tensor_table[1], []
    for tensor in sorted(part.own_tensors.values(), key=lambda tensor: tensor.offset):
        gaps.append((position, tensor.offset - position))
        position = tensor.end
    return [(start, length) for start, length in (*gaps, (position, part.size - position)) if length > 0]
