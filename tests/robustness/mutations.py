"""Damages a GGUF file in every way its format offers, the same for the same number.

Half of them know the format: they lie about counts, lengths, shapes, types and offsets, or rebuild the header
with other keys and tensors in it. The other half are what disks and networks do.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf

from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import encode_field

NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 31, 32, 33, 63, 64, 65, 255, 256, 1 << 16, (1 << 16) + 1, 1 << 20, 1 << 24),
    *((1 << 24) + 1, 1 << 26, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 61),
    *(1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 32, (1 << 64) - 1),
)
TEXTS = ("", "x", "llama", "adapter", "imatrix", "qwen2", "\x1b[2J", "\0", "☃" * 30, "n" * 5000, "-1", "grid")
KEYS = (
    *("general.alignment", "general.architecture", "general.type", "general.file_type", "general.name"),
    *("split.count", "split.no", "split.tensors.count", "tokenizer.chat_template", "tokenizer.ggml.tokens"),
    *("llama.block_count", "llama.embedding_length", "llama.context_length", "llama.vocab_size"),
    *("llama.nextn_predict_layers", "adapter.type", "adapter.lora.alpha", "rosi.seal", "rosi.source.sha256"),
    *(
        f"rosi.edit.{name}"
        for name in ("format", "rounding", "tensors", "tensor_of", "output_of", "expert_of")
    ),
    *(f"rosi.edit.{name}" for name in ("outputs", "inputs", "base_sha256", "sha256", "aims")),
)


@dataclass(frozen=True)
class Sound:
    """A sound file taken apart: the pieces of its header as raw bytes, and what follows them."""

    content: bytes
    keys: tuple[str, ...]
    fields: tuple[bytes, ...]
    entries: tuple[bytes, ...]
    data: bytes
    alignment: int

    @classmethod
    def read(cls, path: Path) -> Sound:
        # Not by its ``open``: a part of a model is taken apart alone.
        with GgufFile(path) as file:
            fields = tuple(file.raw(field.start, field.end) for field in file.fields.values())
            entries, position = [], file.tensor_table[0]
            for tensor in file.own_tensors.values():
                size = 8 + len(tensor.name.encode()) + 4 + 8 * len(tensor.shape) + 4 + 8
                entries.append(file.raw(position, position + size))
                position += size
            assert position == file.tensor_table[1]
            return cls(
                path.read_bytes(), tuple(file.fields), fields, tuple(entries),
                file.raw(file.data_offset, file.size), file.alignment,
            )  # fmt: skip

    @property
    def data_offset(self) -> int:
        return len(self.content) - len(self.data)


def mutate(sound: Sound, number: int) -> tuple[str, bytes]:
    """The name of the damage and the damaged file; it may happen to be the sound one still."""
    draw = random.Random(number)
    damage = draw.choice(DAMAGES)
    content = damage(sound, draw)
    while draw.random() < 0.15:
        # Now and then a second damage hides behind the first; of raw bytes, as the pieces may be gone.
        content = _flipped(content, draw, 0, len(content)) if content else content
    return damage.__name__, content


def _flipped(content: bytes, draw: random.Random, start: int, end: int) -> bytes:
    data = bytearray(content)
    data[draw.randrange(start, end)] ^= 1 << draw.randrange(8)
    return bytes(data)


def one_bit_of_the_header(sound: Sound, draw: random.Random) -> bytes:
    return _flipped(sound.content, draw, 0, sound.data_offset)


def one_bit_of_the_data(sound: Sound, draw: random.Random) -> bytes:
    return _flipped(sound.content, draw, sound.data_offset, len(sound.content))


def several_bytes(sound: Sound, draw: random.Random) -> bytes:
    data = bytearray(sound.content)
    for _ in range(draw.randrange(2, 30)):
        data[draw.randrange(sound.data_offset)] = draw.randrange(256)
    return bytes(data)


def garbage(sound: Sound, draw: random.Random) -> bytes:
    start = draw.randrange(len(sound.content))
    end = min(len(sound.content), start + draw.randrange(1, 2000))
    return sound.content[:start] + draw.randbytes(end - start) + sound.content[end:]


def truncated(sound: Sound, draw: random.Random) -> bytes:
    return sound.content[: draw.randrange(draw.choice((sound.data_offset, len(sound.content))))]


def longer(sound: Sound, draw: random.Random) -> bytes:
    return sound.content + draw.choice((b"\0", b"x")) * draw.randrange(1, 5000)


def cut_or_pasted(sound: Sound, draw: random.Random) -> bytes:
    start = draw.randrange(sound.data_offset)
    if draw.random() < 0.5:
        return sound.content[:start] + sound.content[start + draw.randrange(1, 100) :]
    return sound.content[:start] + draw.randbytes(draw.randrange(1, 100)) + sound.content[start:]


def magic_and_version(sound: Sound, draw: random.Random) -> bytes:
    start = draw.choice((b"GGUF", b"FUGG", b"ggml", b"tjgg", b"PK\x03\x04", b"<htm", b"vers", b"\0\0\0\0"))
    version = draw.choice((0, 1, 2, 3, 4, 3 << 24, 1 << 31))
    return start + struct.pack("<I", version) + sound.content[8:]


def counts(sound: Sound, draw: random.Random) -> bytes:
    place, there = draw.choice(((8, len(sound.entries)), (16, len(sound.fields))))
    count = draw.choice((*NUMBERS, there - 1, there + 1, 2 * there))
    return sound.content[:place] + struct.pack("<Q", count) + sound.content[place + 8 :]


def a_number_of_a_field(sound: Sound, draw: random.Random) -> bytes:
    """A length, a type number or a value."""
    return _rebuilt(sound, fields=_with_other_number(sound.fields, draw))


def a_number_of_an_entry(sound: Sound, draw: random.Random) -> bytes:
    """A tensor's length of name, number of dimensions, extent, type or offset."""
    return _rebuilt(sound, entries=_with_other_number(sound.entries, draw))


