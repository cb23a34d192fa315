"""Where sentences come from: a file of the user's, the config of a run, the metadata of recordings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.results import Sentence
from xtts_export_callback.files.json_file import read_small_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_WITH_LANGUAGE = re.compile(r"([a-z]{2}(?:-[a-z]{2})?)\|(.+)")


def sentences_of_file(path: Path, language: str) -> list[Sentence]:
    """Read sentences from a text file, one in a line.

    Args:
        path: A file in UTF-8. ``de|Guten Tag.`` gives the language of a line; empty lines and those that begin with
            ``#`` are skipped.
        language: Language of the other lines.

    Raises:
        ConfigError: When it cannot be read or holds no sentence.
    """
    lines = [line.strip() for line in _text(path).splitlines()]
    found = []
    for line in lines:
        if line and not line.startswith("#"):
            match = _WITH_LANGUAGE.fullmatch(line)
            found.append(Sentence(match[2].strip(), match[1]) if match else Sentence(line, language))
    if not found:
        msg = f"{path}: expected a sentence in each line, found none; write some"
        raise ConfigError(msg)
    return found


def sentences_of_run(config: Mapping[str, Any]) -> list[Sentence]:
    """Return the test sentences of a run.

    Args:
        config: Content of the run's ``config.json``; ``test_sentences`` is a list of dicts with ``text`` and
            ``language``, as ``GPTTrainer.test_run`` reads it.
    """
    found = config.get("test_sentences")
    entries = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    texts = [(one.get("text"), one.get("language")) for one in entries]
    return [Sentence(text, language) for text, language in texts if isinstance(text, str) and isinstance(language, str)]


def voice_of_run(config: Mapping[str, Any]) -> str | None:
    """Return the path of the recording that the first test sentence of a run is said with, if it has one.

    Args:
        config: Content of the run's ``config.json``; ``speaker_wav`` is a path or a list of paths.
    """
    found = config.get("test_sentences")
    first = found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else {}
    wav = first.get("speaker_wav")
    wav = wav[0] if isinstance(wav, list) and wav else wav
    return wav if isinstance(wav, str) and wav else None


def sentences_of_metadata(path: Path, language: str) -> dict[str, Sentence]:
    """Read the ``metadata.csv`` of recordings in the layout of LJSpeech.

    Args:
        path: A file in UTF-8 with lines ``NAME|TEXT`` or ``NAME|TEXT|TEXT WITH NUMBERS SPELLED OUT``.
        language: The language of all texts.

    Returns:
        The sentences by the name of their recording.

    Raises:
        ConfigError: When it cannot be read or a line has no text.
    """
    found = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        name, *texts = (field.strip() for field in line.split("|"))
        if not line.strip():
            continue
        if not texts or not texts[-1]:
            msg = f"{path}, line {number}: expected NAME|TEXT, found {line!r:.60}; correct it"
            raise ConfigError(msg)
        found[name] = Sentence(texts[-1], language)
    return found


def _text(path: Path) -> str:
    try:
        return read_small_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{path}: expected text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        raise ConfigError(msg) from error
