"""Read checkpoints from before torch 1.6, which are not zip archives but a few pickles, followed by the storages.

The pickles are a magic number, a version, the machine, the saved value, and the keys of its storages. Each storage, in
the order of the keys, is a number of elements in eight bytes, and the elements (``torch.serialization._legacy_save``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.placeholders import describe
from xtts_export_callback.checkpoint.torch_objects import TensorBuilder, Typed, storage_dtype
from xtts_export_callback.checkpoint.unpickler import MAX_PICKLE, Unpickler, UnpicklingError
from xtts_export_callback.errors import CheckpointError, DamagedError
from xtts_export_callback.files.printable import printable
from xtts_export_callback.tensors.tensor import FileStorage

if TYPE_CHECKING:
    from xtts_export_callback.files.random_access import ReadableFile
    from xtts_export_callback.tensors.dtypes import DType

MAGIC = 0x1950A86A20F9469CFC6C
"""The number in the first pickle (``torch.serialization.MAGIC_NUMBER``)."""

_VERSION = 1001
_COUNT = 8
_FIRST_PIECE = 1 << 20  # a full-size training checkpoint has 0.2 MB of pickles


def load_legacy(file: ReadableFile) -> tuple[Any, frozenset[str]]:
    """Read a file in torch's old format, without reading its tensors.

    Args:
        file: The file.

    Returns:
        The saved value, and the globals that its pickles mention (`Unpickler.names`).

    Raises:
        CheckpointError: When it is damaged, hostile, or written on a big-endian machine.
    """
    most = min(file.size, MAX_PICKLE)
    size = min(_FIRST_PIECE, most)
    while True:
        tensors = LegacyTensors(file)
        try:
            root, keys, start, names = _read_pickles(file, file.read(0, size), tensors)
        except UnpicklingError as error:
            if size < most:
                size = min(8 * size, most)  # the stream may go on after these bytes
                continue
            msg = f"{file.path}: {error}; download it again or use another checkpoint"
            raise CheckpointError(msg) from error
        tensors.place(keys, start)
        return root, names


def _read_pickles(file: ReadableFile, data: bytes, tensors: LegacyTensors) -> tuple[Any, Any, int, frozenset[str]]:
    """Return the saved value, the keys of its storages, the offset of the first one, and the globals of all pickles."""
    values: list[Any] = []
    names: set[str] = set()
    start = 0
    for what in ("the magic number", "the version", "the machine", "the contents", "the list of storages"):
        unpickler = Unpickler(data, start=start, persistent_load=tensors.storage, build=tensors.build)
        try:
            values.append(unpickler.load())
        except UnpicklingError as error:
            msg = f"{what}: {error}"
            raise UnpicklingError(msg) from error
        names |= unpickler.names
        start = unpickler.end
    magic, version, machine, root, keys = values
    if magic != MAGIC or version != _VERSION:
        msg = f"{file.path}: version {describe(version)} of torch's old format, expected {_VERSION}; save it again"
        raise CheckpointError(msg)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        msg = f"{file.path}: written on a big-endian machine, which is not supported; save it again with torch"
        raise CheckpointError(msg)
    return root, keys, start, frozenset(names)


class LegacyTensors(TensorBuilder):
    """Tensors over the storages at the end of the file; their offsets are known after the pickles are read."""

    def storage(self, identifier: Any) -> Typed:
        """See `TensorBuilder.storage`."""
        if not isinstance(identifier, tuple) or len(identifier) != 6 or identifier[0] != "storage":
            self._fail("its pickle refers to something that is not a storage")
        _, kind, key, _, numel, view = identifier
        if view is not None:
            self._fail(f"storage {describe(key)} is a part of another one, as only torch before 0.4 wrote")
        known = self._shared_storage(kind, key, numel)
        dtype = storage_dtype(kind)
        if isinstance(known, tuple) and known[0].nbytes == 0 and dtype is not None:
            return known[0], dtype  # without elements, torch takes the type of each mention
        return known

    def _create(self, key: str, dtype: DType, numel: Any) -> FileStorage:
        if type(numel) is not int or not 0 <= numel * dtype.itemsize <= self._file.size:
            self._fail(f"storage {key!r} has {describe(numel)} elements in a file of {self._file.size} bytes")
        return FileStorage(self._file, -1, numel * dtype.itemsize, None, f"storage {printable(key)}")

    def place(self, keys: Any, start: int) -> None:
        """Set the offset of each storage.

        Args:
            keys: The list of storages in the file.
            start: Offset of the first storage.

        Raises:
            CheckpointError: When the list or a number of elements contradicts the pickle.
            DamagedError: When the file ends early.
        """
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            self._fail(f"its list of storages is {describe(keys)}, expected a list of strings")
        if set(keys) != set(self._storages) or len(keys) != len(self._storages):
            self._fail(f"its list names {len(keys)} storages, expected each of {len(self._storages)} once")
        size = self._file.size
        for key in keys:
            known = self._storages[key]
            if not isinstance(known, tuple):
                self._fail(f"storage {key!r} has elements of {describe(known.callee)}, a type that is not supported")
            storage, dtype = known
            end = start + _COUNT + storage.nbytes
            if end > size:
                msg = f"{self._file.path}: truncated: {size} bytes, expected {end} or more; download it again"
                raise DamagedError(msg)
            count = int.from_bytes(self._file.read(start, _COUNT), "little")
            if count * dtype.itemsize != storage.nbytes:
                self._fail(f"storage {key!r} has {count} elements, expected {storage.nbytes} bytes of {dtype.name}")
            storage.offset = start + _COUNT
            start = end
