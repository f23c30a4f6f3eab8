"""Files made to break whoever looks at them: mutated, with template bombs, with counts that lie."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

BOMBS = (
    "{{ 9 ** 9 ** 9 }}",
    "{{ 'a' * 9999999999 }}",
    "{% for a in range(99999999) %}" * 5 + "x" + "{% endfor %}" * 5,
    "{{ " + "(" * 4000 + ")" * 4000 + " }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ x" + "[0" * 3000 + "]" * 3000 + " }}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{{" + "9" * 9000 + "}}",
    "{%" * 30000,
    "{{ x" + "|trim" * 10000 + " }}",
    "{{ x" + "|replace('a','b')" * 3500 + " }}",
    "{{ x" + ".replace('a','b')" * 3500 + " }}",
    "{{ " + "*".join(["1"] * 30000) + " }}",
    "{{ " + "+".join(["'a'"] * 15000) + " }}",
    "{{ '" + "\\u0041" * 5000 + "' }}",
    "{% raw %}" + "{{" * 20000,
    "{#" * 20000,
    "{{ a" + " ~ a" * 8000 + " }}",
    "{{ a" + " if a else a" * 3000 + " }}",
    "\x00\x01{{ \ud7ff }}",
)
_HUGE = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
TEMPLATE_MARK = b"@TEMPLATE@"


def variants(whole: bytes, header: int, number: int, seed: int = 0) -> Iterator[bytes]:
    """``number`` broken versions of a sound file.

    Args:
        header: bytes before the tensors' data; most of the damage is done there.
    """
    dice = random.Random(seed)
    for index in range(number):
        data = bytearray(whole)
        kind = index % 6
        if kind == 0:  # a few flipped bytes
            for _ in range(dice.randint(1, 8)):
                data[dice.randrange(header)] = dice.randrange(256)
        elif kind == 1:  # a count or length that lies
            place = dice.randrange(header - 8)
            data[place : place + 8] = struct.pack("<Q", dice.choice(_HUGE))
        elif kind == 2:  # cut off
            del data[dice.randrange(len(data)) :]
        elif kind == 3:  # bytes gone or doubled
            place, size = dice.randrange(header), dice.randint(1, 64)
            if dice.random() < 0.5:
                del data[place : place + size]
            else:
                data[place:place] = data[place : place + size]
        elif kind == 4:  # damaged weights
            for _ in range(dice.randint(1, 200)):
                data[dice.randrange(header, len(data))] = dice.choice(
                    (0, 0x7F, 0x80, 0xFF, dice.randrange(256))
                )
        else:  # the small numbers of the header: the settings
            place = dice.randrange(header - 4)
            data[place : place + 4] = struct.pack("<I", dice.choice((0, 1, 2**16, 2**31, 2**32 - 1)))
        yield bytes(data)
