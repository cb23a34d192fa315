"""Reads YAML strictly: no duplicate keys, no aliases, plain values, and tables that refuse unknown keys."""

from __future__ import annotations

import math
import re
import reprlib
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import read_small_file
from xtts_export_callback.files.paths import can_be_path

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_MAX_BYTES = 256_000  # a recipe has a few hundred; the parser is slow
# Numbers as people read them. In YAML 1.1, which PyYAML follows, 1:30 is 90, 010 is 8 and 1e-3 is a string.
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")


def load_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: When it cannot be read, is not YAML, or uses a feature that hides what it means.
    """
    content = read_small_file(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{path}: expected a recipe in YAML, found bytes that are not text; name the recipe, not a model"
        raise ConfigError(msg) from error
    if len(content) > _MAX_BYTES:
        msg = f"{path}: expected a recipe of at most {_MAX_BYTES} bytes; name the recipe, not a model"
        raise ConfigError(msg)
    return _parse(text, path)


def _parse(text: str, path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # a few of them can stand for billions of values
                event = self.peek_event()  # type: ignore[no-untyped-call]
                msg = "aliases (*name) are not used in recipes; write the value out"
                raise yaml.composer.ComposerError(None, None, msg, event.start_mark)
            return super().compose_node(parent, index)

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep=deep)
            except (LookupError, ValueError, TypeError, AttributeError) as error:  # a tag that does not fit
                msg = f"{reprlib.repr(node.value)} cannot be read as {node.tag.rpartition(':')[2]}"
                raise yaml.constructor.ConstructorError(None, None, msg, node.start_mark) from error

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    msg = f"the key {reprlib.repr(key.value)} occurs twice; keep one"
                    raise yaml.constructor.ConstructorError(None, None, msg, key.start_mark)
                if isinstance(key.value, str):
                    seen.add(key.value)
            return super().construct_mapping(node, deep=deep)

    numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag not in numbers]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for tag, pattern in zip(numbers, (_INTEGER, _FLOAT), strict=True):
        Loader.add_implicit_resolver(tag, pattern, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        msg = f"{path}: {where}{error.problem or error}; correct the recipe"
        raise ConfigError(msg) from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        msg = f"{path}: not YAML ({reprlib.repr(str(error))}); correct the recipe"
        raise ConfigError(msg) from error


class Table:
    """A mapping in a recipe, read key by key; errors name the file and the key."""

    def __init__(self, value: Any, where: str, key: str = "", *, keys: Collection[str]) -> None:
        """Check that a value is a mapping and has no unknown keys.

        Args:
            value: The value in the recipe.
            where: The recipe's name in messages.
            key: The place in the recipe, empty at its root.
            keys: The allowed keys.

        Raises:
            ConfigError: Naming the first unknown key and the closest allowed one.
        """
        self.where = where
        self.key = key
        if not isinstance(value, dict):
            self.fail("", f"a mapping with {', '.join(keys)}", value)
        self._values = value
        for name in value:
            if name not in keys:
                close = get_close_matches(str(name)[:80], keys, n=1)
                hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(keys)}"
                msg = f"{where}: {self.path(reprlib.repr(name))}: unknown key; {hint}"
                raise ConfigError(msg)

    def path(self, name: str) -> str:
        """The name of a key in messages."""
        return ".".join(part for part in (self.key, name.strip("'\"")) if part)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Any:
        """The value as it is, None where it is missing."""
        return self._values.get(name)

    def string(self, name: str, default: str | None = None) -> str | None:
        """A non-empty string."""
        value = self._values.get(name, default)
        if value is not None and (not isinstance(value, str) or not value or not can_be_path(value)):
            self.fail(name, "a string", value)
        return None if value is None else str(value)

    def required(self, name: str) -> str:
        """A string that must be present."""
        value = self.string(name)
        if value is None:
            self.fail(name, "a string", None)
        return value

    def choice(self, name: str, choices: Collection[str], default: str | None = None) -> str | None:
        """One of some strings."""
        value = self._values.get(name, default)
        if value is None and name not in self._values:
            return None
        if not isinstance(value, str) or value not in choices:
            close = get_close_matches(str(value)[:80], choices, n=1) if isinstance(value, str) else []
            self.fail(name, f"one of {', '.join(choices)}", value, f"; did you mean {close[0]}?" if close else "")
        return value

    def boolean(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            self.fail(name, "true or false", value)
        return value

    def integer(self, name: str, default: int) -> int:
        """A whole number of at least 1."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.fail(name, "a whole number of at least 1", value)
        return value

    def number(self, name: str, default: float, *, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number between bounds, both included."""
        return self.as_number(name, self._values.get(name, default), low=low, high=high)

    def as_number(self, name: str, value: Any, *, low: float = -math.inf, high: float = math.inf) -> float:
        """As `number`, for a value that was read before."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not abs(value) < math.inf or not low <= value <= high or not abs(value) <= _LARGEST:
            between = f" from {low:g} to {high:g}" if math.isfinite(high) else f" of at least {low:g}"
            self.fail(name, f"a finite number{between if math.isfinite(low) else ''}", value)
        return float(value)

    def items(self, name: str, what: str) -> list[Any]:
        """A non-empty list."""
        value = self._values.get(name)
        if not isinstance(value, list) or not value:
            self.fail(name, f"a list of {what}", value)
        return value

    def fail(self, name: str, expected: str, found: Any, hint: str = "") -> NoReturn:
        """Refuse a value.

        Raises:
            ConfigError: Always.
        """
        shown = "nothing" if found is None else _short.repr(found)
        place = self.path(name)
        msg = f"{self.where}: {place}{': ' if place else ''}expected {expected}, found {shown}{hint}"
        raise ConfigError(msg)


_LARGEST = 1e300
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
