"""Write a file of weights, quantized or not, and say what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import open_checkpoint, write_pth, write_safetensors
from xtts_export_callback.checkpoint.fingerprint import content_digest, fingerprint
from xtts_export_callback.checkpoint.quantized import CONFIG, QUANTIZED_MODEL, quantization_config, scale_name
from xtts_export_callback.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from xtts_export_callback.checkpoint.writer import Progress
    from xtts_export_callback.tensors.tensor import Tensor


def quantized_weights(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the weights in int8, which have their scales beside them."""
    return [name for name in tensors if scale_name(name) in tensors]


def write_weights(
    path: Path,
    tensors: dict[str, Tensor],
    document: dict[str, Any],
    *,
    hashed: bool,
    mode: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a ``.pth`` or a ``.safetensors``, and open it to prove that it can be opened.

    Args:
        path: The file to write.
        tensors: The model, as it is stored: see `export.precision.store`.
        document: What else goes into it.
        hashed: Hash the bytes of the tensors too.
        mode: Permissions of the file.
        progress: Called with the number of bytes written since the last call.

    Returns:
        ``bytes``, ``fingerprint`` (`Checkpoint.fingerprint`) and, if asked for, ``blake3`` (`content_digest`). For
        these no tensor is read again: ``blake3`` is missing where none was read in the first place, because the file
        shares its blocks with a checkpoint that was written a moment ago.

    Raises:
        VerificationError: When other tensors are found in it.
        CheckpointError, OutputExistsError, OSError: As `write_pth`.
    """
    quantized = quantized_weights(tensors)
    if quantized:
        document = {**document, CONFIG: quantization_config(quantized)}
    key = QUANTIZED_MODEL if quantized else "model"
    checksums: dict[str, int] = {}
    digests: dict[int, bytes] | None = {} if hashed else None
    if path.suffix == ".pth":
        write_pth(path, {key: tensors, **document}, mode=mode, progress=progress, digests=digests)
    else:
        prefix = f"{key}." if quantized else ""
        named = {prefix + name: tensor for name, tensor in tensors.items()}
        found = write_safetensors(path, named, document, mode=mode, progress=progress, digests=digests)
        checksums = {name.removeprefix(prefix): crc for name, crc in found.items()}
    with open_checkpoint(path) as written:
        if _described(written.stored) != _described(tensors):
            msg = f"{path}: the tensors read back differ from those written; check the disk"
            raise VerificationError(msg)
        described = {"bytes": written.nbytes, "fingerprint": fingerprint(written.stored, checksums)}
        content = content_digest(written.stored, digests) if digests else None
    return described | ({"blake3": content} if content else {})


def _described(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (tensor.dtype.name, tensor.shape) for name, tensor in tensors.items()}
