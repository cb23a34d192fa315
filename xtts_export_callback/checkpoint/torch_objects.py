"""Build tensors, or inert placeholders, for the calls in a checkpoint's pickle."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from xtts_export_callback.checkpoint.placeholders import Global, Opaque, describe
from xtts_export_callback.checkpoint.zip_reader import Record, data_offset
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.tensors.dtypes import BY_NAME, BY_STORAGE, DType
from xtts_export_callback.tensors.tensor import FileStorage, Tensor, find_fault

if TYPE_CHECKING:
    from xtts_export_callback.files.random_access import ReadableFile

_MAX_KEY = 100
_HEADER = 256  # a local header, with the padding that torch puts behind it, has no more
_MAX_SIZE = 64
_SETTERS = frozenset({"data", "real", "imag", "__class__", "__dict__"})
"""Attributes of ``torch.Tensor`` that change its elements, or their meaning, when they are set."""

_PLAIN_CLASSES = (Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter"))


class RecordStorage(FileStorage):
    """A storage whose offset is looked up on first use; inspecting a file never uses it."""

    __slots__ = ("_header", "_offset")

    _offset: int

    def __init__(self, file: ReadableFile, record: Record, *, has_checksums: bool) -> None:
        """Describe the bytes of ``record``; arguments as for `FileStorage`."""
        label = sys.intern(f"record {record.name}")  # interned, because many open checkpoints have the same ones
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

    @property
    def span(self) -> tuple[int, int]:
        """See `FileStorage.span`: the local header comes with the bytes, without being read for this."""
        return self._header, self._header + _HEADER + self.nbytes


Typed: TypeAlias = "tuple[FileStorage, DType] | Opaque"


class TensorBuilder(ABC):
    """Turns descriptions of tensors in a pickle into `Tensor`, and everything else into `Opaque`."""

    def __init__(self, file: ReadableFile) -> None:
        """Prepare for the pickle of ``file``."""
        self._file = file
        self._storages: dict[str, Typed] = {}

    @abstractmethod
    def storage(self, identifier: Any) -> Typed:
        """Return the storage that a persistent id describes, as the ``persistent_load`` of ``torch.load`` does.

        Args:
            identifier: The persistent id.

        Returns:
            The storage and the type of its elements, or a placeholder for types that are not read.

        Raises:
            CheckpointError: When the storage is missing or has another size.
        """

    @abstractmethod
    def _create(self, key: str, dtype: DType, numel: Any) -> FileStorage:
        """Create the storage of that key."""

    def _shared_storage(self, kind: Any, key: Any, numel: Any) -> Typed:
        """Return the storage of that key; as in torch, its first mention in the file counts for all later ones."""
        if not isinstance(key, str) or len(key) > _MAX_KEY:
            self._fail(f"its pickle refers to {describe(key)} as a storage")
        dtype = storage_dtype(kind)
        known = self._storages.get(key)
        if known is None:
            # An unknown type, such as one of another device, is refused by name where a tensor needs it.
            known = Opaque(kind, ()) if dtype is None else (self._create(key, dtype, numel), dtype)
            self._storages[key] = known
        elif isinstance(known, tuple) and known[1] is not dtype and known[0].nbytes:
            self._fail(f"storage {key!r} has elements of two types, which torch never writes")
        return known

    def build(self, callee: Global, args: tuple[Any, ...]) -> Any:
        """Return a value in place of the result of a call in the stream.

        Args:
            callee: What the stream asks to call.
            args: The arguments of the call.

        Returns:
            A `Tensor` for torch's own rebuilding functions, plain values for the containers that torch puts around
            them, an `Opaque` for everything else.

        Raises:
            CheckpointError: When the stream describes an impossible tensor.
        """
        match callee.module, callee.name:
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor" | "_rebuild_tensor_v3":
                return self._tensor(callee, args)
            case "collections", "OrderedDict" if not args:  # the hooks of every tensor
                return OrderedDict()
            case "torch._utils", "_rebuild_parameter" if len(args) == 3 and isinstance(args[0], Tensor):
                return args[0]
            case "torch._utils", "_rebuild_parameter_with_state" if len(args) == 4 and _is_harmless(args[3]):
                return args[0] if isinstance(args[0], Tensor) else Opaque(callee, args)
            case "torch._tensor", "_rebuild_from_type_v2" if (
                len(args) == 4 and args[1] in _PLAIN_CLASSES and _is_harmless(args[3])
            ):
                # A plain tensor with attributes of its own: the arguments hold the call that makes it.
                inner, inner_args = args[0], args[2]
                plain = isinstance(inner, Global) and inner.module == "torch._utils" and isinstance(inner_args, tuple)
                return self.build(inner, inner_args) if plain else Opaque(callee, args)
            case "torch", "Size" if len(args) == 1 and isinstance(args[0], (tuple, list)) and len(args[0]) <= _MAX_SIZE:
                return tuple(args[0])
            case _:
                return Opaque(callee, args)

    def _tensor(self, callee: Global, args: tuple[Any, ...]) -> Any:
        version3 = callee.name == "_rebuild_tensor_v3"
        metadata_at = 7 if version3 else 6
        if len(args) < (metadata_at if version3 else 4):
            self._fail(f"its pickle calls {callee} with {len(args)} arguments")
        typed, offset, shape, stride = args[:4]
        if isinstance(typed, Opaque):
            return Opaque(typed.callee, args)  # elements of a type that no XTTS file has
        # The stream may have built a tuple itself that is as long as the one that `storage` returns.
        if not (isinstance(typed, tuple) and len(typed) == 2 and isinstance(typed[1], DType)):
            self._fail("its pickle describes a tensor without a storage")
        storage, dtype = typed
        if version3:
            dtype = BY_NAME.get(args[6].name) if isinstance(args[6], Global) and args[6].module == "torch" else None
        if dtype is None:
            return Opaque(args[6], args)
        if len(args) > metadata_at and args[metadata_at]:
            return Opaque(callee, args)  # a conjugate view, which no XTTS file has: refused if needed
        if not isinstance(storage, FileStorage):
            self._fail("its pickle describes a tensor without a storage")
        is_sequence = isinstance(shape, (tuple, list)) and isinstance(stride, (tuple, list))
        if not is_sequence or max(len(shape), len(stride)) > _MAX_SIZE:
            self._fail(f"{storage.label}: a tensor has {describe(shape)} for its shape")
        shape, stride = tuple(shape), tuple(stride)
        fault = find_fault(storage, dtype, shape, stride, offset)
        if fault is not None:
            self._fail(f"{storage.label}: a tensor with {fault}")
        # Shared only after the check: (True,) equals (1,), and in the cache it would replace the shape of a later file.
        return Tensor(storage, dtype, _shared(shape), _shared(stride), offset)

    def _fail(self, what: str) -> NoReturn:
        msg = f"{self._file.path}: {what}; save it again with torch, or use another checkpoint"
        raise CheckpointError(msg)


class ArchiveTensors(TensorBuilder):
    """Tensors over the records of a zip archive."""

    def __init__(self, file: ReadableFile, records: dict[str, Record], *, has_checksums: bool) -> None:
        """Prepare for the pickle of ``file``, whose ``records`` hold the storages."""
        super().__init__(file)
        self._records = records
        self._has_checksums = has_checksums

    def storage(self, identifier: Any) -> Typed:
        """See `TensorBuilder.storage`."""
        if not isinstance(identifier, tuple) or len(identifier) != 5 or identifier[0] != "storage":
            self._fail("data.pkl refers to something that is not a storage")
        _, kind, key, _, numel = identifier
        return self._shared_storage(kind, key, numel)

    def _create(self, key: str, dtype: DType, numel: Any) -> FileStorage:
        record = self._records.get(f"data/{key}")
        if record is None:
            self._fail(f"record data/{key!r} is missing")
        if type(numel) is not int or numel * dtype.itemsize != record.nbytes:
            self._fail(f"record data/{key} has {record.nbytes} bytes, expected {describe(numel)} of {dtype.name}")
        return RecordStorage(self._file, record, has_checksums=self._has_checksums)


def _is_harmless(state: Any) -> bool:
    """Whether attributes set on a tensor leave its elements unchanged: a dict, or a pair of dicts with slots."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    return all(part is None or (isinstance(part, dict) and _SETTERS.isdisjoint(part)) for part in parts)


@lru_cache(maxsize=1024)
def _shared(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the first equal tuple, because many open checkpoints have the same shapes."""
    return sizes


def storage_dtype(kind: Any) -> DType | None:
    """Return the element type of a class of storages; None where it is unknown."""
    if not isinstance(kind, Global):
        return None
    module = kind.module.removesuffix(".cuda")  # saved by a version that put the device there
    if kind.name == "UntypedStorage" and kind.module in ("torch", "torch.storage"):
        return BY_NAME["uint8"]
    return BY_STORAGE.get(kind.name) if module == "torch" else None
