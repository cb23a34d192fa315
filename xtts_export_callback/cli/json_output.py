"""Prints the JSON of the commands."""

from __future__ import annotations

import json
import math
from typing import Any

JSON_VERSION = 1
"""Goes up when a key changes its meaning or goes; new keys may come at any time."""


def print_json(value: dict[str, Any]) -> None:
    """Print a command's result as JSON that every parser takes: NaN and infinity, which JSON lacks, become null."""
    text = json.dumps({"version": JSON_VERSION, **_finite(value)}, indent=2, allow_nan=False)
    print(text.replace("\x7f", "\\u007f"))  # the one control character that json leaves as it is


def describe_error(error: BaseException, message: str = "") -> dict[str, str]:
    """Return an error as plain values: the name of its class, as in `xtts_export_callback.errors`, and its line."""
    return {"type": type(error).__name__, "message": " ".join((message or str(error)).split())}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
