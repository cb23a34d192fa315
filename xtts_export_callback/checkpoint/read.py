"""Opening a checkpoint of any kind as a mapping of names to tensors that have not been read."""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.archive import Record, data_offset, read_directory
from xtts_export_callback.checkpoint.dtypes import BY_NAME, BY_STORAGE, DType
from xtts_export_callback.checkpoint.files import RandomFile
from xtts_export_callback.checkpoint.tensor import BLOCK, FileStorage, Storage, Tensor
from xtts_export_callback.checkpoint.unpickle import Global, Opaque, Unpickler, UnpicklingError
from xtts_export_callback.errors import CheckpointError

if TYPE_CHECKING:
    import os
    from types import TracebackType

MODEL_NAMES = ("model.pth", "model.safetensors")
"""What the weights in an inference folder are called."""

_MAX_PICKLE = 512 << 20
_MAX_DEPTH = 100
_MAX_NODES = 5_000_000
_STORAGE_ID = 5  # ("storage", type, key, location, numel)


@dataclass
class Checkpoint:
    """An open checkpoint. Use it as a context manager, or close it.

    Attributes:
        path: The file.
        nbytes: Its size in bytes.
        format: ``"pth"``, ``"safetensors"`` or ``"legacy"``.
        tensors: The state_dict, names as they stand in the file.
        document: What else the file holds, as plain values: config, step, epoch, model_loss, optimizer ...; tensors in
            there are `Tensor` too. The config of an official release, pickled as an object, comes as a dict.
        has_checksums: Whether the file holds checksums of its records.
    """

    path: Path
    nbytes: int
    format: str
    tensors: dict[str, Tensor]
    document: dict[str, Any]
    has_checksums: bool
    file: RandomFile | None = field(default=None, repr=False)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; its tensors cannot be read afterwards."""
        if self.file is not None:
            self.file.close()

    def fingerprint(self) -> str:
        """SHA-256 over names, dtypes, shapes, layouts and checksums of the tensors.

        It does not depend on the file's name or dates and costs no reading where the file holds checksums; where it
        holds none, every tensor is read.

        Returns:
            ``"sha256:"`` and 64 hexadecimal digits.
        """
        return fingerprint(self.tensors)


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """See `Checkpoint.fingerprint`."""
    digest = hashlib.sha256()
    known: dict[int, int] = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = known.setdefault(id(tensor.storage), _storage_crc(tensor.storage))
        line = f"{name}\0{tensor.dtype.name}\0{tensor.shape}\0{tensor.stride}\0{tensor.offset}\0{crc:08x}\n"
        digest.update(line.encode())
    return f"sha256:{digest.hexdigest()}"


def _storage_crc(storage: Storage) -> int:
    if storage.crc32 is not None:
        return storage.crc32
    fill = storage.reader()
    buffer = memoryview(bytearray(min(BLOCK, storage.nbytes)))
    crc = 0
    for start in range(0, storage.nbytes, BLOCK):
        part = buffer[: min(BLOCK, storage.nbytes - start)]
        fill(part)
        crc = zlib.crc32(part, crc)
    return crc


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint without reading its tensors.

    Args:
        path: A Trainer checkpoint, an inference folder, a bare or official ``model.pth``, or a ``.safetensors``.

    Returns:
        The open checkpoint.

    Raises:
        CheckpointError: When there is no such file or it is damaged, hostile, or no checkpoint.

    Example:
        >>> with open_checkpoint("run/checkpoint_1000.pth") as checkpoint:
        ...     print(len(checkpoint.tensors), checkpoint.document["step"])
    """
    file_path = _weights_file(Path(path))
    try:
        file = RandomFile(file_path)
    except OSError as error:
        msg = f"{file_path}: cannot be read ({error.strerror}); check the path"
        raise CheckpointError(msg) from error
    try:
        return _open(file)
    except (OSError, EOFError) as error:
        file.close()
        msg = f"{file_path}: cannot be read ({error}); get the file again or use another checkpoint"
        raise CheckpointError(msg) from error
    except BaseException:
        file.close()
        raise


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [path / name for name in MODEL_NAMES if (path / name).is_file()]
    if len(found) == 1:
        return found[0]
    what = "neither" if not found else "both"
    msg = f"{path}: expected {' or '.join(MODEL_NAMES)} in this folder, found {what}; name the file itself"
    raise CheckpointError(msg)


