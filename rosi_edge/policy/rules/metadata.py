"""RE105: the metadata that the policy asks for."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from rosi_edge.basics.text import printable
from rosi_edge.models.gguf_header import MetadataArray
from rosi_edge.policy.rule import Finding, Subject, failed, passed

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class MetadataComplete:
    id: ClassVar[str] = "RE105"
    section: ClassVar[str] = "metadata"
    title: ClassVar[str] = "The metadata is complete"
    help: ClassVar[str] = (
        "Every key of metadata.required is there and not empty; metadata.equals fixes values."
    )

    def check(self, subject: Subject) -> Finding:
        wanted = subject.policy.metadata
        metadata = subject.file.metadata
        missing = [key for key in wanted.required if _empty(metadata.get(key))]
        if missing:
            return failed(
                f"metadata missing: {', '.join(missing)}",
                "Set them with gguf-py's gguf-set-metadata",
                missing=missing,
            )
        for key, value in wanted.equals.items():
            found = metadata.get(key)
            if not _equal(found, value):
                shown = printable(str(found), 80)
                return failed(
                    f"{key} is {shown!r}, not {value!r}", "Set it, or change metadata.equals", key=key
                )
        return passed(f"{len(wanted.required) + len(wanted.equals)} keys as they should be")


def _equal(found: Any, value: Any) -> bool:
    if isinstance(found, float) and isinstance(value, float) and abs(value) < _LARGEST_FLOAT32:
        # Most floats of a header have 32 bits: 0.1 is stored as the nearest of these.
        return found in (value, float(np.float32(value)))
    return bool(found == value) and isinstance(found, bool) == isinstance(value, bool)


def _empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, MetadataArray) and not len(value))
