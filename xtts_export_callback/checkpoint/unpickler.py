"""An unpickler that looks up no name.

``data.pkl`` is a small program. This interpreter runs its stack operations and replaces every name in it with an inert
`Global`, so that a file can build plain values and descriptions of tensors, and can do nothing else. It is not a
subclass of ``pickle.Unpickler``, which lets a file of ten bytes ask for a memo of 32 GB. Opcodes:
``pickletools`` of the standard library, protocols 2 to 5 and the older opcodes that they share.
"""

from __future__ import annotations

import struct
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.pickled_keys import Keys
from xtts_export_callback.checkpoint.placeholders import Global, Opaque, describe

if TYPE_CHECKING:
    from collections.abc import Callable


class UnpicklingError(Exception):
    """The stream is malformed or uses something that no checkpoint needs."""


_UINT4, _UINT2 = struct.Struct("<I").unpack_from, struct.Struct("<H").unpack_from
_PAIR = 2
MAX_PICKLE = 64 << 20
"""Size limit of a stream in bytes; that of a full-size training checkpoint has 0.2 MB."""

_MAX_OPERATIONS = 10_000_000  # a full-size training checkpoint has 0.1 million
_MAX_INT_BYTES = 255
_MAX_GLOBAL = 500  # characters
_MAX_GLOBALS = 10_000