def _open(file: RandomFile) -> Checkpoint:
    head = file.read(0, min(16, file.size))
    if head.startswith(b"PK"):
        return _open_archive(file)
    if file.path.suffix == ".safetensors" or head[8:9] == b"{":
        from xtts_export_callback.checkpoint.safetensors import read_header

        tensors, metadata = read_header(file)
        return Checkpoint(file.path, file.size, "safetensors", tensors, metadata, has_checksums=False, file=file)
    if head.startswith(b"\x80"):
        from xtts_export_callback.checkpoint.legacy import load_legacy

        document = load_legacy(file.path)
        tensors, rest = _split(file.path, document)
        return Checkpoint(file.path, file.size, "legacy", tensors, rest, has_checksums=False, file=file)
    msg = f"{file.path}: not a checkpoint: neither a zip archive nor safetensors (first bytes {head[:8]!r})"
    raise CheckpointError(msg)


def _open_archive(file: RandomFile) -> Checkpoint:
    records = read_directory(file)
    if "byteorder" in records and _read_record(file, records["byteorder"]).strip() != b"little":
        msg = f"{file.path}: written on a big-endian machine, which is not supported; save it again with torch"
        raise CheckpointError(msg)
    pickled = records["data.pkl"]
    if pickled.nbytes > _MAX_PICKLE:
        msg = f"{file.path}: data.pkl has {pickled.nbytes} bytes, expected at most {_MAX_PICKLE}; the file is hostile"
        raise CheckpointError(msg)
    data = _read_record(file, pickled)
    # torch.serialization.set_crc32_options(False) leaves every checksum 0.
    has_checksums = pickled.crc32 != 0
    if has_checksums and zlib.crc32(data) != pickled.crc32:
        msg = f"{file.path}: data.pkl: checksum differs; the file is damaged, get it again or use another checkpoint"
        raise CheckpointError(msg)
    builder = _TensorBuilder(file, records, has_checksums=has_checksums)
    try:
        root = Unpickler(data, persistent_load=builder.storage, build=builder.build).load()
    except UnpicklingError as error:
        msg = f"{file.path}: data.pkl: {error}; the file is damaged, get it again or use another checkpoint"
        raise CheckpointError(msg) from error
    tensors, document = _split(file.path, root)
    return Checkpoint(file.path, file.size, "pth", tensors, document, has_checksums=has_checksums, file=file)


def _read_record(file: RandomFile, record: Record) -> bytes:
    return file.read(data_offset(file, record), record.nbytes)


class _RecordStorage(FileStorage):
    """A storage whose place in the file is looked up when it is first needed: inspecting never needs it."""

    def __init__(self, file: RandomFile, record: Record, label: str, *, has_checksums: bool) -> None:
        self.record = record
        super().__init__(file, -1, record.nbytes, record.crc32 if has_checksums else None, label)

    @property
    def offset(self) -> int:
        if self._offset < 0:
            self._offset = data_offset(self.file, self.record)
        return self._offset

    @offset.setter
    def offset(self, value: int) -> None:
        self._offset = value


class _TensorBuilder:
    """Turns what the pickle says of tensors into `Tensor`, and everything else into `Opaque`."""

    def __init__(self, file: RandomFile, records: dict[str, Record], *, has_checksums: bool) -> None:
        self._file = file
        self._records = records
        self._has_checksums = has_checksums
        self._storages: dict[str, FileStorage] = {}

    def storage(self, identifier: Any) -> tuple[FileStorage, DType]:
        """``torch.load``'s ``persistent_load``: the storage that a persistent id describes."""
        if not isinstance(identifier, tuple) or len(identifier) != _STORAGE_ID or identifier[0] != "storage":
            self._fail("data.pkl refers to something that is no storage")
        _, kind, key, _, numel = identifier
        dtype = _storage_dtype(kind)
        if dtype is None or not isinstance(key, str) or not isinstance(numel, int):
            self._fail(f"storage {key!r} is of the unknown type {kind}")
        record = self._records.get(f"data/{key}")
        if record is None:
            self._fail(f"record data/{key} is missing")
        if numel * dtype.itemsize != record.nbytes:
            self._fail(f"record data/{key} has {record.nbytes} bytes, expected {numel * dtype.itemsize}")
        if key not in self._storages:
            label = f"record data/{key}"
            self._storages[key] = _RecordStorage(self._file, record, label, has_checksums=self._has_checksums)
        return self._storages[key], dtype

    def build(self, callee: Global, args: tuple[Any, ...]) -> Any:
        """Stand in for a call in the stream."""
        match callee.module, callee.name:
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor" | "_rebuild_tensor_v3":
                return self._tensor(callee, args)
            case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return args[0] if args and isinstance(args[0], Tensor) else Opaque(callee, args)
            case "torch", "Size":
                return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else Opaque(callee, args)
            case "collections", "OrderedDict" if not args:
                return OrderedDict()
            case _:
                return Opaque(callee, args)

    def _tensor(self, callee: Global, args: tuple[Any, ...]) -> Any:
        version3 = callee.name == "_rebuild_tensor_v3"
        (storage, dtype), offset, shape, stride = args[0], *args[1:4]
        if version3:
            dtype = BY_NAME.get(args[6].name if isinstance(args[6], Global) else "")
        metadata_at = 7 if version3 else 6
        if dtype is None or (len(args) > metadata_at and args[metadata_at]):
            return Opaque(callee, args)  # an element type or a conjugate view that no XTTS file has: refused if needed
        numbers = (offset, *shape, *stride)
        if len(shape) != len(stride) or any(type(number) is not int or number < 0 for number in numbers):
            self._fail(f"a tensor has the shape {shape}, strides {stride} and offset {offset}")
        tensor = Tensor(storage, dtype, tuple(shape), tuple(stride), offset)
        if tensor.extent[1] > storage.nbytes:
            self._fail(f"a tensor of shape {tensor.shape} reaches past the end of its {storage.label}")
        return tensor

    def _fail(self, what: str) -> Any:
        msg = f"{self._file.path}: {what}; the file is damaged, get it again or use another checkpoint"
        raise CheckpointError(msg)


