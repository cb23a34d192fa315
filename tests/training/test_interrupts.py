"""Ctrl-C and kill -9 in a training of its own process, at the worst moments."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.trainings import ctrl_c_exit_code, start_recipe
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.training.config import ExportConfig

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems"),
]

TIMEOUT = 180  # seconds

# An export that takes seconds, so that there is time to interrupt it.
SLOW_EXPORT = """
import sys
import xtts_export_callback.training.worker_client as worker_client
worker_client.COMMAND = (sys.executable, "-c", '''
import time
import xtts_export_callback.checkpoint.writer as write
write_job = write._write_job
def slow(*args):
    time.sleep(0.01)
    write_job(*args)
write._write_job = slow
from xtts_export_callback.training.worker import main
main()
''')
"""


@pytest.fixture
def recipe(tiny_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """A function that writes the config of a training that saves every 2 steps."""

    def write(**fields: Any) -> Path:
        config = tiny_config(
            save_step=2,
            save_n_checkpoints=2,
            num_loader_workers=1,  # in this process `XTTSDataset.__getitem__` takes Ctrl-C for a broken recording
            export=ExportConfig(enabled=True),
            **{"epochs": 100, **fields},
        )
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**config.to_dict(), "trainer_args": {"grad_accum_steps": 1}}))
        return path

    return write


def comes_true(condition: Callable[[], Any], process: subprocess.Popen[str], *, seconds: float) -> Any:
    """What a condition gives, once that is something; None when the process ends or the time is up before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None
        found = condition()
        if found or has_ended:
            return found
        time.sleep(0.01)
    return None


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    found = comes_true(condition, process, seconds=TIMEOUT)
    if not found:
        process.kill()
        pytest.fail(f"the training did not get there: {finish(process)[-3000:]}")
    return found


def start(config: Path, tmp_path: Path, *arguments: str, prelude: str = "") -> tuple[subprocess.Popen[str], Path]:
    """Start a training and return its process and its run folder."""
    output = Path(json.loads(config.read_text())["output_path"])
    process = start_recipe(config, *arguments, prelude=prelude)
    run = wait_for(lambda: next(iter(output.glob("tiny-*")), None), process)
    return process, run


def press_ctrl_c(process: subprocess.Popen[str], run: Path) -> None:
    """Press it, and again while there is no answer.

    In a `__del__`, such as that of a data loader, which waits for its workers, Python forgets it. These epochs are so
    short that a training on a busy machine spends much of its time there.
    """
    log = run / "trainer_0_log.txt"
    for _ in range(24):
        os.kill(process.pid, signal.SIGINT)
        if comes_true(lambda: "Keyboard interrupt detected" in log.read_text(), process, seconds=TIMEOUT / 24):
            return
    process.kill()
    pytest.fail(f"the training did not hear Ctrl-C: {finish(process)[-3000:]}")


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=TIMEOUT)
    return output


def numbers(paths: Any) -> set[int]:
    return {int(re.search(r"_(\d+)", path.name)[1]) for path in paths}  # type: ignore[index]


def check_exports(run: Path) -> set[int]:
    """Every visible export is whole, and nothing half-written is left. Returns the steps."""
    folder = run / "inference"
    exports = sorted(folder.glob("checkpoint_*"))
    for export in exports:
        with open_checkpoint(export) as checkpoint:
            for tensor in checkpoint.tensors.values():
                tensor.read()  # checks the checksum
    assert [entry.name for entry in folder.iterdir() if entry.name.startswith(".")] == []
    return numbers(exports)


def under_way(run: Path) -> Path | None:
    """The temporary folder of an export, once there is an older one: which comes second depends on the disk."""
    folder = run / "inference"
    if not any(folder.glob("checkpoint_*")):
        return None
    return next((path for path in folder.glob(".checkpoint_*.tmp-*") if path.is_dir()), None)


def name_of(temporary: Path) -> str:
    """What the export will be called."""
    return temporary.name[1:].partition(".")[0]


def helper_of(temporary: Path) -> int:
    """The process that writes it."""
    return int(temporary.name.split("-")[-2])


def test_ctrl_c_in_the_middle_of_an_epoch_exports_the_interrupts_checkpoint(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    process, run = start(recipe(), tmp_path)
    wait_for((run / "inference" / "checkpoint_4").exists, process)
    press_ctrl_c(process, run)
    output = finish(process)
    assert process.returncode == ctrl_c_exit_code(), output[-3000:]
    saved = numbers(run.glob("checkpoint_*.pth"))
    assert max(saved) >= 4
    assert saved <= check_exports(run), output[-3000:]


def test_ctrl_c_in_the_middle_of_an_export_leaves_nothing_half_written(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    process, run = start(recipe(), tmp_path, prelude=SLOW_EXPORT)
    name = name_of(wait_for(lambda: under_way(run), process))
    press_ctrl_c(process, run)
    output = finish(process)
    assert process.returncode == ctrl_c_exit_code(), output[-3000:]
    exported = check_exports(run)
    assert numbers([run / name]) <= exported
    assert numbers(run.glob("checkpoint_*.pth")) <= exported, output[-3000:]


def test_kill_during_an_export_then_continue_makes_up_for_it(recipe: Callable[..., Path], tmp_path: Path) -> None:
    config = recipe(epochs=3)
    process, run = start(config, tmp_path, prelude=SLOW_EXPORT)
    temporary = wait_for(lambda: under_way(run), process)
    os.killpg(process.pid, signal.SIGKILL)
    os.kill(helper_of(temporary), signal.SIGKILL)
    finish(process)
    assert not (run / "inference" / name_of(temporary)).exists()
    assert temporary.exists()
    (older,) = (run / "inference").glob("checkpoint_*")
    with open_checkpoint(older) as earlier:
        before = earlier.fingerprint()

    newest = max(numbers(run.glob("checkpoint_*.pth")))
    continued = start_recipe("--continue", run)
    output = finish(continued)
    assert continued.returncode == 0, output[-3000:]
    assert f"Model restored from step {newest}" in output
    assert f"GLOBAL_STEP: {newest + 1}" in output
    assert check_exports(run) >= numbers([older, *run.glob("checkpoint_*.pth")])
    with open_checkpoint(older) as earlier:
        assert earlier.fingerprint() == before


def test_an_export_under_way_is_finished_when_only_the_training_is_killed(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    process, run = start(recipe(), tmp_path, prelude=SLOW_EXPORT)
    temporary = wait_for(lambda: under_way(run), process)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    deadline = time.monotonic() + TIMEOUT
    while is_running(helper_of(temporary)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(helper_of(temporary))
    assert read_provenance(run / "inference" / name_of(temporary)) is not None
    assert not temporary.exists()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc/self").exists() else True


def test_a_second_ctrl_c_ends_the_wait_for_exports_cleanly(recipe: Callable[..., Path], tmp_path: Path) -> None:
    process, run = start(recipe(), tmp_path, prelude=SLOW_EXPORT.replace("0.02", "0.5"))  # takes a minute
    wait_for(lambda: next((run / "inference").glob(".checkpoint_2.tmp-*"), None), process)
    press_ctrl_c(process, run)
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGINT)
    output = finish(process)
    assert process.returncode == ctrl_c_exit_code(), output[-3000:]
    assert "resume the run to export it" in output
    assert check_exports(run) == set()
    assert numbers(run.glob("checkpoint_*.pth"))
