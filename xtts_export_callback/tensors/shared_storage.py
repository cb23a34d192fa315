"""Choose the bytes to write for a set of tensors, and place the tensors in them.

Tied tensors and overlapping views share storage in the result as in the source. Where a small view alone refers to a
large storage, the rest of the storage is left out. An expanded tensor stays as small as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xtts_export_callback.tensors.tensor import BLOCK, FileStorage, SliceStorage, Storage, Tensor, row_major

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FIRST = 4096  # bytes


def pack(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """Move tensors to the smallest storages that keep what they share.

    Args:
        tensors: Any views of any storages.

    Returns:
        By ``id`` of each given tensor, a tensor of the same values on a storage without unused bytes.
    """
    groups: dict[tuple[int, str], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((id(tensor.storage), tensor.dtype.name), []).append(tensor)
    packed: dict[int, Tensor] = {}
    for group in groups.values():
        for start, stop, members in _connected(group):
            packed.update(_rebase(start, stop, members))
    return packed


def tie_equal(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tie tensors that hold the same elements, so that they are stored once.

    Only whole storages of a file are compared, and next to nothing is read: two tensors of the same type, shape and
    checksum, which a ``.safetensors`` lacks so that its first bytes stand for it, are read and compared.

    Args:
        tensors: The state_dict.

    Returns:
        The same names; of equal tensors, the first stands for all.
    """
    first: dict[tuple[Any, ...], list[Tensor]] = {}
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.storage
        if not isinstance(storage, FileStorage) or tensor.nbytes != storage.nbytes or not tensor.is_contiguous:
            result[name] = tensor
            continue
        known = first.setdefault((tensor.dtype.name, tensor.shape, _sign(storage)), [])
        equal = next((other for other in known if other.storage is storage or _same_bytes(other, tensor)), None)
        if equal is None:
            known.append(tensor)
        result[name] = equal or tensor
    return result


def _sign(storage: FileStorage) -> int | bytes:
    """Return what is the same for equal storages, and hardly ever for others."""
    if storage.crc32 is not None:
        return storage.crc32
    first = bytearray(min(storage.nbytes, _FIRST))
    storage.reader()(memoryview(first))
    return bytes(first)


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    """Compare two tensors that are whole storages of one size, block by block and without numpy."""
    readers = one.storage.reader(), other.storage.reader()
    for start in range(0, one.nbytes, BLOCK):
        blocks = [bytearray(min(BLOCK, one.nbytes - start)) for _ in readers]
        for fill, block in zip(readers, blocks, strict=True):
            fill(memoryview(block))
        if blocks[0] != blocks[1]:
            return False
    return True


def _connected(group: list[Tensor]) -> list[tuple[int, int, list[Tensor]]]:
    """Group the views of one storage that share bytes; return each group with its range of bytes."""
    runs: list[tuple[int, int, list[Tensor]]] = []
    for tensor in sorted(group, key=lambda tensor: tensor.extent):
        start, stop = tensor.extent
        if runs and start < runs[-1][1] and stop > start:
            first, last, members = runs[-1]
            members.append(tensor)
            runs[-1] = (first, max(last, stop), members)
        else:
            runs.append((start, stop, [tensor]))
    return runs


def _rebase(start: int, stop: int, members: list[Tensor]) -> dict[int, Tensor]:
    lead = members[0]
    is_one_view = len({tensor.view_key for tensor in members}) == 1
    if is_one_view and (lead.numel == 0 or lead.nbytes < stop - start):
        # A view with gaps, such as a column, takes less when its elements alone are written.
        tight = replace(lead, storage=lead.packed(), stride=row_major(lead.shape), offset=0)
        return {id(tensor): tight for tensor in members}
    whole = (start, stop) == (0, lead.storage.nbytes)
    storage: Storage = lead.storage if whole else SliceStorage(lead.storage, start, stop)
    shift = start // lead.dtype.itemsize
    return {id(tensor): replace(tensor, storage=storage, offset=tensor.offset - shift) for tensor in members}
