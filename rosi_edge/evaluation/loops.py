"""Text that repeats itself: words, phrases, lines, or a piece of any length.

Refrains, rulers, lists and code repeat too; each rule says what keeps them apart.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import groupby

from rosi_edge.evaluation.words import Word, is_number

# Interjections and intensifiers that writers do repeat.
_REPEATABLE = frozenset(
    re.split(
        " ",
        "ha haha ho he hee la na no yes yeah very really so bla blah beep boom tick tock knock ding cha choo"
        " quack moo meow woof chirp buzz hip row wow oh ah go run bye now more many far big long and",
    )
)
# Names of chat roles: a model that writes one twice has left its template.
_ROLES = frozenset({"assistant", "user", "system", "model"})
# Words that grammar doubles ("that that", "had had", "what it is is").
_DOUBLED_BY_GRAMMAR = frozenset({"that", "had", "is", "you", "her", "it", "vous", "nous", "sie"})


def loop(text: str, prose: str, words: Sequence[Word]) -> str | None:
    """How a text repeats itself, in a few plain words, or None when it does not.

    Args:
        prose: the text without code and links; ``words`` are its.
    """
    return (
        _character_run(text)
        or _word_run(words)
        or _phrase_loop(words)
        or _line_loop(text)
        or _tail_loop(text)
        or _glued_loop(words)
        or _poor_vocabulary(words)
        or _compresses(prose, words)
    )


def _character_run(text: str) -> str | None:
    dense = "".join(text.split())
    run = max((list(group) for _, group in groupby(dense)), key=len)
    # Rulers, blanks to fill in and table borders are long runs too, beside some text.
    most = 0.75 if run[0] in "_-=.*#~+|" else 0.5
    if len(run) >= 6 and len(run) > most * len(dense) and not run[0].isdigit():
        return f"repeats the character '{run[0]}' {len(run)} times"
    return None


def _word_run(words: Sequence[Word]) -> str | None:
    """The same word again and again: "the the the", "sorry, sorry, sorry, sorry"."""
    start, doubled = 0, 0
    for index in range(1, len(words) + 1):
        same = index < len(words) and words[index].text == words[start].text and words[index].in_prose
        if same:
            doubled += words[index].gap.isspace() and _doubling_is_odd(words[index].text)
            continue
        word, count = words[start].text, index - start
        share = count / len(words)
        gaps = [w.gap for w in words[start + 1 : index]]
        if is_number(word) or (len(word) == 1 and word.isascii() and word != "i"):
            limit = 12 if share > 0.5 and not is_number(word) else len(words) + 1
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
    return word not in _REPEATABLE and word not in _DOUBLED_BY_GRAMMAR and not is_number(word)


def _phrase_loop(words: Sequence[Word]) -> str | None:
    """The same phrase of 2 to 12 words at least three times in a row."""
    # A mark that belongs to code or tables parts what stands before it from what follows.
    texts: list[str] = []
    for word in words:
        if not word.in_prose and not re.search(r"[\"“”)(]", word.gap):
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
            speaks = any(not is_number(w) and len(w) > 1 for w in phrase) or "i" in phrase
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


def _glued_loop(words: Sequence[Word]) -> str | None:
    """One word made of a repeated piece: "sorrysorrysorry"."""
    for word in words:
        if len(word.text) >= 12 and (match := re.fullmatch(r"(.{2,12}?)\1{2,}.*", word.text)):
            piece = match[1]
            whole = len(word.text) // len(piece)
            if len(set(piece)) > 1 and piece not in _REPEATABLE and not is_number(piece) and len(piece) >= 3:
                return f"repeats '{piece}' {whole} times"
    return None


def _poor_vocabulary(words: Sequence[Word]) -> str | None:
    """Many words, hardly any different: loops without a fixed period."""
    spoken = [w.text for w in words if w.in_prose and not is_number(w.text) and w.script != "han"]
    distinct = len(set(spoken))
    limit = 0.34 if len(spoken) < 24 else 0.25
    if len(spoken) >= 12 and distinct / len(spoken) < limit and any(len(w) > 1 for w in spoken):
        return f"only {distinct} different words in {len(spoken)}"
    return None


def _compresses(prose: str, words: Sequence[Word]) -> str | None:
    """Long text that shrinks to a fraction: repeated with small changes."""
    # Padding in tables and indented lines shrinks as well and says nothing.
    spoken = " ".join(w.text for w in words if not is_number(w.text)).encode()
    if len(spoken) < 240 or len(spoken) < 0.5 * len(prose.encode()):
        return None
    ratio = len(zlib.compress(spoken, 9)) / len(spoken)
    return f"compresses to {ratio:.0%} of its length" if ratio < 0.22 else None
