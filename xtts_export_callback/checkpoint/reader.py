"""Open a checkpoint of any kind as a mapping of names to tensors that have not been read."""

from __future__ import annotations

import stat
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.document import split
from xtts_export_callback.checkpoint.quantized import CONFIG, dequantized
from xtts_export_callback.checkpoint.torch_objects import ArchiveTensors
from xtts_export_callback.checkpoint.unpickler import MAX_PICKLE, Unpickler, UnpicklingError
from xtts_export_callback.checkpoint.zip_reader import Record, data_offset, read_directory
from xtts_export_callback.errors import CheckpointError, DamagedError
from xtts_export_callback.files.crc32 import crc32
from xtts_export_callback.files.paths import as_path
from xtts_export_callback.files.random_access import RandomFile, ReadableFile
from xtts_export_callback.files.remote import RemotePath
from xtts_export_callback.tensors.tensor import FileStorage, Tensor

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterable, Iterator
    from types import TracebackType

MODEL_NAMES = ("model.pth", "model.safetensors")
"""File names of the weights in an inference folder."""

_SUFFIXES = (".pth", ".safetensors")
_NO_MODELS = ("speakers_xtts.pth", "mel_stats.pth", "dvae.pth")  # what may lie beside a model

LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""The number in the first pickle of a file in torch's old format (``torch.serialization.MAGIC_NUMBER``)."""

_LITTLE = b"little"


