"""Reading a GGUF file that may lie.

Model files come from strangers. gguf-py's reader believes every length it reads; this one checks each of
them against the bytes that are there before it uses it, so that a damaged or hostile file ends in one
plain sentence and never in a wild allocation, a wrong slice or a traceback. The tensors' bytes stay on
disk behind a read-only memory map.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3 share one layout).
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NoReturn, Self

import gguf
import numpy as np
import numpy.typing as npt

from rosi_edge.basics.text import printable
from rosi_edge.errors import ModelFileError, UnsupportedModelError
from rosi_edge.models.gguf_header import (
    DEFAULT_ALIGNMENT,
    DOWNLOAD_AGAIN,
    FROM_ITS_MAKER,
    LOOKALIKES,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_KEYS,
    MAX_TENSORS,
    READABLE_VERSIONS,
    U32,
    U64,
    Cursor,
    MetadataField,
    MetadataValue,
    TensorInfo,
    align,
    read_field,
    read_tensor_entry,
)
from rosi_edge.models.parts import MAX_PARTS, PART_NAME, part_name, whole_of_piece


class GgufFile:
    """A GGUF file, checked from end to end and mapped into memory read-only.

    Use :meth:`open`, best as a context manager. Views from :meth:`tensor_bytes` stay valid while they are
    held, even after :meth:`close`.

    A model may be split into several files; the first is opened and brings the others. Everything here then
    describes the first file, which holds the metadata, except for ``tensors`` and what takes a tensor's
    name: these know all parts.
    """

    path: Path
    version: int
    size: int
    """Bytes in the file."""
    alignment: int
    data_offset: int
    """Where the tensors' bytes begin."""
    fields: Mapping[str, MetadataField]
    metadata: Mapping[str, MetadataValue]
    tensors: Mapping[str, TensorInfo]
    """In file order, those of all parts."""
    own_tensors: Mapping[str, TensorInfo]
    """In file order, those of this file alone."""
    parts: tuple[GgufFile, ...]
    """All files of the model in order, this one first; an ordinary file is its own only part."""
    tensor_table: tuple[int, int]
    """First and past-the-last byte of the tensor table in the header."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map the file, and the parts that follow it, and check their headers.

        Raises:
            ModelFileError: missing, unreadable, not GGUF, truncated, or it contradicts itself or its parts.
            UnsupportedModelError: a part of a split model that is not the first, or not named as one.
        """
        first = cls(Path(path))
        try:
            first._open_others()
        except BaseException:
            first.close()
            raise
        return first

    def __init__(self, path: Path) -> None:
        """Open one file alone; :meth:`open` is what brings a model's other parts."""
        self.path = path
        self.parts = (self,)
        self._descriptor = _open_regular(path)
        try:
            status = os.fstat(self._descriptor)
            self.size = status.st_size
            self._modified = status.st_mtime_ns
            if self.size == 0:
                raise ModelFileError(f"{path.name} is empty", DOWNLOAD_AGAIN)
            try:
                self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise ModelFileError(f"{path} cannot be read ({error.strerror or error})") from error
            try:
                self._parse()
            except BaseException as error:
                self._map.close()
                if isinstance(error, ModelFileError) and (whole := whole_of_piece(path.name)):
                    raise ModelFileError(
                        f"{printable(path.name)} is a piece of a file that was cut up",
                        f"Join all its pieces in their order, as in cat PIECE1 PIECE2 > {printable(whole)}",
                    ) from None
                raise
        except BaseException:
            os.close(self._descriptor)
            self._descriptor = -1
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file, and of the parts it brought. May be called twice."""
        for part in self.parts[1:]:
            part.close()
        # A view that someone still holds keeps the map alive; the last one to go closes it.
        with suppress(BufferError):
            self._map.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        """The open, read-only descriptor, for copying ranges without passing them through Python."""
        if self._descriptor < 0:
            raise ValueError(f"{self.path} is closed")
        return self._descriptor

    @property
    def total_size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    def check_unchanged(self) -> None:
        """Raise ModelFileError when somebody wrote to the file, or to its parts, after it was opened."""
        for part in self.parts[1:]:
            part.check_unchanged()
        status = os.fstat(self.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.size, self._modified):
            raise ModelFileError(
                f"{self.path.name} was changed while it was being read", "Run the command again"
            )

    def raw(self, start: int, end: int) -> bytes:
        """A copy of the bytes from ``start`` to ``end``."""
        return self._map[start:end]

    def tensor_bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """The tensor's bytes as they lie in the file: a read-only view, shape (size,), nothing is copied.

        Raises:
            KeyError: no such tensor.
        """
        tensor = self.tensors[name]
        data = self.parts[tensor.part]._map
        return np.frombuffer(data, dtype=np.uint8, count=tensor.size, offset=tensor.offset)

    def read(self, start: int, size: int) -> npt.NDArray[np.uint8]:
        """A copy of ``size`` bytes of this very file, (size,).

        Not through the memory map, whose pages would count as this process's memory.

        Raises:
            ModelFileError: the file became shorter.
        """
        buffer = bytearray(size)
        view = memoryview(buffer)
        done = 0
        while done < size:
            if hasattr(os, "preadv"):
                got = os.preadv(self.fileno(), [view[done:]], start + done)
            else:  # Windows, macOS before 11
                piece = self._map[start + done : start + size]
                view[done : done + len(piece)] = piece
                got = len(piece)
            if not got:
                raise ModelFileError(f"{self.path.name} became shorter while it was being read")
            done += got
        return np.frombuffer(buffer, dtype=np.uint8)

    def read_tensor(self, name: str, start: int = 0, size: int | None = None) -> npt.NDArray[np.uint8]:
        """A copy of a tensor's bytes from ``start`` on, ``size`` of them or all that follow.

        Raises:
            KeyError: no such tensor.
            ModelFileError: the file became shorter.
        """
        tensor = self.tensors[name]
        count = tensor.size - start if size is None else size
        return self.parts[tensor.part].read(tensor.offset + start, count)

    def text(self, key: str) -> str | None:
        """A string of the metadata, None when the key is absent. Raises ModelFileError on another type."""
        value = self.metadata.get(key)
        if value is None or isinstance(value, str):
            return value
        raise ModelFileError(f"{self.path.name} is damaged: {key} should be text", DOWNLOAD_AGAIN)

    def integer(self, key: str) -> int | None:
        """A whole number of the metadata, None when absent. Raises ModelFileError on another type."""
        value = self.metadata.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise ModelFileError(f"{self.path.name} is damaged: {key} should be a whole number", DOWNLOAD_AGAIN)

    def _parse(self) -> None:
        cursor = Cursor(self._map, self.path.name)
        self._read_magic(cursor)
        tensor_count: int = cursor.number(U64, "the number of tensors")
        key_count: int = cursor.number(U64, "the number of metadata keys")
        left = self.size - cursor.position
        # The shortest key is a length, a type and one byte; the shortest tensor entry 8+1+4+8+4+8 bytes.
        for count, limit, smallest, what in (
            (key_count, MAX_KEYS, 8 + 1 + 4 + 1, "metadata keys"),
            (tensor_count, MAX_TENSORS, 33, "tensors"),
        ):
            if count > limit or count * smallest > left:
                cursor.fail(f"is truncated or damaged: it claims {count} {what} in {self.size} bytes")

        fields: dict[str, MetadataField] = {}
        for _ in range(key_count):
            field = read_field(cursor)
            if field.key in fields:
                cursor.fail(f"is damaged: the metadata key {field.key} occurs twice")
            fields[field.key] = field
        self.fields = MappingProxyType(fields)
        self.metadata = MappingProxyType({key: field.value for key, field in fields.items()})
        self.alignment = self._read_alignment(cursor)
        start = cursor.position
        entries = [read_tensor_entry(cursor) for _ in range(tensor_count)]
        self.tensor_table = (start, cursor.position)
        self.data_offset = align(cursor.position, self.alignment)
        self.tensors = self.own_tensors = MappingProxyType(self._place(cursor, entries))

    def _read_magic(self, cursor: Cursor) -> None:
        start = self._map[:24]
        if start[:4] != MAGIC:
            for signature, what, remedy in LOOKALIKES:
                if start.startswith(signature):
                    cursor.fail(what, remedy)
            cursor.fail("is not a GGUF file", "Give a model in GGUF, the format of llama.cpp")
        cursor.position = 4
        version: int = cursor.number(U32, "the format version")
        # A version fits in the low 16 bits, so a swapped one has them all zero.
        if version and version & 0xFFFF == 0:
            cursor.fail(
                "has its bytes in big-endian order",
                "Get the little-endian file, or swap it with gguf-convert-endian",
            )
        if version not in READABLE_VERSIONS:
            cursor.fail(
                f"has GGUF version {version}; versions 2 and 3 can be read",
                "Convert the model with a current llama.cpp",
            )
        self.version = version

    def _read_alignment(self, cursor: Cursor) -> int:
        alignment = self.integer("general.alignment")
        if alignment is None:
            return DEFAULT_ALIGNMENT
        if self.fields["general.alignment"].type != gguf.GGUFValueType.UINT32:
            cursor.fail("stores general.alignment in a type that llama.cpp does not read", FROM_ITS_MAKER)
        if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            cursor.fail(f"is damaged: general.alignment is {alignment}, not a power of two")
        return alignment

    def _open_others(self) -> None:
        """Open the files that a split model goes on in, as ``llama-gguf-split`` names and numbers them."""
        count = self.integer("split.count") or 0
        if count <= 1:
            return
        name = self.path.name
        number = self.integer("split.no") or 0
        if not 2 <= count <= MAX_PARTS or not 0 <= number < count:
            self._fail(f"is damaged: it claims to be part {number + 1} of {count}")
        end = align(
            max((each.end for each in self.own_tensors.values()), default=self.data_offset), self.alignment
        )
        if self._map[end : end + 4] == MAGIC:
            raise UnsupportedModelError(
                f"{printable(name)} holds the {count} parts of a model end to end, which makes no model",
                "Put the parts themselves into one folder, or join them with llama-gguf-split --merge",
            )
        found = PART_NAME.fullmatch(name)
        if found is None or int(found["count"]) != count or int(found["number"]) != number + 1:
            raise UnsupportedModelError(
                f"{printable(name)} is part {number + 1} of {count}, but its name does not say so",
                f"Name the parts NAME-00001-of-{count:05d}.gguf and so on, in one folder",
            )
        paths = [self.path.with_name(part_name(found["stem"], index, count)) for index in range(count)]
        if number:
            raise UnsupportedModelError(
                f"{printable(name)} is part {number + 1} of {count}", f"Give the first part, {paths[0].name}"
            )
        tensors = dict(self.own_tensors)
        for index, path in enumerate(paths[1:], start=1):
            if not path.exists():
                raise ModelFileError(
                    f"{printable(path.name)}, a part of the model, is missing",
                    "Put all parts into one folder",
                )
            part = GgufFile(path)
            self.parts = (*self.parts, part)
            if (part.integer("split.count"), part.integer("split.no")) != (count, index):
                part._fail(f"is not part {index + 1} of {count} of {name}")
            if part.version != self.version or tensors.keys() & part.own_tensors.keys():
                part._fail(f"does not belong to {name}")
            tensors |= {each.name: replace(each, part=index) for each in part.own_tensors.values()}
        expected = self.integer("split.tensors.count")
        if expected is not None and expected != len(tensors):
            self._fail(f"is damaged: its parts hold {len(tensors)} tensors where {expected} belong")
        self.tensors = MappingProxyType(tensors)

    def _fail(self, message: str) -> NoReturn:
        raise ModelFileError(f"{printable(self.path.name)} {printable(message)}", DOWNLOAD_AGAIN)

    def _place(self, cursor: Cursor, entries: list[TensorInfo]) -> dict[str, TensorInfo]:
        """Turn offsets from the start of the data into offsets in the file, and check them."""
        tensors: dict[str, TensorInfo] = {}
        for entry in entries:
            if entry.name in tensors:
                cursor.fail(f"is damaged: the tensor {entry.name} occurs twice")
            if entry.offset % self.alignment:
                cursor.fail(
                    f"is damaged: the tensor {entry.name} starts at {entry.offset}, "
                    f"not a multiple of the alignment {self.alignment}"
                )
            offset = self.data_offset + entry.offset
            if offset + entry.size > self.size:
                cursor.fail(
                    f"is truncated: the tensor {entry.name} ends at byte {offset + entry.size}, "
                    f"but the file has {self.size}"
                )
            tensors[entry.name] = TensorInfo(entry.name, entry.shape, entry.type, offset, entry.size)
        previous: TensorInfo | None = None
        for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
            if previous is not None and tensor.offset < previous.end:
                cursor.fail(f"is damaged: the tensors {previous.name} and {tensor.name} overlap")
            previous = tensor
        return tensors


def _open_regular(path: Path) -> int:
    try:
        # Asked before opening: opening a pipe would wait for a writer.
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            if (path / "config.json").is_file():
                raise ModelFileError(
                    f"{path} is a checkpoint folder, and this is for GGUF files",
                    "Convert it with llama.cpp's convert_hf_to_gguf.py and give the GGUF file",
                )
            raise ModelFileError(f"{path} is a folder, not a model file", "Give the .gguf file inside it")
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"{path} is not a regular file", "Give the path of a .gguf file")
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist", "Check the path") from None
    except PermissionError:
        raise ModelFileError(f"{path} may not be read", "Check its permissions") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelFileError(f"{path!s} cannot be opened ({reason})", "Check the path") from error
