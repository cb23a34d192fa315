"""Verify that one file or inference folder is whole and usable: `verify_checkpoint`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.document import no_plain_tensor
from xtts_export_callback.checkpoint.reader import MODEL_NAMES, open_checkpoint
from xtts_export_callback.errors import CheckpointError, ConfigError
from xtts_export_callback.files.paths import as_path, is_there
from xtts_export_callback.files.remote import RemotePath
from xtts_export_callback.inference_folder.provenance import described_file
from xtts_export_callback.verification.contents import content_faults
from xtts_export_callback.verification.faults import Fault, Findings, Subject, fault_for_each
from xtts_export_callback.verification.folder import companion_faults, folder_faults, vocabulary_check
from xtts_export_callback.verification.weights_only import ALLOWED, load_faults, name_faults
from xtts_export_callback.verification.zip_directory import directory_faults
from xtts_export_callback.xtts.architecture import architecture_of
from xtts_export_callback.xtts.loadable import differences, guessed_args
from xtts_export_callback.xtts.model_config import known_config, model_args
from xtts_export_callback.xtts.state_dict import (
    OLDER_NAMES,
    TEXT_EMBEDDING,
    bare_name,
    dropped_component,
    unreadable_weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_NOTES = 10
_NO_HEADERS = (
    "the file lies behind a URL: what the zip directory says was not compared with the header of each record, as that "
    "would read the file twice; verify a copy on this disk for it"
)


@dataclass(frozen=True)
class VerificationReport:
    """What verification found in a file or a folder.

    Attributes:
        path: What was verified.
        faults: Everything that is wrong, in the order of the checks; empty when nothing is.
        notes: What could not be checked, and what is worth knowing.
        nbytes: Size of the file with the weights.
        tensors: Number of tensors of the model in it; 0 where it cannot be opened.
    """

    path: Path
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()
    nbytes: int = 0
    tensors: int = 0

    @property
    def is_fine(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "path": str(self.path),
            "fine": self.is_fine,
            "faults": [fault._asdict() for fault in self.faults],
            "notes": list(self.notes),
            "bytes": self.nbytes,
            "tensors": self.tensors,
        }


def verify_checkpoint(
    path: str | os.PathLike[str], *, load: bool = False, progress: Callable[[int], None] | None = None
) -> VerificationReport:
    """Verify that a file or an inference folder is whole and usable. Reads every byte once and runs no model.

    Args:
        path: A checkpoint of any kind, or an inference folder.
        load: Load the file with ``torch.load(weights_only=True)`` too, which imports torch.
        progress: Called with the number of bytes read since the last call, from any thread.

    Returns:
        The report. A file that cannot be opened at all is a fault, not an error.

    Raises:
        CheckpointError: When permissions forbid reading the file, which says nothing about its contents.
        ConfigError: When there is no such file or folder.

    Example:
        >>> verify_checkpoint("run/inference/checkpoint_1000").is_fine
        True
    """
    path = as_path(path)
    if not is_there(path):
        msg = f"{path}: no such file or folder; check the path"
        raise ConfigError(msg)
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        message = str(error).removeprefix(f"{path}: ")
        return VerificationReport(path, (Fault("file", message),), nbytes=path.stat().st_size if path.is_file() else 0)
    with checkpoint:
        tensors = {bare_name(name): tensor for name, tensor in checkpoint.tensors.items()}
        subject = Subject(path, checkpoint, tensors, load=load, progress=progress)
        found = [item for check in _CHECKS for item in check(subject)]
    faults = tuple(item for item in found if isinstance(item, Fault))
    notes = tuple(item for item in found if isinstance(item, str))
    return VerificationReport(path, faults, notes, checkpoint.nbytes, len(checkpoint.tensors))


def _weights(subject: Subject) -> Findings:
    """Find inference weights that are not plain tensors, and note other entries that are not read."""
    unreadable = unreadable_weights(subject.checkpoint)
    for name, found in unreadable.items():
        yield Fault("file", no_plain_tensor(name, found))
    for name, found in list(subject.checkpoint.others.items())[:_MOST_NOTES]:
        if name not in unreadable:
            yield f"{name} is {found}, which is not read: inference does not need it"


def _directory(subject: Subject) -> Findings:
    if subject.checkpoint.format == "pth" and subject.checkpoint.file is not None:
        if isinstance(subject.path, RemotePath):
            yield _NO_HEADERS
            return
        for message in directory_faults(subject.checkpoint.file):
            yield Fault("directory", message)


def _contents(subject: Subject) -> Findings:
    described = described_file(subject.checkpoint.path.parent, subject.checkpoint.path.name)
    if not subject.checkpoint.has_checksums and "fingerprint" not in described:
        yield "the file holds no checksums: damage that leaves its numbers finite cannot be found"
    digests = subject.digests if "blake3" in described else None
    yield from content_faults(subject.checkpoint, subject.progress, digests)


def _tensors(subject: Subject) -> Findings:
    """Compare the tensors with the architecture in the file's own config, or in the one beside it."""
    tensors = subject.tensors
    older = sum(name.endswith(OLDER_NAMES) for name in subject.checkpoint.tensors)
    if older:
        yield f"{older} weights have the names of older PyTorch (weight_g, weight_v), which loading renames"
    if TEXT_EMBEDDING not in tensors and not any(name.startswith("gpt.") for name in tensors):
        yield Fault("tensors", f"not an XTTS v2 model: none of its {len(tensors)} tensors belongs to a GPT")
        return
    speaking = {name: tensor for name, tensor in tensors.items() if dropped_component(name) is None}
    args = model_args(known_config(subject.checkpoint))
    if not args:
        yield "no config in the file or beside it: its tensors were checked against their own shapes"
        args = {**guessed_args(speaking), "gpt_n_heads": 1}  # no shape shows the heads
    rows = args.get("gpt_number_text_tokens") or architecture_of(speaking).text_tokens or 0
    try:
        found = differences(speaking, args, rows)
    except ValueError as error:
        yield Fault("tensors", f"config: {error}")
        return
    missing = [f"{name} is missing" for name in found.missing]
    extra = [f"{name} is not part of the model that the config describes" for name in found.extra]
    reshaped = [
        f"{name} is {list(speaking[name].shape)}, the config asks for {list(shape)}"
        for name, shape in found.reshaped.items()
    ]
    yield from fault_for_each("tensors", missing, "tensors are missing")
    yield from fault_for_each("tensors", extra, "tensors are not part of the model that the config describes")
    yield from fault_for_each("tensors", reshaped, "tensors have another shape than the config asks for")


def _folder(subject: Subject) -> Findings:
    if subject.checkpoint.path.name in MODEL_NAMES or subject.path.is_dir():
        yield from folder_faults(subject.checkpoint, subject.digests)
        yield from companion_faults(subject.checkpoint.path.parent, ALLOWED)


def _torch_load(subject: Subject) -> Findings:
    if subject.load and subject.checkpoint.format != "safetensors":
        yield from load_faults(subject.checkpoint.path, mmap=subject.checkpoint.format == "pth")


_CHECKS: tuple[Callable[[Subject], Findings], ...] = (
    *(_weights, _directory, _contents, _tensors, name_faults),
    *(vocabulary_check, _folder, _torch_load),
)
