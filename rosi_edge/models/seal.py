"""The seal of a file this tool has written: a hash of its header, kept in the header itself.

It tells that no byte of the metadata and of the tensor table has changed since. It is no signature: whoever
changes a file on purpose can seal it again, and what then proves anything is the comparison with the base.
"""

from __future__ import annotations

import hashlib
from typing import Final

OWN_PREFIX = "rosi."
"""The metadata keys that this tool writes."""
PADDING_KEY = "rosi.padding"
"""Holds nothing: as long as it takes for the tensors to start where they started in the source, counted in
blocks of the file system, so that these can be copied, or shared, as they are."""

SOURCE_KEY: Final = "rosi.source.sha256"
"""The SHA-256 of the model that the file was made from."""

SEAL_KEY: Final = "rosi.seal"
BLANK: Final = "0" * 64
"""What stands in the seal's place while the header is hashed: as long as a SHA-256 in hexadecimal."""


def seal_of(header: bytes, seal_end: int) -> bytes:
    """The SHA-256, in hexadecimal, of a header with its seal blanked out.

    Args:
        header: everything before the tensors' bytes.
        seal_end: where the value of the seal's key ends.
    """
    digest = hashlib.sha256(memoryview(header)[: seal_end - len(BLANK)])
    digest.update(BLANK.encode())
    digest.update(memoryview(header)[seal_end:])
    return digest.hexdigest().encode()
