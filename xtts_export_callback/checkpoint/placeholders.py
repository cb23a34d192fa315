"""What stands for the names and objects of a pickle stream: nothing is looked up, nothing is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_SHOWN = 100  # characters of a string in a message


@dataclass(frozen=True)
class Global:
    """A name that the stream mentions; it is not looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class Opaque:
    """A placeholder for the result of a call that was not made.

    Attributes:
        callee: What the stream asks to call.
        args: The arguments of the call.
        state: The state that it sets afterwards (a pickled config keeps its fields here).
        items: The items that it appends or sets afterwards.
    """

    callee: Any
    args: tuple[Any, ...]
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{describe(self)}>"


def describe(value: Any) -> str:
    """Describe a value in a few words, for messages.

    The ``repr`` of a container is not used: a stream of a hundred bytes can build one whose text fills the memory.
    """
    if isinstance(value, Opaque):
        return f"an object of {value.callee}" if isinstance(value.callee, Global) else "an object"
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= _SHOWN else f"a {type(value).__name__} of length {len(value)}"
    if value is None or isinstance(value, (int, float, Global)):
        return str(value)
    return f"a {type(value).__name__}"