def _with_other_number(pieces: tuple[bytes, ...], draw: random.Random) -> tuple[bytes, ...]:
    index = draw.randrange(len(pieces))
    piece = bytearray(pieces[index])
    (length,) = struct.unpack_from("<Q", piece)
    form = draw.choice(("<I", "<Q"))
    # Behind the name numbers stand in steps of four bytes.
    places = [0, *range(8 + length, min(len(piece), 8 + length + 64) - struct.calcsize(form) + 1, 4)]
    place = draw.choice(places)
    (before,) = struct.unpack_from(form, piece, place)
    value = draw.choice((*NUMBERS, before + 1, before - 1, 2 * before, before // 2, before + 32))
    struct.pack_into(form, piece, place, value % (1 << (8 * struct.calcsize(form))))
    return (*pieces[:index], bytes(piece), *pieces[index + 1 :])


def other_fields(sound: Sound, draw: random.Random) -> bytes:
    """A key twice, gone, in another place, or with another value."""
    fields = list(sound.fields)
    index = draw.randrange(len(fields))
    what = draw.randrange(5)
    if what == 0:
        fields.insert(draw.randrange(len(fields)), fields[index])
    elif what == 1:
        del fields[index]
    elif what == 2:
        draw.shuffle(fields)
    else:
        key = draw.choice((*KEYS, *sound.keys))
        field = _any_field(key, draw)
        if key in sound.keys and draw.random() < 0.9:
            fields[sound.keys.index(key)] = field
        else:
            fields.append(field)
    return _rebuilt(sound, fields=tuple(fields))


def _any_field(key: str, draw: random.Random) -> bytes:
    number = draw.choice(NUMBERS)
    signed = number if number < 1 << 63 else number - (1 << 64)
    real = draw.choice((0.0, -1.0, 1e308, float("inf"), float("-inf"), float("nan"), 0.5))
    length = draw.choice((1, 2, 3, 50, 2000))
    raw = struct.pack("<Q", len(key.encode())) + key.encode()
    what = draw.randrange(9)
    if what < 4:
        return encode_field(key, (draw.choice(TEXTS), bool(number & 1), signed, real)[what])
    if what < 8:
        values = (draw.choice(TEXTS), bool(number & 1), signed, real)[what - 4]
        return encode_field(key, [values] * length)  # type: ignore[arg-type]
    # Arrays in arrays, without elements, with more than there are, of no type; text that is no text.
    return raw + draw.choice(
        (
            struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 4, 0),
            struct.pack("<IIQ", 9, draw.randrange(14), 0),
            struct.pack("<IIQ", 9, draw.randrange(14), number),
            struct.pack("<IIQ", 9, 8, length) + struct.pack("<Q", 0) * length,
            struct.pack("<I", draw.choice((13, 99, 1 << 31))),
            struct.pack("<IQ", 8, 6) + b"\xff\xfe\xc3\x28\x80\xed",
        )
    )


def other_entries(sound: Sound, draw: random.Random) -> bytes:
    """A tensor twice, gone, in another place, or one more of any shape."""
    entries = list(sound.entries)
    index = draw.randrange(len(entries))
    what = draw.randrange(5)
    if what == 0:
        entries.insert(draw.randrange(len(entries)), entries[index])
    elif what == 1:
        del entries[index]
    elif what == 2:
        draw.shuffle(entries)
    elif what == 3:
        # The offset of one and the name of the other.
        entries[index] = entries[index][:-8] + draw.choice(entries)[-8:]
    else:
        name = draw.choice(
            ("x", "blk.0.ffn_down.weight", "blk.9.attn_output.weight", "\0", "n" * 63, "\x1b[2J")
        )
        name = name.encode()
        extents = [draw.choice((1, 32, 64, 256, *NUMBERS[:20])) for _ in range(draw.randrange(1, 5))]
        kind = draw.choice([*gguf.GGMLQuantizationType, 4, 5, 99])
        offset = draw.choice((0, len(sound.data), draw.choice(NUMBERS)))
        entry = struct.pack("<Q", len(name)) + name
        entry += struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset)
        entries.insert(draw.randrange(len(entries) + 1), entry)
    return _rebuilt(sound, entries=tuple(entries))


