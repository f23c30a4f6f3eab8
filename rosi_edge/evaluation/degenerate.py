"""Tells broken text from odd but sound text, on answers as short as 16 tokens.

Every rule asks for evidence that ordinary text (prose in any language, code, lists, tables, refrains) does
not give. A missed oddity is cheaper than calling a sound answer broken, so one doubled word or one foreign
word is never enough.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from rosi_edge.evaluation.loops import loop
from rosi_edge.evaluation.words import Word, cut, is_number, letters_by_script

# Template and end marks of the common model families. Written inside code they are subject matter.
_SPECIAL_TOKEN = re.compile(
    r"<[|｜][A-Za-z_▁0-9 ]{2,40}[|｜]>"
    r"|</?(?:start_of_turn|end_of_turn|bos|eos|pad|unk|unused\d+)>"
    r"|<0x[0-9A-F]{2}>"
    r"|\[/?(?:INST|PAD|UNK|CLS|SEP)\]|<</?SYS>>"
    r"|^(?!.*<s>).*?(?P<end></s>)$",
    re.DOTALL,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*(?:`|\Z)", re.DOTALL)
_LINK = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+\.\S+|(?:[\w.-]*[/\\]){2,}\S*")

# Latin words that hold English sentences together. Loanwords in Chinese or Arabic text are names and terms.
_GLUE = frozenset(
    re.split(
        " ",
        "the a an is are was of and to in on that this it i i'm you he she we they not cannot can't sorry but"
        " or for with my your as be will would can do have has",
    )
)
_VOWELS = frozenset("aeiouyæøœı")
# Requests that want another script, or may: a language that is not written in Latin letters, or languages.
_WANTS_ANOTHER_SCRIPT = re.compile(
    r"\b(?:translat\w*|transliterat\w*|languages?|alphabets?|scripts?|multilingual|bilingual|kanji|hiragana"
    r"|katakana|hanzi|hangul|cyrillic|characters?|emoji|chinese|mandarin|cantonese|japanese|korean|russian"
    r"|ukrainian|bulgarian|serbian|macedonian|mongolian|kazakh|greek|hebrew|yiddish|arabic|persian|farsi|urdu"
    r"|hindi|sanskrit|marathi|nepali|bengali|tamil|telugu|thai|lao|khmer|burmese|georgian|armenian|amharic"
    r"|china|japan|korea|russia)\b",
    re.IGNORECASE,
)
# Chinese characters and pieces of words in Latin letters, grown together.
_GROWN_TOGETHER = re.compile(r"(?<=[a-z]{2})[\u3400-\u9fff]|[\u3400-\u9fff](?=[a-z]{2})")


def degenerate_reason(text: str, *, finished: bool = False) -> str | None:
    """Why an answer is no sensible text, or None when it is.

    Args:
        text: the answer, possibly cut anywhere.
        finished: the model ended the answer itself, so its last character is whole too. A cut answer may
            end inside a character (seen as U+FFFD) without being broken.

    Returns:
        A few plain words for a report ("repeats 'sorry' 5 times"), or None.
    """
    if not finished:
        text = text.rstrip("\ufffd")
    if not text.strip():
        return "empty"
    if token := _SPECIAL_TOKEN.search(_CODE.sub(" ", text).strip()):
        return f"special token {token['end'] or token[0]} in the text"
    prose = _LINK.sub(" ", _CODE.sub(" ", text))
    words = cut(prose)
    return (
        _garbage(text)
        or _no_words(text)
        or loop(text, prose, words)
        or _script_soup(words)
        or _grown_together(prose, words)
        or _unpronounceable(words)
    )


def wrong_script(request: str, text: str) -> str | None:
    """Why an answer is in a script that nobody asked for, or None when it is not.

    A model that a too strong edit has broken often slips into another language of its training. Latin letters
    are never wrong: they are in code and names everywhere.

    Args:
        request: what was asked; its own scripts, and those of languages that it names, are right.
        text: the answer, possibly cut anywhere.
    """
    letters = letters_by_script(cut(_LINK.sub(" ", _CODE.sub(" ", text))))
    asked = letters_by_script(cut(request))
    if not letters or not asked or _WANTS_ANOTHER_SCRIPT.search(request):
        return None
    script = max(letters, key=lambda name: letters[name])
    if script in ("latin", "mixed") or script in asked:
        return None
    # A name or a quotation is no answer.
    if letters[script] < 24 or letters[script] < 0.6 * sum(letters.values()):
        return None
    return f"{script} script where {max(asked, key=lambda name: asked[name])} was spoken"


def _garbage(text: str) -> str | None:
    replacements = text.count("\ufffd")
    if replacements >= 2:
        return f"{replacements} replacement characters"
    bad = sum(unicodedata.category(c) in ("Cc", "Co") and c not in "\t\n\r\f\x0b" for c in text)
    # An icon font's or escape sequence's single character can be quoted; several are binary noise.
    return f"{bad} control or private-use characters" if bad >= 2 else None


def _no_words(text: str) -> str | None:
    """Letters, digits, and symbols such as 👍 or ∑ say something; punctuation alone does not."""
    kinds = [unicodedata.category(c) for c in text if not c.isspace()]
    meaningful = any(k[0] in "LN" or k in ("So", "Sm", "Sc") for k in kinds)
    # A line break right after an opening fence, or one mark, is a cut answer about to begin.
    if meaningful or len(kinds) < 3 or text.strip() == "```":
        return None
    return "nothing but punctuation"


def _script_soup(words: Sequence[Word]) -> str | None:
    """Scripts changing inside sentences with nothing between, as no bilingual text does.

    Lists of translations put a colon, a bracket or a quotation mark between the scripts, so only changes
    across a space, or across nothing, count.
    """
    letters = letters_by_script(words)
    if len(letters) < 2:
        return None
    base = max(letters, key=lambda script: letters[script])
    mixed_words = sum(word.script == "mixed" for word in words)
    if mixed_words >= 2:
        return f"{mixed_words} words mix alphabets"
    segments: list[str] = []
    glued = glue_words = 0
    for previous, word in pairwise(words):
        if not word.script or not previous.script or word.script == previous.script:
            continue
        bare = word.gap == "" or word.gap.isspace()
        if not bare or "\n" in word.gap:
            continue
        if word.script not in (base, "latin", "greek"):
            segments.append(word.script)
        elif previous.script not in (base, "latin", "greek") and word.script == base and not segments:
            segments.append(previous.script)
        glued += word.gap == "" and base == "latin"
        for neighbour in (previous, word):
            if base != "latin" and neighbour.script == "latin" and neighbour.text in _GLUE:
                glue_words += 1
    kinds = set(segments)
    # Japanese and Korean write Chinese characters and Latin names beside their own letters.
    if base in ("han", "hangul"):
        kinds -= {"han", "hangul"}
        segments = [s for s in segments if s in kinds]
    too_many = 3 if len(kinds) >= 2 else 4 if glued >= 2 else 5
    if len(segments) >= too_many or (len(kinds) >= 2 and len(letters) >= 4 and len(segments) >= 2):
        return f"{len(segments)} splices of {', '.join(sorted(kinds))} into {base} text"
    if glue_words >= 4:
        return f"English words spliced into {base} text"
    return None


def _grown_together(prose: str, words: Sequence[Word]) -> str | None:
    """Chinese characters inside words of a text in Latin letters. Chinese text does set Latin words without a
    space, and English quotes such a phrase at times, so three places are needed."""
    letters = letters_by_script(words)
    count = len(_GROWN_TOGETHER.findall(prose))
    if count < 3 or letters.get("latin", 0) < letters.get("han", 0):
        return None
    return f"Chinese characters inside words, {count} times"


def _unpronounceable(words: Sequence[Word]) -> str | None:
    """Several Latin words without a single vowel that are no abbreviations."""
    latin = [w for w in words if w.script == "latin" and len(w.text) >= 2]
    broken = [w.text for w in latin if len(w.text) >= 5 and not _has_vowel(w.text) and not is_number(w.text)]
    if len(broken) >= 3 and len(broken) >= 0.2 * len(latin):
        return f"{len(broken)} words without a vowel, such as '{broken[0]}'"
    return None


def _has_vowel(word: str) -> bool:
    return any(c in _VOWELS for c in unicodedata.normalize("NFD", word))
