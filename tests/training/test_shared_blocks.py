"""Exports, rewritten checkpoints and best_model.pth share the blocks of a run's checkpoints, which count once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.models.file_systems import used_bytes
from tests.models.small_decoder import ARGS
from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import export_checkpoint, inspect_run, verify_checkpoint
from xtts_export_callback.files.disk import DiskSpace
from xtts_export_callback.files.paths import signature
from xtts_export_callback.inference_folder.ownership import folder_bytes
from xtts_export_callback.run.optimizer_state import rewrite_as_weights
from xtts_export_callback.run.retention import exports_bytes, prune_to, use_of
from xtts_export_callback.training.worker import perform

WIDE = {**ARGS, "gpt_n_model_channels": 192}
"""Matrices of several blocks."""

FEW = 0.1
"""Share of an export that is not cloned: here the tensors are small, and so are the blocks that they fill."""


@pytest.fixture
def run(cloning_folder: Path) -> Path:
    """Two checkpoints, each with its export."""
    for step in (1000, 2000):
        path = write_small(cloning_folder / f"checkpoint_{step}.pth", small_state(step, WIDE))
        export_checkpoint(path)
    subprocess.run(["sync", "-f", cloning_folder], check=True)
    return cloning_folder


@pytest.fixture
def checkpoint(run: Path) -> Path:
    return run / "checkpoint_1000.pth"


@pytest.fixture
def export(run: Path) -> Path:
    return run / "inference" / "checkpoint_1000"


def test_exports_take_next_to_nothing_beside_their_checkpoints(run: Path, export: Path) -> None:
    assert exports_bytes(run / "inference") < FEW * 2 * folder_bytes(export)


def test_an_export_counts_once_its_checkpoint_is_gone(run: Path, checkpoint: Path, export: Path) -> None:
    before = exports_bytes(run / "inference")
    checkpoint.unlink()
    assert exports_bytes(run / "inference") - before > (1 - FEW) * folder_bytes(export)


def test_an_export_is_whole_when_its_checkpoint_is_gone(checkpoint: Path, export: Path) -> None:
    checkpoint.unlink()
    assert verify_checkpoint(export).faults == ()


def test_no_export_goes_for_a_budget_that_it_would_not_help(run: Path, checkpoint: Path) -> None:
    assert prune_to(run / "inference", 0) == []
    checkpoint.unlink()
    assert prune_to(run / "inference", 0) == ["checkpoint_1000"]


def test_the_summary_counts_shared_blocks_as_the_checkpoints(run: Path, checkpoint: Path, export: Path) -> None:
    use = use_of(run, run / "inference", {"checkpoint": 1})
    assert use.checkpoints == 2 * checkpoint.stat().st_size
    assert use.exports < FEW * 2 * folder_bytes(export)


def test_a_report_on_the_run_counts_shared_blocks_once(run: Path, checkpoint: Path, export: Path) -> None:
    assert inspect_run(run).nbytes < 2 * checkpoint.stat().st_size + FEW * 2 * folder_bytes(export)


def test_removing_a_checkpoint_frees_what_its_export_does_not_share(run: Path, checkpoint: Path, export: Path) -> None:
    (removal,) = inspect_run(run).removals
    assert removal.path == checkpoint
    assert removal.nbytes == pytest.approx(checkpoint.stat().st_size - folder_bytes(export), rel=FEW)


def test_a_checkpoint_that_loses_its_optimizer_keeps_its_blocks(run: Path, checkpoint: Path, export: Path) -> None:
    freed = rewrite_as_weights(checkpoint, newest=run / "checkpoint_2000.pth")
    assert freed > 0
    assert exports_bytes(run / "inference") < 2 * FEW * 2 * folder_bytes(export)
    assert verify_checkpoint(checkpoint).faults == ()


def test_a_copy_of_the_best_model_takes_no_space_and_outlives_it(run: Path, checkpoint: Path) -> None:
    content, before = checkpoint.read_bytes(), used_bytes(run)
    copy = run / "best_model.pth"
    assert perform({"task": "copy", "source": str(checkpoint), "target": str(copy)})["ok"]
    assert used_bytes(run) - before < FEW * len(content)
    assert use_of(run, run / "inference", {}).checkpoints < (2 + FEW) * len(content)
    checkpoint.unlink()
    assert copy.read_bytes() == content


@pytest.mark.parametrize("is_changed", [False, True], ids=["as it was saved", "changed since"])
def test_a_source_is_trusted_only_while_it_is_as_the_training_saved_it(
    run: Path, checkpoint: Path, is_changed: bool
) -> None:
    before = list(signature(checkpoint))
    content = bytearray(checkpoint.read_bytes())
    name = b"/data/"
    content[content.index(name, len(content) // 10) - 2 * 4096] ^= 1  # within a matrix, far from its ends
    checkpoint.write_bytes(content)
    job = {"source": str(checkpoint), "known_as": str(checkpoint), "target": str(run / "again"), "stored": {}}
    done = perform({"task": "export", **job, "written_as": before if is_changed else list(signature(checkpoint))})
    assert done["ok"] is not is_changed
    assert ("checksum" in done.get("error", "")) is is_changed
    assert DiskSpace().of(run / "again") == 0 or not is_changed
