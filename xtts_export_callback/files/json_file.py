"""Read small JSON files that other programs wrote: ``config.json``, ``vocab.json``, ``export.json``.

A folder can hold anything under these names: a named pipe that never ends, a device, a gigabyte, numbers of a million
digits. All such files are therefore read here.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.remote import RemotePath

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 16 << 20
"""Size limit of a file; a vocabulary of 6,681 tokens has 0.3 MB."""

_MOST_DIGITS = 100
_MOST_DEPTH = 64
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def read_small_file(path: Path) -> bytes:
    """Read a regular file of at most `MOST_BYTES`.

    Raises:
        ConfigError: When the file is larger, is not regular, or cannot be read.
    """
    if isinstance(path, RemotePath):
        from xtts_export_callback.files.remote_file import read_small

        return read_small(path, MOST_BYTES)
    try:
        descriptor = os.open(path, _OPEN)  # without O_NONBLOCK, opening a named pipe waits for its writer
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                msg = f"{path}: not a regular file; name another"
                raise ConfigError(msg)
            content = bytearray()
            while len(content) <= MOST_BYTES and (block := os.read(descriptor, MOST_BYTES + 1 - len(content))):
                content += block
        finally:
            os.close(descriptor)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); check the path"
        raise ConfigError(msg) from error
    except ValueError as error:  # a path with a null character
        msg = f"{path!r}: cannot be read ({error}); check the path"
        raise ConfigError(msg) from error
    if len(content) > MOST_BYTES:
        msg = f"{path}: expected at most {MOST_BYTES} bytes; name another file"
        raise ConfigError(msg)
    return bytes(content)


def parse_json(content: bytes | str, where: str, *, strict: bool = False) -> Any:
    """Parse a JSON text.

    Args:
        content: The text.
        where: Its name in errors.
        strict: Refuse repeated keys, and NaN and infinities, which only Python accepts as JSON. Python writes both,
            and so does the Trainer into its ``config.json``.

    Raises:
        ConfigError: When it is not JSON, is nested deeper than 64 levels, or holds an integer of over 100 digits.
    """
    try:
        value = (
            json.loads(
                content,
                parse_int=_integer,
                parse_float=_finite,
                parse_constant=_refuse,
                object_pairs_hook=_without_repeats,
            )
            if strict
            else json.loads(content, parse_int=_integer)
        )
    except (ValueError, RecursionError) as error:
        from xtts_export_callback.files.mistaken_download import mistaken_download

        mistaken = mistaken_download(content[:512] if isinstance(content, bytes) else content[:512].encode())
        if mistaken:
            msg = f"{where}: {mistaken}"
            raise ConfigError(msg) from error
        msg = f"{where}: is not JSON ({' '.join(str(error).split()):.200}); correct the file or name another"
        raise ConfigError(msg) from error
    if _is_deep(value):
        msg = f"{where}: nested deeper than {_MOST_DEPTH} levels; correct the file or name another"
        raise ConfigError(msg)
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a small file.

    Raises:
        ConfigError: When the file cannot be read or does not hold an object.
    """
    value = parse_json(read_small_file(path), str(path))
    if not isinstance(value, dict):
        msg = f"{path}: expected a JSON object, found {type(value).__name__}; name the config.json of the run"
        raise ConfigError(msg)
    return value


def _integer(text: str) -> int | float:
    if len(text) > _MOST_DIGITS:  # conversion time grows with the square of the digits
        msg = f"an integer of {len(text)} digits"
        raise ValueError(msg)
    return -0.0 if text == "-0" else int(text)  # as other JSON readers do


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        msg = f"the number {text:.40} is out of range"
        raise ValueError(msg)
    return number


def _refuse(text: str) -> float:
    msg = f"{text} is not a JSON number"
    raise ValueError(msg)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        msg = f"the key {repeated!r:.80} appears twice"
        raise ValueError(msg)
    return found


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MOST_DEPTH):
        containers = [item for item in level if isinstance(item, (dict, list))]
        level = [item for each in containers for item in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return False
    return True