def other_alignment(sound: Sound, draw: random.Random) -> bytes:
    value = draw.choice((0, 1, 2, 3, 16, 33, 64, 4096, 1 << 20, 1 << 21, 1 << 31, -1, -32))
    kept = [field for key, field in zip(sound.keys, sound.fields, strict=True) if key != "general.alignment"]
    fields = (*kept, encode_field("general.alignment", value))
    return _rebuilt(
        sound, fields=fields, alignment=value if 0 < value <= 4096 and draw.random() < 0.5 else None
    )


def _rebuilt(
    sound: Sound,
    *,
    fields: tuple[bytes, ...] | None = None,
    entries: tuple[bytes, ...] | None = None,
    alignment: int | None = None,
) -> bytes:
    """With counts that fit and the data aligned, so that what is wrong is only what was made wrong."""
    fields = sound.fields if fields is None else fields
    entries = sound.entries if entries is None else entries
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(entries), len(fields))
    header = b"".join((start, *fields, *entries))
    return header + bytes(-len(header) % (alignment or sound.alignment)) + sound.data


DAMAGES: tuple[Callable[[Sound, random.Random], bytes], ...] = (
    *(one_bit_of_the_header, one_bit_of_the_data, several_bytes, garbage, truncated, longer, cut_or_pasted),
    *(magic_and_version, counts, other_alignment),
    *(a_number_of_a_field, a_number_of_an_entry, other_fields, other_entries) * 2,
)
