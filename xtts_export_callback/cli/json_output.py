"""Prints the JSON of the commands that report."""

from __future__ import annotations

import json
import math
from typing import Any


def print_json(value: Any) -> None:
    """Print a value as JSON that every parser takes: NaN and infinity, which JSON lacks, become null."""
    text = json.dumps(_finite(value), indent=2, allow_nan=False)
    print(text.replace("\x7f", "\\u007f"))  # the one control character that json leaves as it is


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