def _storage_dtype(kind: Any) -> DType | None:
    if not isinstance(kind, Global):
        return None
    if kind.name == "UntypedStorage":
        return BY_NAME["uint8"]
    return BY_STORAGE.get(kind.name) if kind.module == "torch" else None


def _split(path: Path, root: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state_dict and the rest of a loaded file, as plain values."""
    if isinstance(root, Opaque):
        _refuse_hidden_tensors(path, root)
    if not isinstance(root, dict):
        msg = f"{path}: expected a dict with a state_dict, found {type(root).__name__}"
        raise CheckpointError(msg)
    is_bare = "model" not in root
    model = root if is_bare else root["model"]
    if isinstance(model, Opaque) or not isinstance(model, dict):
        _refuse_hidden_tensors(path, model)
        msg = f"{path}: 'model' should be a state_dict, found {_describe(model)}"
        raise CheckpointError(msg)
    for name, tensor in model.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            msg = f"{path}: {name}: expected a plain tensor, found {_describe(tensor)}; save it again as a plain tensor"
            raise CheckpointError(msg)
    if not model:
        msg = f"{path}: the state_dict is empty"
        raise CheckpointError(msg)
    rest = {} if is_bare else {key: value for key, value in root.items() if key != "model"}
    return dict(model), _Plain(path).convert(rest)


class _Plain:
    """Converts to plain values, within bounds that no real file comes near."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._nodes = 0

    def convert(self, value: Any, depth: int = 0) -> Any:
        self._nodes += 1
        if depth > _MAX_DEPTH or self._nodes > _MAX_NODES:
            msg = f"{self._path}: data.pkl is nested or repeated beyond reason; the file is hostile"
            raise CheckpointError(msg)
        if isinstance(value, dict):
            return {self._key(key): self.convert(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.convert(item, depth + 1) for item in value]
        if isinstance(value, Opaque):
            return self._object(value, depth)
        if isinstance(value, Global):
            return str(value)
        return value

    def _key(self, key: Any) -> Any:
        return key if isinstance(key, (str, int, float, bool, type(None))) else repr(key)

    def _object(self, value: Opaque, depth: int) -> Any:
        """The fields of an object, such as the XttsConfig in the official release."""
        if isinstance(value.state, dict):
            return self.convert(value.state, depth + 1)
        if value.items and all(isinstance(item, tuple) and len(item) == 2 for item in value.items):  # noqa: PLR2004
            return self.convert(dict(value.items), depth + 1)
        parts = value.items or value.args
        return [str(value.callee), *(self.convert(part, depth + 1) for part in parts)]


def _refuse_hidden_tensors(path: Path, value: Any) -> None:
    msg = f"{path}: {_describe(value)} in place of a state_dict; only plain tensors in a dict are read, never code"
    raise CheckpointError(msg)


def _describe(value: Any) -> str:
    if isinstance(value, Opaque):
        return f"an object of {value.callee}"
    return f"a {type(value).__name__}" if not isinstance(value, Tensor) else f"a tensor of {value.dtype.name}"
