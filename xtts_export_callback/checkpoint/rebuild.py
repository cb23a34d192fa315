"""What calls in a checkpoint's pickle stand for: tensors over the records of the archive, and inert placeholders."""

from __future__ import annotations

import sys
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from xtts_export_callback.checkpoint.archive import Record, data_offset
from xtts_export_callback.checkpoint.dtypes import BY_NAME, BY_STORAGE, DType
from xtts_export_callback.checkpoint.tensor import FileStorage, Tensor, find_fault
from xtts_export_callback.checkpoint.unpickle import Global, Opaque, describe
from xtts_export_callback.errors import CheckpointError

if TYPE_CHECKING:
    from xtts_export_callback.checkpoint.files import RandomFile

_STORAGE_ID = 5  # ("storage", type, key, location, numel)
_MAX_KEY = 100
_MAX_SIZE = 64
_PLAIN_CLASSES = (Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter"))


class RecordStorage(FileStorage):
    """A storage whose place in the file is looked up when it is first needed: inspecting never needs it."""

    __slots__ = ("_header", "_offset")

    _offset: int

    def __init__(self, file: RandomFile, record: Record, *, has_checksums: bool) -> None:
        """Describe the bytes of ``record``; arguments as for `FileStorage`."""
        label = sys.intern(f"record {record.name}")  # many open checkpoints have the same ones
        super().__init__(file, -1, record.nbytes, record.crc32 if has_checksums else None, label)
        self._header = record.header

    @property
    def offset(self) -> int:
        """Where the bytes begin in the file.

        Raises:
            CheckpointError: When the record's local header is damaged.
        """
        if self._offset < 0:
            self._offset = data_offset(self.file, self.label, self._header, self.nbytes)
        return self._offset

    @offset.setter
    def offset(self, value: int) -> None:
        self._offset = value


class TensorBuilder:
    """Turns what the pickle says of tensors into `Tensor`, and everything else into `Opaque`."""

    def __init__(self, file: RandomFile, records: dict[str, Record], *, has_checksums: bool) -> None:
        """Prepare for the pickle of ``file``, whose ``records`` hold the storages."""
        self._file = file
        self._records = records
        self._has_checksums = has_checksums
        self._storages: dict[str, FileStorage] = {}

    def storage(self, identifier: Any) -> tuple[FileStorage, DType] | Opaque:
        """``torch.load``'s ``persistent_load``: the storage that a persistent id describes.

        Args:
            identifier: What the pickle says of it.

        Returns:
            The storage and the type of its elements, or a placeholder for types that are not read.

        Raises:
            CheckpointError: When there is no such storage or it has another size.
        """
        if not isinstance(identifier, tuple) or len(identifier) != _STORAGE_ID or identifier[0] != "storage":
            self._fail("data.pkl refers to something that is no storage")
        _, kind, key, _, numel = identifier
        if not isinstance(key, str) or len(key) > _MAX_KEY:
            self._fail(f"data.pkl refers to {describe(key)} as a storage")
        dtype = _storage_dtype(kind)
        if dtype is None:
            return Opaque(kind, ())  # such as quantized elements: refused by name where a tensor needs it
        record = self._records.get(f"data/{key}")
        if record is None:
            self._fail(f"record data/{key!r} is missing")
        if type(numel) is not int or numel * dtype.itemsize != record.nbytes:
            self._fail(f"record data/{key} has {record.nbytes} bytes, expected {describe(numel)} of {dtype.name}")
        if key not in self._storages:
            self._storages[key] = RecordStorage(self._file, record, has_checksums=self._has_checksums)
        return self._storages[key], dtype

    def build(self, callee: Global, args: tuple[Any, ...]) -> Any:
        """Stand in for a call in the stream.

        Args:
            callee: What the stream wants to call.
            args: With which arguments.

        Returns:
            A `Tensor` for torch's own rebuilding functions, plain values for the containers that torch puts around
            them, an `Opaque` for everything else.

        Raises:
            CheckpointError: When the stream describes a tensor that cannot be.
        """
        match callee.module, callee.name:
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor" | "_rebuild_tensor_v3":
                return self._tensor(callee, args)
            case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return args[0] if args and isinstance(args[0], Tensor) else Opaque(callee, args)
            case "torch._tensor", "_rebuild_from_type_v2" if len(args) == 4 and args[1] in _PLAIN_CLASSES:
                # A plain tensor with attributes of its own: the call that makes it, one level further in.
                inner, inner_args = args[0], args[2]
                plain = isinstance(inner, Global) and inner.module == "torch._utils" and isinstance(inner_args, tuple)
                return self.build(inner, inner_args) if plain else Opaque(callee, args)
            case "torch", "Size" if len(args) == 1 and isinstance(args[0], (tuple, list)) and len(args[0]) <= _MAX_SIZE:
                return tuple(args[0])
            case "collections", "OrderedDict" if not args:
                return OrderedDict()
            case _:
                return Opaque(callee, args)

    def _tensor(self, callee: Global, args: tuple[Any, ...]) -> Any:
        version3 = callee.name == "_rebuild_tensor_v3"
        (storage, dtype), offset, shape, stride = args[0], *args[1:4]
        if version3:
            dtype = BY_NAME.get(args[6].name) if isinstance(args[6], Global) and args[6].module == "torch" else None
        metadata_at = 7 if version3 else 6
        if dtype is None or (len(args) > metadata_at and args[metadata_at]):
            return Opaque(callee, args)  # an element type or a conjugate view that no XTTS file has: refused if needed
        if not (isinstance(storage, FileStorage) and isinstance(dtype, DType)):
            self._fail("data.pkl describes a tensor without a storage")
        is_sequence = isinstance(shape, (tuple, list)) and isinstance(stride, (tuple, list))
        if not is_sequence or max(len(shape), len(stride)) > _MAX_SIZE:
            self._fail(f"{storage.label}: a tensor has {describe(shape)} for its shape")
        shape, stride = tuple(shape), tuple(stride)
        fault = find_fault(storage, dtype, shape, stride, offset)
        if fault is not None:
            self._fail(f"{storage.label}: a tensor with {fault}")
        # Only now, as in a cache (True,) would pass for (1,), and the file after it would get that.
        return Tensor(storage, dtype, _shared(shape), _shared(stride), offset)

    def _fail(self, what: str) -> NoReturn:
        msg = f"{self._file.path}: {what}; the file is damaged, get it again or use another checkpoint"
        raise CheckpointError(msg)


@lru_cache(maxsize=1024)
def _shared(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The first tuple that was equal: many open checkpoints have the same shapes."""
    return sizes


def _storage_dtype(kind: Any) -> DType | None:
    if not isinstance(kind, Global):
        return None
    if kind.name == "UntypedStorage" and kind.module in ("torch", "torch.storage"):
        return BY_NAME["uint8"]
    return BY_STORAGE.get(kind.name) if kind.module == "torch" else None
