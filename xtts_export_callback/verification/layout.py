"""Verify that a folder or a ZIP is complete for a program: `verify_layout`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import CheckpointError, ConfigError
from xtts_export_callback.files.json_file import read_json_object, read_small_file
from xtts_export_callback.inference_folder.auralis import described_args, split_weights
from xtts_export_callback.inference_folder.layouts import CORE_WEIGHTS, GPT_WEIGHTS, Layout, remedy
from xtts_export_callback.inference_folder.ownership import folder_bytes
from xtts_export_callback.inference_folder.provenance import described_file
from xtts_export_callback.verification.archive import UNREADABLE, archive_faults, archived_sizes
from xtts_export_callback.verification.contents import content_faults
from xtts_export_callback.verification.faults import Fault, fault_for_each
from xtts_export_callback.verification.folder import weights_faults
from xtts_export_callback.verification.model import VerificationReport, verify_checkpoint
from xtts_export_callback.xtts.expected_shapes import expected_tensors
from xtts_export_callback.xtts.vocab import read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def verify_layout(
    path: Path, layout: Layout, *, load: bool = False, progress: Callable[[int], None] | None = None
) -> VerificationReport:
    """Verify that a program takes a folder or a ZIP, and that what it holds is whole.

    Args:
        path: What somebody has. It must exist.
        layout: What the program takes.
        load: As for `verify_checkpoint`.
        progress: As for `verify_checkpoint`.

    Returns:
        The report.

    Raises:
        CheckpointError: When permissions forbid reading the weights.
    """
    faults = list(_faults_of_files(path, layout))
    if layout.is_archive and not faults:
        faults += archive_faults(path, progress)
    if layout.is_archive or not path.is_dir():
        return VerificationReport(path, tuple(faults), nbytes=folder_bytes(path))
    if layout.is_plain and (path / "model.pth").is_file():
        report = verify_checkpoint(path, load=load, progress=progress)
        return VerificationReport(path, (*faults, *report.faults), report.notes, report.nbytes, report.tensors)
    if not layout.is_plain and not faults:
        faults += _faults_of_auralis(path, progress)
    return VerificationReport(path, tuple(faults), nbytes=folder_bytes(path))


def _faults_of_files(path: Path, layout: Layout) -> Iterator[Fault]:
    """Find files that are missing or empty."""
    if path.is_dir() == layout.is_archive:
        what, found = ("a ZIP", "a folder") if layout.is_archive else ("a folder", "a file")
        yield Fault("layout", f"{layout.program} takes {what}, found {found}; write it with --layout {layout.name}")
        return
    try:
        sizes = archived_sizes(path) if layout.is_archive else _beside(path, layout)
    except UNREADABLE as error:
        yield Fault("layout", f"cannot be read as a ZIP ({error}); write it anew with --layout {layout.name}")
        return
    name = path.stem if layout.is_archive else path.name
    for file in layout.missing(sizes, name):
        yield Fault("layout", f"{file} is missing, which {layout.program} needs; {remedy(layout, file)}")
    for file in layout.files:
        if sizes.get(file) == 0:
            yield Fault("layout", f"{file} is empty; {remedy(layout, file)}")


def _beside(folder: Path, layout: Layout) -> dict[str, int]:
    """Return the sizes of those files of a layout that are there."""
    paths = {file: folder / file for file in layout.files}
    return {file: path.stat().st_size for file, path in paths.items() if path.is_file()}


def _faults_of_auralis(folder: Path, progress: Callable[[int], None] | None) -> Iterator[Fault]:
    """Check both files of weights against the configs, as Auralis loads them strictly, and the tokenizer."""
    try:
        config = read_json_object(folder / "gpt/config.json")
        core_config = read_json_object(folder / "core_xttsv2/config.json")
        rows = read_vocabulary(read_small_file(folder / "gpt/tokenizer.json"), "gpt/tokenizer.json").size
    except ConfigError as error:
        yield Fault("layout", str(error))
        return
    if core_config.get("gpt_config") != config:
        yield Fault("layout", "gpt/config.json and gpt_config in core_xttsv2/config.json differ: one was edited")
    if rows != config.get("number_text_tokens"):
        yield Fault("layout", f"gpt/tokenizer.json has {rows} tokens, expected {config.get('number_text_tokens')}")
    try:
        expected = split_weights(expected_tensors(described_args(config, core_config), rows))
    except ValueError as error:
        yield Fault("layout", f"no XTTS can be built from gpt/config.json: {error}")
        return
    for name, shapes in zip((GPT_WEIGHTS, CORE_WEIGHTS), expected, strict=True):
        yield from _faults_of_weights(folder, name, shapes, progress)


def _faults_of_weights(
    folder: Path, name: str, expected: dict[str, tuple[int, ...]], progress: Callable[[int], None] | None
) -> Iterator[Fault]:
    try:
        with open_checkpoint(folder / name) as weights:
            found = {key: tensor.shape for key, tensor in weights.tensors.items()}
            described, digests = described_file(folder, name), dict[int, bytes]()
            yield from content_faults(weights, progress, digests)
            if described:
                yield from (Fault("provenance", each) for each in weights_faults(weights, name, described, digests))
    except CheckpointError as error:
        yield Fault("layout", str(error))
        return
    wrong = [
        f"{name}: {key} is {list(found[key]) if key in found else 'missing'}, the config asks for {list(shape)}"
        for key, shape in expected.items()
        if found.get(key) != shape and not (key not in found and key.endswith("num_batches_tracked"))
    ]
    wrong += [f"{name}: {key} is not part of the model" for key in found if key not in expected]
    yield from fault_for_each("layout", wrong, "tensors are not those that the config asks for")
