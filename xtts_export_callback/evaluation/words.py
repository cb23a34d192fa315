"""Compare what a recogniser heard with the text that was to be said."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

_BY_SYLLABLE = ("zh", "ja", "ko")


class Comparison(NamedTuple):
    """How the characters that were heard differ from those of the text.

    Attributes:
        wrong: Insertions, deletions and substitutions, for each character of the text.
        missing: Characters at the end of the text that were not heard.
        extra: Characters heard after the end of the text.
    """

    wrong: float
    missing: int
    extra: int


def characters(text: str, language: str) -> str:
    """Return the characters of a text that can be heard: letters and digits in lower case, numbers as words.

    Numbers and abbreviations are spelled out by Coqui's text cleaners, where they are installed and know the language;
    otherwise digits stay, and count as wrong where the recogniser writes words.

    Args:
        text: The text, or what a recogniser heard.
        language: Code as XTTS has it, such as ``"en"`` or ``"zh-cn"``.
    """
    spelled = _spelled_out(text, language) if any(character.isdigit() for character in text) else text
    plain = unicodedata.normalize("NFKC", spelled).casefold()
    return "".join(one for one in plain if one.isalnum() or unicodedata.category(one).startswith("M"))


def compare(text: str, heard: str) -> Comparison:
    """Align what was heard with a text, by Levenshtein's distance.

    Args:
        text: Characters of the text, not empty.
        heard: Characters that were heard.

    Returns:
        The differences. The end of the text is where the distance between all of it and the start of what was heard
        is smallest, and the other way round for what is missing.
    """
    rows = _distances(text, heard)
    last_row, last_column = rows[-1], [row[-1] for row in rows]
    end_heard = min(range(len(heard) + 1), key=lambda index: (last_row[index], -index))
    end_text = min(range(len(text) + 1), key=lambda index: (last_column[index], -index))
    return Comparison(last_row[-1] / len(text), len(text) - end_text, len(heard) - end_heard)


def speaking_time(characters_said: int, language: str) -> float:
    """Return the seconds that a text takes at a usual speed.

    Args:
        characters_said: Length of the result of `characters`.
        language: Its language; Chinese, Japanese and Korean write a syllable or two in a character.

    Returns:
        0.073 s for each letter, as the eight first clips of LJSpeech have it (0.066 to 0.094), 0.2 s for each character
        of the three.
    """
    return characters_said * (0.2 if language[:2] in _BY_SYLLABLE else 0.073)


def _distances(first: str, second: str) -> list[list[int]]:
    """Return the table of Levenshtein's distances between all starts of one text and all of another."""
    rows = [list(range(len(second) + 1))]
    for number, one in enumerate(first, 1):
        above, row = rows[-1], [number]
        for index, other in enumerate(second):
            row.append(min(above[index + 1] + 1, row[-1] + 1, above[index] + (one != other)))
        rows.append(row)
    return rows


def _spelled_out(text: str, language: str) -> str:
    try:
        from TTS.tts.layers.xtts.tokenizer import multilingual_cleaners
    except ImportError:
        return text
    try:
        return str(multilingual_cleaners(text, language.split("-", maxsplit=1)[0]))
    except (KeyError, NotImplementedError):  # a language without rules for numbers
        return text