class Unpickler:
    """Interprets one pickle stream."""

    def __init__(
        self,
        data: bytes,
        *,
        start: int = 0,
        persistent_load: Callable[[Any], Any],
        build: Callable[[Global, tuple[Any, ...]], Any],
    ) -> None:
        """Prepare to read ``data``.

        Args:
            data: The stream.
            start: Offset in it to begin at.
            persistent_load: Called with each persistent id (torch: a storage's description).
            build: Called with a `Global` and the arguments of its call; returns a value in place of the result, usually
                an `Opaque`.
        """
        self._data = data
        self._size = len(data)
        self._position = start
        self._stack: list[Any] = []
        self._marks: list[int] = []  # where on the stack a MARK stands
        self._memo: dict[int, Any] = {}
        self._persistent_load = persistent_load
        self._build = build
        self._key = Keys().check
        self._globals: dict[tuple[str, str], Global] = {}  # a state_dict names the same few a thousand times
        self.names: set[str] = set()
        """What ``weights_only=True`` decides by: every global that the stream mentions, as ``module.name`` of Python 3,
        and its opcodes that torch does not know."""

    def load(self) -> Any:  # noqa: PLR0912, PLR0915 - a call for each opcode would take twice the time
        """Run the stream.

        Returns:
            The value it builds: plain Python values, results of ``persistent_load`` and ``build``, and `Opaque`.

        Raises:
            UnpicklingError: When the stream is malformed or uses an opcode that no checkpoint needs.
        """
        data, operations, stack, marks, memo = self._data, _OPCODES, self._stack, self._marks, self._memo
        position, persistent_load, build = self._position, self._persistent_load, self._build
        intern = sys.intern  # checkpoints of one run share their names
        try:
            for _ in range(_MAX_OPERATIONS):
                opcode = data[position]
                position += 1
                # The opcodes that make up most of a state_dict are run here, without a call.
                if opcode == 0x72:  # LONG_BINPUT
                    memo[_UINT4(data, position)[0]] = stack[-1]
                    position += 4
                elif opcode == 0x68:  # BINGET
                    stack.append(memo[data[position]])
                    position += 1
                elif opcode == 0x4B:  # BININT1
                    stack.append(data[position])
                    position += 1
                elif opcode == 0x28:  # MARK
                    marks.append(len(stack))
                elif opcode == 0x74:  # TUPLE
                    start = marks.pop()
                    stack[start:] = (tuple(stack[start:]),)
                elif opcode == 0x52:  # REDUCE
                    args, callee = stack.pop(), stack[-1]
                    is_plain = type(callee) is Global and type(args) is tuple
                    stack[-1] = build(callee, args) if is_plain else self._call(callee, args)
                elif opcode == 0x58:  # BINUNICODE
                    start = position + 4
                    position = start + _UINT4(data, position)[0]
                    stack.append(intern(data[start:position].decode("utf-8", "surrogatepass")))
                elif opcode == 0x4D:  # BININT2
                    stack.append(_UINT2(data, position)[0])
                    position += 2
                elif opcode == 0x29:  # EMPTY_TUPLE
                    stack.append(())
                elif opcode == 0x89:  # NEWFALSE
                    stack.append(False)
                elif opcode == 0x51:  # BINPERSID
                    stack[-1] = persistent_load(stack[-1])
                elif opcode == 0x85:  # TUPLE1
                    stack[-1] = (stack[-1],)
                elif opcode == 0x6A:  # LONG_BINGET
                    stack.append(memo[_UINT4(data, position)[0]])
                    position += 4
                elif opcode == 0x2E:  # STOP
                    self._position = position
                    return stack.pop()
                else:
                    self._position = position
                    operations[opcode](self)
                    position = self._position
        except KeyError as error:
            msg = f"unknown opcode or memo entry {error} at byte {max(position, self._position)}"
            raise UnpicklingError(msg) from error
        except (IndexError, ValueError, struct.error) as error:  # missing bytes or items, and what the methods refuse
            msg = f"not understood at byte {max(position, self._position)} ({error})"
            raise UnpicklingError(msg) from error
        msg = f"more than {_MAX_OPERATIONS} operations, far beyond what any checkpoint needs"
        raise UnpicklingError(msg)

    @property
    def end(self) -> int:
        """Offset of the end of the stream."""
        return self._position

    # Reading the stream

    def _take(self, size: int) -> bytes:
        start = self._position
        self._position += size
        if self._position > self._size:
            msg = "it ends too early"
            raise ValueError(msg)
        return self._data[start : self._position]

    def _uint(self, size: int) -> int:
        start = self._position
        self._position = end = start + size
        if end > self._size:
            msg = "it ends too early"
            raise ValueError(msg)
        return int.from_bytes(self._data[start:end], "little")

    def _line(self) -> str:
        end = self._data.index(b"\n", self._position)
        line = self._data[self._position : end]
        self._position = end + 1
        return line.decode()

    def _pop_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _pop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    # Opcodes

    def _text(self, size: int) -> None:
        self._stack.append(_text(self._take(self._uint(size))))

    def _old_text(self, size: int) -> None:
        self._stack.append(sys.intern(self._take(self._uint(size)).decode()))  # a str of Python 2, which torch decodes

    def _bytes(self, size: int) -> None:
        self._stack.append(self._take(self._uint(size)))

    def _long(self, size: int) -> None:
        nbytes = self._uint(size)
        if nbytes > _MAX_INT_BYTES:  # larger ones take forever to multiply and print
            msg = f"an integer of {nbytes} bytes"
            raise ValueError(msg)
        self._stack.append(int.from_bytes(self._take(nbytes), "little", signed=True))

    def _tuple(self, size: int) -> None:
        if size > len(self._stack):
            msg = "stack too short"
            raise ValueError(msg)
        items = tuple(self._stack[-size:])
        del self._stack[-size:]
        self._stack.append(items)

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Opaque):
            target.items.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            target.update(map(self._key, values))
        else:
            msg = f"append to {type(target).__name__}"
            raise ValueError(msg)

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if len(values) % _PAIR:
            msg = "odd number of items"
            raise ValueError(msg)
        pairs = zip(map(self._key, values[::2]), values[1::2], strict=True)
        if isinstance(target, Opaque):
            target.items.extend(pairs)
        elif isinstance(target, dict):
            target.update(pairs)
        else:
            msg = f"items for {type(target).__name__}"
            raise ValueError(msg)

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            msg = "the name of a global is not a string"
            raise ValueError(msg)
        found = self._globals.get((module, name))
        if found is None:
            found = self._globals[module, name] = self._new_global(module, name)
        self._stack.append(found)

    def _new_global(self, module: str, name: str) -> Global:
        if len(module) + len(name) > _MAX_GLOBAL or not (module + name).isprintable():
            msg = "the name of a global is not one that Python code can have"
            raise ValueError(msg)
        # torch translates the names of Python 2 as the standard library does.
        if (module, name) in NAME_MAPPING:
            module, name = NAME_MAPPING[module, name]
        module = IMPORT_MAPPING.get(module, module)
        found = Global(module, name)
        self.names.add(str(found))
        if len(self.names) > _MAX_GLOBALS:
            msg = "more names of globals than any checkpoint has"
            raise ValueError(msg)
        return found

    def _stack_global(self) -> None:
        name = self._stack.pop()
        self._global(self._stack.pop(), name)

    def _call(self, callee: Any, args: Any) -> Any:
        if not isinstance(args, tuple):
            msg = "the arguments are not a tuple"
            raise ValueError(msg)
        return self._build(callee, args) if isinstance(callee, Global) else Opaque(callee, args)

    def _new_object(self) -> None:
        args = self._stack.pop()
        self._stack.append(self._call(self._stack.pop(), args))

    def _new_object_with_keywords(self) -> None:
        keywords = self._stack.pop()
        args = self._stack.pop()
        self._stack.append(Opaque(self._stack.pop(), (args, keywords)))

    def _build_state(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        elif not isinstance(target, dict):
            # With a state, torch would give a tensor other weights than the stream has described.
            msg = f"a state for {describe(target)}"
            raise ValueError(msg)
        # On a dict it is an attribute such as an OrderedDict's _metadata, which no tensor depends on.

    def _frozen_set(self) -> None:
        self._stack.append(frozenset(map(self._key, self._pop_mark())))


def _text(content: bytes) -> str:
    return sys.intern(content.decode("utf-8", "surrogatepass"))


def _pop_and(method: Callable[[Unpickler, list[Any]], None], count: int) -> Callable[[Unpickler], None]:
    def run(machine: Unpickler) -> None:
        values = machine._stack[-count:]
        del machine._stack[-count:]
        method(machine, values)

    return run


_OPCODES: dict[int, Callable[[Unpickler], object]] = {
    0x80: lambda m: _check_protocol(m._uint(1)),  # PROTO
    0x95: lambda m: m._take(8),  # FRAME: only a hint for reading ahead
    0x30: Unpickler._pop,  # POP
    0x31: lambda m: m._pop_mark(),  # POP_MARK
    0x32: lambda m: m._stack.append(m._stack[-1]),  # DUP
    0x4E: lambda m: m._stack.append(None),  # NONE
    0x88: lambda m: m._stack.append(True),  # NEWTRUE
    0x4A: lambda m: m._stack.append(int.from_bytes(m._take(4), "little", signed=True)),  # BININT
    0x8A: lambda m: m._long(1),  # LONG1
    0x8B: lambda m: m._long(4),  # LONG4
    0x47: lambda m: m._stack.append(struct.unpack(">d", m._take(8))[0]),  # BINFLOAT
    0x8C: lambda m: m._text(1),  # SHORT_BINUNICODE
    0x8D: lambda m: m._text(8),  # BINUNICODE8
    0x54: lambda m: m._old_text(4),  # BINSTRING
    0x55: lambda m: m._old_text(1),  # SHORT_BINSTRING
    0x42: lambda m: m._bytes(4),  # BINBYTES
    0x43: lambda m: m._bytes(1),  # SHORT_BINBYTES
    0x8E: lambda m: m._bytes(8),  # BINBYTES8
    0x96: lambda m: m._bytes(8),  # BYTEARRAY8
    0x5D: lambda m: m._stack.append([]),  # EMPTY_LIST
    0x7D: lambda m: m._stack.append({}),  # EMPTY_DICT
    0x8F: lambda m: m._stack.append(set()),  # EMPTY_SET
    0x6C: lambda m: m._stack.append(m._pop_mark()),  # LIST
    0x86: lambda m: m._tuple(2),  # TUPLE2
    0x87: lambda m: m._tuple(3),  # TUPLE3
    0x91: Unpickler._frozen_set,  # FROZENSET
    0x61: _pop_and(Unpickler._append, 1),  # APPEND
    0x65: lambda m: m._append(m._pop_mark()),  # APPENDS
    0x90: lambda m: m._append(m._pop_mark()),  # ADDITEMS
    0x73: _pop_and(Unpickler._set_items, 2),  # SETITEM
    0x75: lambda m: m._set_items(m._pop_mark()),  # SETITEMS
    0x71: lambda m: m._put(m._uint(1)),  # BINPUT
    0x94: Unpickler._memoize,  # MEMOIZE
    0x63: lambda m: m._global(m._line(), m._line()),  # GLOBAL
    0x93: Unpickler._stack_global,  # STACK_GLOBAL
    0x81: Unpickler._new_object,  # NEWOBJ
    0x92: Unpickler._new_object_with_keywords,  # NEWOBJ_EX
    0x62: Unpickler._build_state,  # BUILD
}


_FOREIGN = {
    0: (0x30, 0x32, 0x6C),
    1: (0x31, 0x54),
    2: (0x8B,),
    3: (0x42, 0x43),
    4: (0x8C, 0x8D, 0x8E, 0x90, 0x91, 0x92, 0x93, 0x94, 0x95),
    5: (0x96,),
}
"""The opcodes above that ``torch._weights_only_unpickler`` does not know, by the protocol that introduced them."""


def _noting(protocol: int, run: Callable[[Unpickler], object]) -> Callable[[Unpickler], None]:
    def note(machine: Unpickler) -> None:
        machine.names.add(f"an opcode of pickle protocol {protocol}")
        run(machine)

    return note


def _check_protocol(version: int) -> None:
    if version > 5:
        msg = f"pickle protocol {version}"
        raise ValueError(msg)


for _protocol, _codes in _FOREIGN.items():
    for _code in _codes:
        _OPCODES[_code] = _noting(_protocol, _OPCODES[_code])
