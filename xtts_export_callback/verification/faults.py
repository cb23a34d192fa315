"""The checks and what they find: faults, and notes as plain text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xtts_export_callback.checkpoint.fingerprint import Digests
    from xtts_export_callback.checkpoint.reader import Checkpoint
    from xtts_export_callback.tensors.tensor import Tensor

CHECKS = {
    "file": "the file can be opened: it ends where its directory says, and its structure is whole",
    "directory": "the zip directory agrees with the header of each record",
    "checksums": "every record matches its checksum in the directory",
    "values": "no NaN, no infinity",
    "tensors": "names and shapes are those that the config asks for",
    "weights_only": "torch.load(weights_only=True) accepts every name and opcode in it; with --load, it loads the file",
    "config": "config.json can be read",
    "vocabulary": "vocab.json has as many tokens as the text embedding has rows",
    "companions": "speakers_xtts.pth, mel_stats.pth and dvae.pth hold voices, mel statistics and a DVAE",
    "provenance": "the folder's files match their SHA-256 in export.json, the weights their BLAKE3 or their checksums",
    "layout": "with --layout: the program finds every file that it needs",
    "resume": "the next resume picks files that can be resumed from",
}
"""The checks, in the order in which they run."""


class Fault(NamedTuple):
    """Something that is wrong.

    Attributes:
        check: A key of `CHECKS`.
        message: What is wrong, and what to do where that is not obvious.
    """

    check: str
    message: str


@dataclass(frozen=True)
class Subject:
    """What the checks examine.

    Attributes:
        path: The file or folder as it was named.
        checkpoint: The weights, open.
        tensors: Its tensors by bare names.
        load: Whether to load the file with torch too.
        progress: Called with the number of bytes read since the last call, from any thread.
        digests: BLAKE3 of the storages, once they are read, where `export.json` holds one to compare with.
    """

    path: Path
    checkpoint: Checkpoint
    tensors: dict[str, Tensor]
    load: bool = False
    progress: Callable[[int], None] | None = None
    digests: Digests = field(default_factory=dict)


Findings: TypeAlias = "Iterator[Fault | str]"
"""What a check yields: faults, and notes as text."""

_LISTED = 20


def fault_for_each(check: str, items: list[str], what: str) -> list[Fault]:
    """Return a fault for each of a few items, or one fault for many, because hundreds of lines do not help."""
    if len(items) <= _LISTED:
        return [Fault(check, item) for item in items]
    return [Fault(check, f"{len(items)} {what}, such as: {items[0]}; {items[1]}; {items[2]}")]
