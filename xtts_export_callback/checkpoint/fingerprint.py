"""Tell weights apart: a fingerprint out of the checksums in a file, and a hash of the bytes themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.files.crc32 import crc32
from xtts_export_callback.files.digest import new_digest
from xtts_export_callback.tensors.tensor import BLOCK, FileStorage, SliceStorage, Storage, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    Digests: TypeAlias = dict[int, bytes]
    """BLAKE3 of storages by their place in a file; those without bytes and those that nobody read are missing."""

_FINGERPRINT, _EARLIER = "crc32-sha256:", "sha256:"
_NONE: dict[str, int] = {}


def fingerprint(tensors: Mapping[str, Tensor], checksums: Mapping[str, int] = _NONE) -> str:
    """Return the SHA-256 over names, dtypes, shapes and CRC-32s of the tensors' elements.

    See `Checkpoint.fingerprint`.

    Args:
        tensors: The state_dict.
        checksums: CRC-32s of the elements of contiguous tensors, by name, where they are known already.
    """
    return _FINGERPRINT + _hash(tensors, _in_order, checksums)


def matches(tensors: Mapping[str, Tensor], recorded: object) -> bool:
    """Whether tensors have a recorded fingerprint, of this version or an earlier one."""
    if isinstance(recorded, str) and recorded.startswith(_EARLIER):
        return recorded == _EARLIER + _hash(tensors, _as_it_lies)
    return recorded == fingerprint(tensors)


def content_digest(tensors: Mapping[str, Tensor], digests: Mapping[int, bytes]) -> str | None:
    """Return the BLAKE3 over names, dtypes, shapes, places and bytes of tensors in a file.

    Args:
        tensors: The state_dict as it lies in the file.
        digests: BLAKE3 of each storage, by its place in the file.

    Returns:
        64 hexadecimal digits; None where the digest of a storage is missing.
    """
    whole = new_digest()
    for name in sorted(tensors):
        tensor = tensors[name]
        layout, storage = _as_it_lies(tensor)
        found = digests.get(storage.offset) if isinstance(storage, FileStorage) else None
        found = found if storage.nbytes else b""  # it begins where another does
        if whole is None or found is None:
            return None
        whole.update(memoryview(f"{name}\0{tensor.dtype.name}\0{tensor.shape}\0{layout}{found.hex()}\n".encode()))
    return whole.digest().hex() if whole is not None else None


def _hash(
    tensors: Mapping[str, Tensor], place: Callable[[Tensor], tuple[str, Storage]], checksums: Mapping[str, int] = _NONE
) -> str:
    import hashlib  # loads OpenSSL, which inspecting a file does not need

    digest = hashlib.sha256()
    known: dict[int, int] = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        layout, storage = place(tensor)
        is_shared = storage is tensor.storage
        crc = checksums.get(name, known.get(id(storage)) if is_shared else None)
        if crc is None:
            crc = _storage_crc(storage)
        if is_shared:
            known[id(storage)] = crc
        digest.update(f"{name}\0{tensor.dtype.name}\0{tensor.shape}\0{layout}{crc:08x}\n".encode())
    return digest.hexdigest()


def _in_order(tensor: Tensor) -> tuple[str, Storage]:
    """Return the elements in row-major order; those of an expanded tensor once, with its strides."""
    if not tensor.is_contiguous:
        start, stop = tensor.extent
        if tensor.nbytes > stop - start:
            return f"{tensor.stride}\0", SliceStorage(tensor.storage, start, stop)
    return "", tensor.packed()


def _as_it_lies(tensor: Tensor) -> tuple[str, Storage]:
    return f"{tensor.stride}\0{tensor.offset}\0", tensor.storage


def _storage_crc(storage: Storage) -> int:
    if storage.crc32 is not None:
        return storage.crc32
    fill = storage.reader()
    buffer = memoryview(bytearray(min(BLOCK, storage.nbytes)))
    crc = 0
    for start in range(0, storage.nbytes, BLOCK):
        part = buffer[: min(BLOCK, storage.nbytes - start)]
        fill(part)
        crc = crc32(part, crc)
    return crc
