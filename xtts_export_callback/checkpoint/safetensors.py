"""Read the header of a ``.safetensors``: eight bytes of length, JSON, then the bytes of the tensors.

The library is not used because it returns arrays of a framework, while this package works on ranges of a file. Format:
the ``safetensors`` README; the checks are those of its validator.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

from xtts_export_callback.checkpoint.document import check_tensors, to_plain
from xtts_export_callback.checkpoint.placeholders import describe
from xtts_export_callback.checkpoint.quantized import CONFIG, QUANTIZED_MODEL
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.tensors.dtypes import BY_SAFETENSORS
from xtts_export_callback.tensors.tensor import MAX_DIMENSIONS, MAX_NUMBER, FileStorage, Tensor, find_fault

if TYPE_CHECKING:
    from xtts_export_callback.files.random_access import ReadableFile

QUANTIZED_PREFIX = f"{QUANTIZED_MODEL}."

_LENGTH = 8
_MAX_HEADER = 100_000_000  # as the library; a full-size model has 0.2 MB
_MAX_DEPTH = 128  # as the library
_MAX_DIGITS = 308
DOCUMENT_KEY = "xtts_export"
"""Key in ``__metadata__`` for the document of a checkpoint, as JSON: safetensors allows only strings there."""


def read_header(file: ReadableFile) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and check the header.

    Args:
        file: The open file.

    Returns:
        The tensors by name, not read, and the document (config, step ...) that our own writer put beside them.

    Raises:
        CheckpointError: When the header is damaged or describes bytes outside the file.
    """
    header, data_start = _load_json(file)
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    is_dict = isinstance(metadata, dict)
    wrong = [value for value in metadata.values() if not isinstance(value, str)] if is_dict else [metadata]
    if wrong:
        msg = f"{file.path}: __metadata__ should hold strings by name, found {describe(wrong[0])}; save the file again"
        raise CheckpointError(msg)
    tensors: dict[str, Tensor] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        try:
            tensor, start = _read_entry(file, data_start, name, entry)
        except (KeyError, TypeError, ValueError) as error:
            reason = str(error)[:200]
            msg = f"{file.path}: {describe(name)}: entry not understood ({reason}); save the file again"
            raise CheckpointError(msg) from error
        tensors[name] = tensor
        ranges.append((start, start + tensor.nbytes, name))
    check_tensors(file.path, file.size, tensors)
    _check_cover(file, sorted(ranges), file.size - data_start)
    document = _document(file, metadata)
    if all(name.startswith(QUANTIZED_PREFIX) for name in tensors):
        tensors = {name.removeprefix(QUANTIZED_PREFIX): tensor for name, tensor in tensors.items()}
        document.setdefault(CONFIG, {})
    return tensors, document


def _read_entry(file: ReadableFile, data_start: int, name: str, entry: Any) -> tuple[Tensor, int]:
    """Return the tensor of one entry, and the offset of its bytes from the end of the header."""
    dtype = BY_SAFETENSORS[entry["dtype"]]
    shape = tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    numbers = (*shape, start, stop)
    if len(shape) > MAX_DIMENSIONS or not all(type(number) is int and 0 <= number <= MAX_NUMBER for number in numbers):
        msg = "sizes or offsets that no tensor has"
        raise ValueError(msg)
    tensor = Tensor.contiguous(FileStorage(file, data_start + start, stop - start, None, name), dtype, shape)
    fault = find_fault(tensor.storage, dtype, shape, tensor.stride, 0)
    if fault is None and (tensor.nbytes != stop - start or data_start + stop > file.size):
        fault = f"bytes {start} to {stop} for {dtype.name} of shape {list(shape)} in a file of {file.size} bytes"
    if fault is not None:
        raise ValueError(fault)
    return tensor, start


def _load_json(file: ReadableFile) -> tuple[dict[str, Any], int]:
    if file.size < _LENGTH:
        msg = f"{file.path}: {file.size} bytes are too few for a safetensors header; download it again"
        raise CheckpointError(msg)
    length = int.from_bytes(file.read(0, _LENGTH), "little")
    if length > min(_MAX_HEADER, file.size - _LENGTH):
        msg = f"{file.path}: a header of {length} bytes in a file of {file.size}; truncated or not a safetensors file"
        raise CheckpointError(msg)
    try:
        header = _parse(file.read(_LENGTH, length))
    except (ValueError, RecursionError) as error:
        msg = f"{file.path}: the safetensors header is not understood ({error}); download it again"
        raise CheckpointError(msg) from error
    return header, _LENGTH + length


def _parse(raw: bytes) -> dict[str, Any]:
    """Parse the header as the library does, which is stricter than `json`.

    Raises:
        ValueError, RecursionError: When the library would refuse it.
    """
    header = json.loads(
        raw.decode(),
        object_pairs_hook=_without_repeats,
        parse_constant=_refuse,
        parse_int=_integer,
        parse_float=_finite,
    )
    if not isinstance(header, dict):
        msg = "not a JSON object"
        raise ValueError(msg)
    if b"\\u" in raw:  # may be a lone surrogate, which UTF-8 cannot encode
        json.dumps(header, ensure_ascii=False).encode()
    level: list[Any] = [header]
    for _ in range(_MAX_DEPTH):
        level = [
            item
            for outer in level
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        _refuse("nested too deeply")
    return header


def _refuse(what: str) -> NoReturn:
    raise ValueError(what)


def _integer(digits: str) -> int:
    return _refuse(digits[:20]) if digits == "-0" or len(digits) > _MAX_DIGITS else int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits[:20])


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # readers differ in which of the two they use
        msg = "a name appears twice"
        raise ValueError(msg)
    return found


def _check_cover(file: ReadableFile, ranges: list[tuple[int, int, str]], data_size: int) -> None:
    position = 0
    for start, stop, name in ranges:
        if start != position:
            what = "overlap" if start < position else "leave a gap"
            msg = f"{file.path}: {name}: its bytes {what} at {start}, expected {position}; save the file again"
            raise CheckpointError(msg)
        position = stop
    if position != data_size:
        msg = f"{file.path}: {data_size} bytes of data, expected {position}; download it again"
        raise CheckpointError(msg)


def _document(file: ReadableFile, metadata: dict[str, str]) -> dict[str, Any]:
    if DOCUMENT_KEY not in metadata:
        return {}
    try:
        document = json.loads(metadata[DOCUMENT_KEY])
    except (ValueError, RecursionError):
        return {}  # metadata of another program under our key: no reason to refuse the file
    return to_plain(file.path, file.size, document) if isinstance(document, dict) else {}
