"""Tells broken text from odd but sound text, on answers as short as 16 tokens.

Every rule asks for evidence that ordinary text (prose in any language, code, lists, tables, refrains) does
not give. A missed oddity is cheaper than calling a sound answer broken, so one doubled word or one foreign
word is never enough.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

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

# Interjections and intensifiers that writers do repeat.
_REPEATABLE = frozenset(
    re.split(
        " ",
        "ha haha ho he hee la na no yes yeah very really so bla blah beep boom tick tock knock ding cha choo"
        " quack moo meow woof chirp buzz hip row wow oh ah go run bye now more many far big long and",
    )
)
# Latin words that hold English sentences together. Loanwords in Chinese or Arabic text are names and terms.
_GLUE = frozenset(
    re.split(
        " ",
        "the a an is are was of and to in on that this it i i'm you he she we they not cannot can't sorry but"
        " or for with my your as be will would can do have has",
    )
)
# Names of chat roles: a model that writes one twice has left its template.
_ROLES = frozenset({"assistant", "user", "system", "model"})
# Words that grammar doubles ("that that", "had had", "what it is is").
_DOUBLED_BY_GRAMMAR = frozenset({"that", "had", "is", "you", "her", "it", "vous", "nous", "sie"})
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

# What may stand between words of running text; brackets, bars, slashes and equals signs mark code and tables.
_PROSE_GAP = re.compile(r"[\s,.;!?…，。！？、；：’'*~\-–—]*\Z")


@dataclass(frozen=True)
class _Word:
    text: str
    gap: str  # what stands between the previous word and this one
    script: str


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
    words = _words(prose)
    return (
        _garbage(text)
        or _character_run(text)
        or _no_words(text)
        or _word_run(words)
        or _phrase_loop(words)
        or _line_loop(text)
        or _tail_loop(text)
        or _glued_loop(words)
        or _poor_vocabulary(words)
        or _compresses(prose, words)
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
    letters = _letters(_words(_LINK.sub(" ", _CODE.sub(" ", text))))
    asked = _letters(_words(request))
    if not letters or not asked or _WANTS_ANOTHER_SCRIPT.search(request):
        return None
    script = max(letters, key=lambda name: letters[name])
    if script in ("latin", "mixed") or script in asked:
        return None
    # A name or a quotation is no answer.
    if letters[script] < 24 or letters[script] < 0.6 * sum(letters.values()):
        return None
    return f"{script} script where {max(asked, key=lambda name: asked[name])} was spoken"


def _letters(words: Sequence[_Word]) -> dict[str, int]:
    """How much of a text is in which script, in Latin letters: a Chinese character says about as much as half
    a word."""
    letters: dict[str, int] = {}
    for word in words:
        weight = 3 if word.script == "han" else 1
        letters[word.script] = letters.get(word.script, 0) + len(word.text) * weight
    letters.pop("", None)
    return letters


def _garbage(text: str) -> str | None:
    replacements = text.count("\ufffd")
    if replacements >= 2:
        return f"{replacements} replacement characters"
    bad = sum(unicodedata.category(c) in ("Cc", "Co") and c not in "\t\n\r\f\x0b" for c in text)
    # An icon font's or escape sequence's single character can be quoted; several are binary noise.
    return f"{bad} control or private-use characters" if bad >= 2 else None


def _character_run(text: str) -> str | None:
    dense = "".join(text.split())
    run = max((list(group) for _, group in groupby(dense)), key=len)
    # Rulers, blanks to fill in and table borders are long runs too, beside some text.
    most = 0.75 if run[0] in "_-=.*#~+|" else 0.5
    if len(run) >= 6 and len(run) > most * len(dense) and not run[0].isdigit():
        return f"repeats the character '{run[0]}' {len(run)} times"
    return None


def _no_words(text: str) -> str | None:
    """Letters, digits, and symbols such as 👍 or ∑ say something; punctuation alone does not."""
    kinds = [unicodedata.category(c) for c in text if not c.isspace()]
    meaningful = any(k[0] in "LN" or k in ("So", "Sm", "Sc") for k in kinds)
    # A line break right after an opening fence, or one mark, is a cut answer about to begin.
    if meaningful or len(kinds) < 3 or text.strip() == "```":
        return None
    return "nothing but punctuation"


def _word_run(words: Sequence[_Word]) -> str | None:
    """The same word again and again: "the the the", "sorry, sorry, sorry, sorry"."""
    start, doubled = 0, 0
    for index in range(1, len(words) + 1):
        same = (
            index < len(words)
            and words[index].text == words[start].text
            and _PROSE_GAP.match(words[index].gap) is not None
        )
        if same:
            doubled += words[index].gap.isspace() and _doubling_is_odd(words[index].text)
            continue
        word, count = words[start].text, index - start
        share = count / len(words)
        gaps = [w.gap for w in words[start + 1 : index]]
        if _is_number(word) or (len(word) == 1 and word.isascii() and word != "i"):
            limit = 12 if share > 0.5 and not _is_number(word) else len(words) + 1
        elif words[start].script in ("han", "thai"):
            # Single characters: laughter and emphasis double and treble them.
            limit = 6 if share <= 0.5 else 5
        elif word in _ROLES and share == 1:
            limit = 2
        elif word in _REPEATABLE:
            limit = 8
        elif all(gap.isspace() and "\n" not in gap for gap in gaps):
            limit = 3
        else:
            limit = 4 if share >= 0.5 else 6
        if count >= limit:
            return f"repeats '{word}' {count} times"
        start = index
    if doubled >= 3 and doubled / len(words) >= 0.12:
        return f"doubles {doubled} of {len(words)} words"
    return None


def _doubling_is_odd(word: str) -> bool:
    return word not in _REPEATABLE and word not in _DOUBLED_BY_GRAMMAR and not _is_number(word)


def _phrase_loop(words: Sequence[_Word]) -> str | None:
    """The same phrase of 2 to 12 words at least three times in a row."""
    # A mark that belongs to code or tables parts what stands before it from what follows.
    texts: list[str] = []
    for word in words:
        if _PROSE_GAP.match(word.gap) is None and not re.search(r"[\"“”)(]", word.gap):
            texts.append(f"\0{len(texts)}")
        texts.append(word.text)
    total = len(words)
    for period in range(2, 13):
        run = 0
        for index in range(period, len(texts) + 1):
            if index < len(texts) and texts[index] == texts[index - period]:
                run += 1
                continue
            covered = run + period
            repeats = covered / period
            phrase = texts[index - covered : index][:period]
            speaks = any(not _is_number(w) and len(w) > 1 for w in phrase) or "i" in phrase
            distinct = len(set(phrase)) > 1
            single_characters = all(len(w) == 1 for w in phrase)
            enough = 3 if covered >= 0.5 * total else 4
            if single_characters and phrase and phrase[0].isascii():
                enough = 8
            elif single_characters:
                speaks, enough = True, enough + (period == 2)
            if run and distinct and speaks and repeats >= enough and covered >= min(12, 0.5 * total):
                return f"repeats '{' '.join(phrase)}' {int(repeats)} times"
            run = 0
    return None


def _line_loop(text: str) -> str | None:
    """The same line over and over, its number or bullet apart. Short lines such as "}" or "end" are code."""
    lines = [re.sub(r"^[\s\d.)*#>•-]+", "", line).strip().lower() for line in text.splitlines()]
    lines = [line for line in lines if line]
    counts = {line: lines.count(line) for line in set(lines) if len(line) >= 10 and re.search(r"\w", line)}
    if not counts:
        return None
    count = max(counts.values())
    # A song's refrain comes back between verses: it never makes up the larger part.
    return f"repeats a line {count} times" if count >= 3 and count > 0.5 * len(lines) else None


def _tail_loop(text: str) -> str | None:
    """The end of the text is one string of 4 to 80 characters at least five times, and most of the text.

    This one sees loops that are no words at all, in code or markup.
    """
    squeezed = re.sub(r"\s+", " ", text.strip().lower())
    for period in range(4, min(80, len(squeezed) // 5) + 1):
        run = 0
        while run < len(squeezed) - period and squeezed[-1 - run] == squeezed[-1 - run - period]:
            run += 1
        unit = squeezed[-period:]
        covered = run + period
        if (
            covered >= 5 * period
            and covered > 0.6 * len(squeezed)
            and len(re.findall(r"[^\W\d_]", unit)) >= 3
        ):
            return f"repeats '{unit.strip()}' {covered // period} times"
    return None


def _glued_loop(words: Sequence[_Word]) -> str | None:
    """One word made of a repeated piece: "sorrysorrysorry"."""
    for word in words:
        if len(word.text) >= 12 and (match := re.fullmatch(r"(.{2,12}?)\1{2,}.*", word.text)):
            piece = match[1]
            whole = len(word.text) // len(piece)
            if len(set(piece)) > 1 and piece not in _REPEATABLE and not _is_number(piece) and len(piece) >= 3:
                return f"repeats '{piece}' {whole} times"
    return None


def _poor_vocabulary(words: Sequence[_Word]) -> str | None:
    """Many words, hardly any different: loops without a fixed period."""
    spoken = [
        w.text for w in words if _PROSE_GAP.match(w.gap) and not _is_number(w.text) and w.script != "han"
    ]
    distinct = len(set(spoken))
    limit = 0.34 if len(spoken) < 24 else 0.25
    if len(spoken) >= 12 and distinct / len(spoken) < limit and any(len(w) > 1 for w in spoken):
        return f"only {distinct} different words in {len(spoken)}"
    return None


def _compresses(prose: str, words: Sequence[_Word]) -> str | None:
    """Long text that shrinks to a fraction: repeated with small changes."""
    # Padding in tables and indented lines shrinks as well and says nothing.
    spoken = " ".join(w.text for w in words if not _is_number(w.text)).encode()
    if len(spoken) < 240 or len(spoken) < 0.5 * len(prose.encode()):
        return None
    ratio = len(zlib.compress(spoken, 9)) / len(spoken)
    return f"compresses to {ratio:.0%} of its length" if ratio < 0.22 else None


def _script_soup(words: Sequence[_Word]) -> str | None:
    """Scripts changing inside sentences with nothing between, as no bilingual text does.

    Lists of translations put a colon, a bracket or a quotation mark between the scripts, so only changes
    across a space, or across nothing, count.
    """
    letters = _letters(words)
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


def _grown_together(prose: str, words: Sequence[_Word]) -> str | None:
    """Chinese characters inside words of a text in Latin letters. Chinese text does set Latin words without a
    space, and English quotes such a phrase at times, so three places are needed."""
    letters = _letters(words)
    count = len(_GROWN_TOGETHER.findall(prose))
    if count < 3 or letters.get("latin", 0) < letters.get("han", 0):
        return None
    return f"Chinese characters inside words, {count} times"


def _unpronounceable(words: Sequence[_Word]) -> str | None:
    """Several Latin words without a single vowel that are no abbreviations."""
    latin = [w for w in words if w.script == "latin" and len(w.text) >= 2]
    broken = [w.text for w in latin if len(w.text) >= 5 and not _has_vowel(w.text) and not _is_number(w.text)]
    if len(broken) >= 3 and len(broken) >= 0.2 * len(latin):
        return f"{len(broken)} words without a vowel, such as '{broken[0]}'"
    return None


def _has_vowel(word: str) -> bool:
    return any(c in _VOWELS for c in unicodedata.normalize("NFD", word))


def _is_number(word: str) -> bool:
    return any(c.isdigit() for c in word)


def _words(text: str) -> list[_Word]:
    """Cuts text into lower-case words; scripts written without spaces give a word per character."""
    words: list[_Word] = []
    gap, current, scripts = "", "", set[str]()

    def close() -> None:
        nonlocal gap, current, scripts
        if current:
            script = next(iter(scripts)) if len(scripts) == 1 else "mixed" if scripts else ""
            words.append(_Word(current, gap, script))
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
            words.append(_Word(character, gap, script))
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


def _script(character: str) -> str:
    code = ord(character)
    return next((name for low, high, name in _SCRIPT_RANGES if low <= code <= high), "")
