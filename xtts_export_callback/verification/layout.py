"""Verify that a folder or a ZIP is complete for a program: `verify_layout`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import CheckpointError, ConfigError
from xtts_export_callback.files.json_file import read_json_object, read_small_file
from xtts_export_callback.inference_folder.auralis import described_args, split_weights
from xtts_export_callback.inference_folder.layouts import CORE_WEIGHTS, GPT_WEIGHTS, Layout, remedy
from xtts_export_callback.inference_folder.ownership import folder_bytes
from xtts_export_callback.inference_folder.provenance import read_provenance, zip_errors
from xtts_export_callback.verification.archive import archive_findings, archived_sizes
from xtts_export_callback.verification.contents import content_faults
from xtts_export_callback.verification.faults import Fault, Findings, fault_for_each
from xtts_export_callback.verification.model import VerificationReport, verify_checkpoint
from xtts_export_callback.verification.provenance import FolderFiles, Weights, provenance_findings
from xtts_export_callback.xtts.expected_shapes import expected_tensors
from xtts_export_callback.xtts.vocab import read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xtts_export_callback.checkpoint.reader import Checkpoint


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
    if layout.is_plain and not layout.is_archive and (path / "model.pth").is_file():
        report = verify_checkpoint(path, load=load, progress=progress)
        return VerificationReport(path, (*faults, *report.faults), report.notes, report.nbytes, report.tensors)
    found: list[Fault | str] = []
    if not faults and layout.is_archive:
        found = list(archive_findings(path, layout, progress))
    elif not faults and not layout.is_plain:
        found = list(_auralis_findings(path, progress))
    faults += [item for item in found if isinstance(item, Fault)]
    notes = tuple(item for item in found if isinstance(item, str))
    return VerificationReport(path, tuple(faults), notes, folder_bytes(path))


def _faults_of_files(path: Path, layout: Layout) -> Iterator[Fault]:
    """Find files that are missing or empty."""
    if path.is_dir() == layout.is_archive:
        what, found = ("a ZIP", "a folder") if layout.is_archive else ("a folder", "a file")
        yield Fault("layout", f"{layout.program} takes {what}, found {found}; write it with --layout {layout.name}")
        return
    try:
        sizes = archived_sizes(path) if layout.is_archive else _beside(path, layout)
    except zip_errors() as error:
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


def _auralis_findings(folder: Path, progress: Callable[[int], None] | None) -> Findings:
    """Check both files of weights against the configs, as Auralis loads them strictly, and all with ``export.json``."""
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
    weights: dict[str, Weights | None] = {}
    with ExitStack() as stack:
        for name, shapes in zip((GPT_WEIGHTS, CORE_WEIGHTS), expected, strict=True):
            weights[name] = None
            try:
                checkpoint = stack.enter_context(open_checkpoint(folder / name))
            except CheckpointError as error:
                yield Fault("layout", str(error))
                continue
            one = weights[name] = Weights(checkpoint, {})
            yield from content_faults(checkpoint, progress, one.digests)
            yield from _differing_shapes(name, checkpoint, shapes)
        yield from provenance_findings(FolderFiles(folder), read_provenance(folder), weights)


def _differing_shapes(name: str, checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]]) -> Iterator[Fault]:
    found = {key: tensor.shape for key, tensor in checkpoint.tensors.items()}
    wrong = [
        f"{name}: {key} is {list(found[key]) if key in found else 'missing'}, the config asks for {list(shape)}"
        for key, shape in expected.items()
        if found.get(key) != shape and not (key not in found and key.endswith("num_batches_tracked"))
    ]
    wrong += [f"{name}: {key} is not part of the model" for key in found if key not in expected]
    yield from fault_for_each("layout", wrong, "tensors are not those that the config asks for")
