"""Words for people: counts with their noun, and texts of others without what a terminal would obey."""

import difflib
import unicodedata
from collections.abc import Iterable

_JOINERS = "\u200c\u200d"  # invisible, but part of how Persian or emoji are written
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def plural(noun: str) -> str:
    """The plural of a noun."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def counted(n: int, noun: str, verb: str = "") -> str:
    """``1 part``, ``2,000 parts``; with the verb ``has/have`` ``1 part has``, ``2,000 parts have``."""
    one, _, many = verb.partition("/")
    return f"{n:,} {noun if n == 1 else plural(noun)} {one if n == 1 else many}".rstrip()


def human_bytes(count: float) -> str:
    """A number of bytes with its unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def duration(seconds: float) -> str:
    """``12 s``, ``7 min`` or ``3.2 h``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def cut(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def nearest(value: str, known: Iterable[str]) -> str:
    """The end of a message about a word that is not known: ``; did you mean 'epochs'?``, or nothing."""
    return did_you_mean(similar(value, known))


def similar(value: str, known: Iterable[str], most: int = 1, least: float = 0.6) -> list[str]:
    """At most so many of the known words, the likest first; of a likeness from ``least`` to 1."""
    cased: dict[str, str] = {}
    for word in known:
        cased.setdefault(word.casefold(), word)
    return [cased[near] for near in difflib.get_close_matches(value.casefold(), cased, most, least)]


def did_you_mean(words: Iterable[str]) -> str:
    """The end of a message that proposes some words, or nothing where there are none."""
    shown = " or ".join(map(repr, words))
    return f"; did you mean {shown}?" if shown else ""


def is_utf8(text: str) -> bool:
    """Whether a text is Unicode: without halves of surrogate pairs, which stand for bytes that are not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def visible(text: str) -> str:
    """One line in which control characters, line breaks and marks that turn the writing are escaped."""
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def visible_lines(text: str) -> str:
    """As :func:`visible`, of a text of several lines."""
    return "\n".join(map(visible, text.split("\n")))


def _escaped(character: str) -> str:
    """The character, or its escape where a terminal would not show it."""
    if character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode()