@dataclass
class Checkpoint:
    """An open checkpoint. Use it as a context manager, or close it.

    Attributes:
        path: The file.
        nbytes: Its size in bytes.
        format: ``"pth"``, ``"safetensors"`` or ``"legacy"``.
        tensors: The state_dict, by the names in the file; quantized weights as the float32 that they stand for.
        document: The rest of the file as plain values: config, step, epoch, model_loss, optimizer ...; its tensors are
            `Tensor` too. The config of an official release, which is a pickled object, becomes a dict.
        has_checksums: Whether the file holds checksums of its records.
        names: Globals that the file's pickle mentions, as ``module.name``; none is looked up.
        stored: The tensors as they lie in the file. They differ from ``tensors`` where weights are quantized: these are
            int8, with their scales beside them.
        others: Other entries of the state_dict, each described in a few words: the extra state of a module, tensors
            that are not dense. `xtts.state_dict` refuses those that inference needs.
    """

    path: Path
    nbytes: int
    format: str
    tensors: dict[str, Tensor]
    document: dict[str, Any]
    has_checksums: bool
    file: ReadableFile | None = field(default=None, repr=False)
    names: frozenset[str] = frozenset()
    others: dict[str, str] = field(default_factory=dict)
    stored: dict[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Put the weights in place of what a quantized file holds."""
        self.stored = self.tensors
        if CONFIG in self.document:
            self.tensors = dequantized(self.path, self.stored)

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

    def expect(self, tensors: Iterable[Tensor]) -> None:
        """Tell a file behind a URL which tensors will be read."""
        if self.file is not None:
            storages = (tensor.storage for tensor in (self.stored.values() if self.is_quantized else tensors))
            self.file.expect(storage.span for storage in storages if isinstance(storage, FileStorage))

    @property
    def mode(self) -> int:
        """Permissions that a file made from this one may have."""
        return 0o666 if self.file is None else self.file.mode

    @property
    def is_quantized(self) -> bool:
        """Whether the file holds weights in int8 with their scales."""
        return self.stored is not self.tensors

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, dtypes, shapes and CRC-32s of the tensors' elements.

        The file's name, dates and layout do not change it. Tensors whose checksums are in the file are not read for it;
        all others, and views of larger storages, are. It tells one save from another and finds damage. It does not
        prove that nobody tampered with a file: four chosen bytes give a tensor any CRC-32. `content_digest` does.

        Returns:
            ``"crc32-sha256:"`` and 64 hexadecimal digits.
        """
        from xtts_export_callback.checkpoint.fingerprint import fingerprint  # only few commands need it

        return fingerprint(self.stored)

    def has_fingerprint(self, recorded: object) -> bool:
        """Whether the tensors match a recorded fingerprint, of this version or an earlier one."""
        from xtts_export_callback.checkpoint.fingerprint import matches

        return matches(self.stored, recorded)


def open_checkpoint(
    path: str | os.PathLike[str], *, known_as: Path | None = None, keep: Collection[str] | None = None
) -> Checkpoint:
    """Open a checkpoint without reading its tensors.

    Args:
        path: A Trainer checkpoint, an inference folder, a bare or official ``model.pth``, or a ``.safetensors``; also a
            URL of one, as ``hf://USER/MODEL/best_model.pth``.
        known_as: What the checkpoint is called, where ``path`` is another name for it; the files that belong to it are
            looked for beside this one.
        keep: Keys of the document to keep. What a file says of its optimizer takes 0.3 MB of memory.

    Returns:
        The open checkpoint.

    Raises:
        CheckpointError: When the file does not exist, is damaged or hostile, or is not a checkpoint.

    Example:
        >>> with open_checkpoint("run/checkpoint_1000.pth") as checkpoint:
        ...     print(len(checkpoint.tensors), checkpoint.document["step"])
    """
    checkpoint = open_file(_open_file(_weights_file(as_path(path))))
    if known_as is not None:
        checkpoint.path = known_as
    if keep is not None:
        checkpoint.document = {key: value for key, value in checkpoint.document.items() if key in keep}
    return checkpoint


def open_file(file: ReadableFile) -> Checkpoint:
    """Open a checkpoint in a file that is open already, and that is closed with it; see `open_checkpoint`."""
    try:
        return _open(file)
    except (OSError, EOFError) as error:
        file.close()
        msg = f"{file.path}: cannot be read ({error}); download it again or use another checkpoint"
        raise (DamagedError if isinstance(error, EOFError) else CheckpointError)(msg) from error
    except BaseException:
        file.close()
        raise


@contextmanager
def open_document(path: Path, *, most: int) -> Iterator[tuple[Any, frozenset[str]]]:
    """Open a file of ``torch.save`` that is not a checkpoint, without reading its tensors.

    Args:
        path: The file.
        most: Largest size to accept, in bytes.

    Yields:
        Its contents (plain values, `Tensor`, and inert placeholders for anything else), and the globals that its pickle
        mentions. Tensors can be read while the file is open.

    Raises:
        CheckpointError: When the file does not exist, or is damaged, hostile or larger.
    """
    file = _open_file(path)
    try:
        yield _read_document(file, most)
    finally:
        file.close()


def _read_document(file: ReadableFile, most: int) -> tuple[Any, frozenset[str]]:
    if file.size > most:
        msg = f"{file.path}: {file.size} bytes, expected at most {most}"
        raise CheckpointError(msg)
    try:
        head = file.read(0, min(32, file.size))
        file.expect([(0, file.size)])
        if head.startswith(b"PK"):
            root, _, names = _read_archive(file)
            return root, names
    except (OSError, EOFError) as error:
        msg = f"{file.path}: cannot be read ({error}); download it again"
        raise CheckpointError(msg) from error
    if head.startswith(b"\x80") and LEGACY_MAGIC in head:
        from xtts_export_callback.checkpoint.legacy import load_legacy

        return load_legacy(file)
    msg = f"{file.path}: not a file of torch.save (first bytes {head[:8]!r}); download it again"
    raise CheckpointError(msg)


def _open_file(path: Path) -> ReadableFile:
    if isinstance(path, RemotePath):
        from xtts_export_callback.files.remote_file import open_remote

        return open_remote(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait forever
            msg = f"{path}: not a regular file; name a checkpoint file or an inference folder"
            raise CheckpointError(msg)
        return RandomFile(path)
    except (OSError, ValueError) as error:  # a ValueError: a null character or a lone surrogate in the path
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"{path}: cannot be read ({reason}); check the path"
        raise CheckpointError(msg) from error


def weights_in(folder: Path) -> Path | None:
    """Return the model in a folder: ``model.pth`` or ``model.safetensors``, or else the only checkpoint in it.

    Returns:
        None where there is none, or more than one to choose from.
    """
    found = [folder / name for name in MODEL_NAMES if (folder / name).is_file()]
    if not found and folder.is_dir():
        files = [path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file()]
        found = [path for path in files if path.name not in _NO_MODELS and not path.name.startswith(".")]
    return found[0] if len(found) == 1 else None


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = weights_in(path)
    if found is not None:
        return found
    files = sorted(each.name for each in path.iterdir() if each.suffix in _SUFFIXES and each.is_file())
    what = "both" if set(MODEL_NAMES) <= set(files) else ", ".join(files[:4]) or "neither"
    msg = f"{path}: expected {' or '.join(MODEL_NAMES)} in this folder, found {what}; name the file itself"
    raise CheckpointError(msg)


def _open(file: ReadableFile) -> Checkpoint:
    head = file.read(0, min(32, file.size))
    if head.startswith(b"PK"):
        return _open_archive(file)
    if file.path.suffix == ".safetensors" or head[8:9] == b"{":
        from xtts_export_callback.checkpoint.safetensors import read_header

        tensors, document = read_header(file)
        return Checkpoint(file.path, file.size, "safetensors", tensors, document, has_checksums=False, file=file)
    if head.startswith(b"\x80") and LEGACY_MAGIC in head:
        from xtts_export_callback.checkpoint.legacy import load_legacy

        root, names = load_legacy(file)
        return _checkpoint(file, "legacy", root, names, has_checksums=False)
    if file.size > 512 and file.read(257, 5) == b"ustar":
        msg = f"{file.path}: is a tar archive, as torch before 0.2 wrote; load it and save it again with torch"
        raise CheckpointError(msg)
    from xtts_export_callback.files.mistaken_download import mistaken_download

    mistaken = mistaken_download(file.read(0, min(512, file.size)))
    if mistaken:
        msg = f"{file.path}: {mistaken}"
        raise CheckpointError(msg)
    msg = f"{file.path}: not a checkpoint: neither a zip archive nor safetensors (first bytes {head[:8]!r})"
    raise DamagedError(msg)


def _open_archive(file: ReadableFile) -> Checkpoint:
    root, has_checksums, names = _read_archive(file)
    return _checkpoint(file, "pth", root, names, has_checksums=has_checksums)


def _checkpoint(file: ReadableFile, kind: str, root: Any, names: frozenset[str], *, has_checksums: bool) -> Checkpoint:
    tensors, document, others = split(file.path, file.size, root)
    return Checkpoint(file.path, file.size, kind, tensors, document, has_checksums, file, names, others)


def _read_archive(file: ReadableFile) -> tuple[Any, bool, frozenset[str]]:
    """Return the contents of a zip archive of torch, whether it has checksums, and the globals that it mentions."""
    records = read_directory(file)
    order = records.get("byteorder")
    if order is not None and (order.nbytes > len(_LITTLE) or _read_record(file, order) != _LITTLE):
        msg = f"{file.path}: written on a big-endian machine, which is not supported; save it again with torch"
        raise CheckpointError(msg)
    pickled = records["data.pkl"]
    if pickled.nbytes > MAX_PICKLE:
        msg = f"{file.path}: data.pkl has {pickled.nbytes} bytes, expected at most {MAX_PICKLE}; the file is hostile"
        raise CheckpointError(msg)
    data = _read_record(file, pickled)
    # torch.serialization.set_crc32_options(False) leaves every checksum 0.
    has_checksums = any(record.crc32 for record in records.values())
    if has_checksums and crc32(data) != pickled.crc32:
        msg = f"{file.path}: data.pkl: checksum differs; the file is damaged, download it again or use another one"
        raise DamagedError(msg)
    builder = ArchiveTensors(file, records, has_checksums=has_checksums)
    try:
        unpickler = Unpickler(data, persistent_load=builder.storage, build=builder.build)
        root = unpickler.load()
    except UnpicklingError as error:
        msg = f"{file.path}: data.pkl: {error}; save it again with torch, or use another checkpoint"
        raise CheckpointError(msg) from error
    return root, has_checksums, frozenset(unpickler.names)


def _read_record(file: ReadableFile, record: Record) -> bytes:
    start = data_offset(file, f"record {record.name}", record.header, record.nbytes)
    return file.read(start, record.nbytes)
