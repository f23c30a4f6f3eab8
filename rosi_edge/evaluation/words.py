"""Text cut into words, each with its script and what stands before it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

# What may stand between words of running text; brackets, bars, slashes and equals signs mark code and tables.
_PROSE_GAP = re.compile(r"[\s,.;!?…，。！？、；：’'*~\-–—]*\Z")

_SCRIPT_RANGES = (
    (0x0041, 0x024F, "latin"),
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0530, 0x058F, "armenian"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x06FF, "arabic"),
    (0x0900, 0x097F, "devanagari"),
    (0x0980, 0x09FF, "bengali"),
    (0x0B80, 0x0BFF, "tamil"),
    (0x0C00, 0x0C7F, "telugu"),
    (0x0E00, 0x0EFF, "thai"),  # and Lao
    (0x10A0, 0x10FF, "georgian"),
    (0x1100, 0x11FF, "hangul"),
    (0x1780, 0x17FF, "thai"),  # Khmer, also written without spaces
    (0x1E00, 0x1EFF, "latin"),
    (0x1F00, 0x1FFF, "greek"),
    (0x3040, 0x30FF, "han"),  # kana belongs with Chinese characters: Japanese mixes them in every sentence
    (0x3400, 0x9FFF, "han"),
    (0xAC00, 0xD7AF, "hangul"),
    (0xF900, 0xFAFF, "han"),
    (0x20000, 0x3FFFF, "han"),
)


@dataclass(frozen=True)
class Word:
    """``gap`` is what stands between the previous word and this one."""

    text: str
    gap: str
    script: str

    @property
    def in_prose(self) -> bool:
        """Running text goes on from the word before it."""
        return _PROSE_GAP.match(self.gap) is not None


def cut(text: str) -> list[Word]:
    """Cuts text into lower-case words; scripts written without spaces give a word per character."""
    words: list[Word] = []
    gap, current, scripts = "", "", set[str]()

    def close() -> None:
        nonlocal gap, current, scripts
        if current:
            script = next(iter(scripts)) if len(scripts) == 1 else "mixed" if scripts else ""
            words.append(Word(current, gap, script))
            gap, current, scripts = "", "", set()

    for position, character in enumerate(text):
        category = unicodedata.category(character)
        inside = category[0] in "LMN" and category not in ("Lm", "No")
        apostrophe = character in "'’" and current != "" and text[position + 1 : position + 2].isalpha()
        if not inside and not apostrophe:
            close()
            gap += character
            continue
        script = _script(character) if category[0] == "L" else ""
        if script in ("han", "thai"):
            close()
            words.append(Word(character, gap, script))
            gap = ""
            continue
        if category[0] == "M" and not current:
            # A vowel sign of the character just closed (Thai).
            continue
        if script == "hangul" and scripts - {"hangul"}:
            close()  # Korean endings are written onto Latin names.
        elif script == "latin" and scripts and scripts <= {"hangul", "greek"}:
            close()
        current += "'" if apostrophe else character.lower()
        if script and not (script == "greek" and scripts):
            scripts.add(script)
    close()
    return words


def letters_by_script(words: Sequence[Word]) -> dict[str, int]:
    """How much of a text is in which script, in Latin letters: a Chinese character says about as much as half
    a word."""
    letters: dict[str, int] = {}
    for word in words:
        weight = 3 if word.script == "han" else 1
        letters[word.script] = letters.get(word.script, 0) + len(word.text) * weight
    letters.pop("", None)
    return letters


def is_number(word: str) -> bool:
    return any(c.isdigit() for c in word)


def _script(character: str) -> str:
    code = ord(character)
    return next((name for low, high, name in _SCRIPT_RANGES if low <= code <= high), "")
