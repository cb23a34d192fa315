"""Which values of a pickle stream may be keys of a dict or members of a set: those of the kinds that checkpoints have.

Hashing a tuple nested a million deep overflows the C stack. Hashing a long one repeatedly takes forever, and so does a
dict whose keys, integers or tuples of numbers, were chosen for equal hashes.
"""

from __future__ import annotations

from typing import Any

from xtts_export_callback.checkpoint.placeholders import Global, Opaque, describe

_MAX_PARTS = 16
_MAX_EQUAL_HASHES = 100  # -1 and -2 have the same hash, and so have a few dozen small tuples of them
_PARTS = (str, bytes, int, float, type(None), Global, Opaque)
_ENCODE = Global("_codecs", "encode")


class Keys:
    """The keys of one stream."""

    def __init__(self) -> None:
        self._tuples: dict[int, set[Any]] = {}  # by their hash

    def check(self, key: Any) -> Any:
        """Return a key.

        Raises:
            ValueError: When no checkpoint has one of its kind.
        """
        if type(key) is str:  # most of them
            return key
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) > _MAX_PARTS or not all(isinstance(part, _PARTS) for part in parts):
            msg = f"{describe(key)} as a key"
            raise ValueError(msg)
        if any(isinstance(part, int) and part.bit_length() > 64 for part in parts):
            msg = "an integer of more than 64 bits as a key"
            raise ValueError(msg)
        if any(isinstance(part, Opaque) and _may_be_text(part) for part in parts):
            msg = f"{describe(key)} as a key"
            raise ValueError(msg)
        if parts is key:
            same = self._tuples.setdefault(hash(key), set())
            same.add(key)
            if len(same) > _MAX_EQUAL_HASHES:
                msg = "tuples of equal hashes as keys"
                raise ValueError(msg)
        return key


def _may_be_text(value: Opaque) -> bool:
    """Whether torch reads it as a string, which may repeat another key; protocol 2 writes bytes as "latin1"."""
    return value.callee == _ENCODE and value.args[1:] != ("latin1",)
