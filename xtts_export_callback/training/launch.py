"""Starts a program with the callback switched on in its Trainers, in its process and in those that it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import read_json_object
from xtts_export_callback.files.paths import expanded
from xtts_export_callback.training.attach import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PREFIX = "--export."
_STARTUP = Path(__file__).with_name("startup")


def read_options(file: str | None, arguments: Sequence[str]) -> dict[str, Any]:
    """Read the options of the export and check them.

    Args:
        file: JSON with the options, or with a config whose field ``export`` holds them.
        arguments: ``--export.KEY VALUE`` or ``--export.KEY=VALUE``, which override the file.

    Returns:
        The options that are given, and ``enabled``.

    Raises:
        ConfigError: For an option that does not exist or a value that it cannot take.
    """
    from xtts_export_callback.training.config import ExportConfig, check_options

    given = read_json_object(expanded(file)) if file else {}
    if "export" not in given and "model_args" in given:
        msg = f"{file}: expected options of the export, found a config without them; name the options anew"
        raise ConfigError(msg)
    section = given.get("export", given)
    where = f"{file}: " if file else ""
    try:
        check_options(section)
    except ConfigError as error:
        msg = f"{where}{error}"
        raise ConfigError(msg) from None
    texts = {option.name for option in fields(ExportConfig) if isinstance(option.default, str)}
    options = {"enabled": True, **section, **_pairs(arguments, texts)}
    check_options(options)
    if options.get("voice"):  # a process that the program starts may run in another folder
        voice = expanded(options["voice"]).absolute()
        if not voice.is_file():
            msg = f"export.voice is {options['voice']}: no such file; name a WAV of the voice"
            raise ConfigError(msg)
        options["voice"] = str(voice)
    return options


def _pairs(arguments: Sequence[str], texts: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        name, separator, value = word.removeprefix(_PREFIX).partition("=")
        if not word.startswith(_PREFIX):
            msg = f"{word}: no such option; write --export.KEY VALUE before the program, and its own arguments after it"
            raise ConfigError(msg)
        text = value if separator else next(words, None)
        if text is None:
            msg = f"{word}: has no value; write {word} VALUE"
            raise ConfigError(msg)
        found[name] = text if name in texts else _value(text)
    return found


def _value(text: str) -> Any:
    """A number or a flag; anything else stays text, which the check of the options then shows as it is."""
    try:
        return json.loads(text.lower())
    except (ValueError, RecursionError):
        return text


def start(program: Sequence[str], options: Mapping[str, Any]) -> int:
    """Replace this process by Python with a program, which keeps working directory, terminal, signals and process id.

    Args:
        program: What follows ``python`` on a command line: a script or ``-m`` and a module, and its arguments.
        options: From `read_options`.

    Returns:
        On Windows, where a process cannot be replaced, the program's exit code. Elsewhere it does not return.

    Raises:
        ConfigError: When there is no such script.
    """
    script = Path(program[0])
    if program[0] != "-m" and not (script.is_file() or (script / "__main__.py").is_file()):
        msg = f"{script}: no such script; name a Python file, or a module with -m"
        raise ConfigError(msg)
    paths = [str(_STARTUP), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, VARIABLE: json.dumps(options), "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *program]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if sys.platform == "win32":
        return _wait(subprocess.Popen(command, env=environment))
    return os.execve(sys.executable, command, environment)


def _wait(process: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # Ctrl-C reaches the program as well, and it decides what comes of it
            continue
