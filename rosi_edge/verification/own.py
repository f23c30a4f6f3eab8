"""What a file says of itself: its declaration and seal."""

from __future__ import annotations

from rosi_edge.basics.hashing import sha256_of_bytes
from rosi_edge.edits.declaration import KEYS, Declaration, DeclaredTensor
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.seal import BLANK, OWN_PREFIX, PADDING_KEY, SEAL_KEY, seal_of

_MOST_PADDING = 4096
"""Characters: less than a block of the file system (``models/rewrite.py``)."""
_FACTS = (
    *("version", "method", "strength", "layer", "rounding", "elicited", "edited_tensors", "edits.sha256"),
    *("source.sha256", "source.file"),
)
_OWN_KEYS = KEYS | {SEAL_KEY, PADDING_KEY, *(OWN_PREFIX + fact for fact in _FACTS)}


def own_problem(file: GgufFile, declaration: Declaration) -> str | None:
    """What a hardened file's own hashes contradict, without its base; None for nothing. Enough for damage:
    whoever changes a file on purpose can write these hashes anew."""
    if problem := seal_problem(file):
        return problem
    return next(filter(None, (changed_since(file, tensor) for tensor in declaration.tensors)), None)


def changed_since(file: GgufFile, declared: DeclaredTensor) -> str | None:
    if sha256_of_bytes(file.read_tensor(declared.name)) == declared.sha256:
        return None
    return f"{declared.name} was changed after it was written"


def seal_problem(file: GgufFile) -> str | None:
    """What is wrong with the seal of a hardened file's header; None for nothing."""
    field = file.fields.get(SEAL_KEY)
    if field is None:
        return "the header carries no seal"
    if not isinstance(field.value, str) or len(field.value.encode()) != len(BLANK):
        return "the header's seal is damaged"
    header = file.raw(0, min(file.data_offset, file.size))
    if seal_of(header, field.end) != field.value.encode():
        return "the header was changed after it was sealed"
    return None


def stowaway(file: GgufFile) -> str | None:
    """What a hardened file's header carries that this tool never writes; None for nothing."""
    own = [key for key in file.fields if key.startswith(OWN_PREFIX)]
    if unknown := sorted(set(own) - _OWN_KEYS):
        return f"the metadata key {unknown[0]} is none that rosi-edge writes"
    padding = file.metadata.get(PADDING_KEY, "")
    if not isinstance(padding, str) or padding.strip(" ") or len(padding) >= _MOST_PADDING:
        return f"the metadata key {PADDING_KEY} holds more than padding"
    if file.raw(file.tensor_table[1], min(file.data_offset, file.size)).strip(b"\0"):
        return "the padding before the tensors is not empty"
    return None
