"""Where faults strike: before, during and after each write, in the training and in the helper process.

A process that gets there writes down where it is and waits until the fault has been done to it, so that every fault
strikes at exactly the point it is meant for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHASES = ("before", "during", "after")
SAVES = ("checkpoint", "best_model")
"""Writes of the training process; by the start of the file's name."""
TASKS = ("export", "copy", "drop_optimizer", "average")
"""Writes of the helper, by task."""

_WAIT = 60.0  # seconds
_PACE = 0.25  # seconds between saves, so that the exports of the light model keep up


class Point:
    """One point: the second time that a write comes by, so that there is something older to lose.

    Attributes:
        write: One of `SAVES` or `TASKS`.
        phase: One of `PHASES`.
        folder: Where process and campaign leave each other notes.
    """

    def __init__(self, write: str, phase: str, folder: Path) -> None:
        self.write, self.phase, self.folder = write, phase, folder
        self._count = 0

    @property
    def reached(self) -> Path:
        """Exists once a process is at the point; holds its process id and the name of the file it writes."""
        return self.folder / "reached"

    @property
    def done(self) -> Path:
        """Exists once the fault has been done."""
        return self.folder / "done"

    def begin(self, write: str) -> None:
        """A write begins."""
        if write == self.write:
            self._count += 1

    def at(self, write: str, phase: str, name: str) -> None:
        """Wait here if this is the point."""
        is_due = self._count >= (1 if write in ("average", "drop_optimizer", "copy") else 2)
        if write != self.write or phase != self.phase or not is_due or self.reached.exists():
            return
        note = self.folder / "note"
        note.write_text(json.dumps({"pid": os.getpid(), "name": name}))
        note.rename(self.reached)
        deadline = time.monotonic() + _WAIT
        while not self.done.exists() and time.monotonic() < deadline:
            time.sleep(0.005)


def arm_training(point: Point) -> None:
    """Have a training process stop at the point, and its helper as well."""
    import torch

    from xtts_export_callback.training import saving, worker_client

    worker_client.COMMAND = (sys.executable, "-m", "tests.faults.points", point.write, point.phase, str(point.folder))
    save, write = saving.TrainerSaves._save, torch.save

    def save_at_point(self: Any, write_function: Any, state: Any, path: Any, options: Any) -> None:
        kind = Path(path).stem.rpartition("_")[0]
        point.begin(kind)
        point.at(kind, "before", Path(path).name)
        save(self, write_function, state, path, options)
        time.sleep(_PACE)
        point.at(kind, "after", Path(path).name)

    def write_at_point(state: Any, file: Any, **options: Any) -> None:
        kind = "checkpoint" if "checkpoint" in str(getattr(file, "name", "")) else "best_model"
        write(state, _HalfWritten(file, point, kind, f"{kind}_{state['step']}.pth"), **options)

    saving.TrainerSaves._save = save_at_point  # type: ignore[method-assign]
    torch.save = write_at_point


class _HalfWritten:
    """A file that stops at the point within torch's writer, with some of it written."""

    def __init__(self, file: Any, point: Point, kind: str, name: str) -> None:
        self._file, self._point, self._kind, self._name = file, point, kind, name
        self._writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        self._writes += 1
        if self._writes == 10:
            self._file.flush()
            self._point.at(self._kind, "during", self._name)
        return int(self._file.write(data))


def arm_helper(point: Point) -> None:
    """Have the helper process stop at the point."""
    from xtts_export_callback.checkpoint import writer
    from xtts_export_callback.files.random_access import RandomFile
    from xtts_export_callback.training import worker

    at_work: list[str] = []
    name: list[str] = [""]

    def stopping(task: str, function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def run(**arguments: Any) -> dict[str, Any]:
            name[0] = Path(str(arguments.get("target", ""))).name
            point.begin(task)
            point.at(task, "before", name[0])
            at_work.append(task)
            try:
                result = function(**arguments)
            finally:
                at_work.pop()
            point.at(task, "after", name[0])
            return result

        return run

    for task, function in list(worker.TASKS.items()):
        worker.TASKS[task] = stopping(task, function)

    verify, start_sync, sync = writer._verify_job, RandomFile.start_sync, RandomFile.sync

    def verify_at_point(*arguments: Any) -> None:  # something is written, nothing has its name
        if at_work:
            point.at(at_work[-1], "during", name[0])
        verify(*arguments)

    def start_sync_at_point(self: RandomFile) -> None:
        if at_work and at_work[-1] == "copy":
            point.at("copy", "during", name[0])
        start_sync(self)

    def sync_at_point(self: RandomFile) -> None:
        if at_work and at_work[-1] == "copy":  # all at once where the copy is a clone
            point.at("copy", "during", name[0])
        sync(self)

    writer._verify_job = verify_at_point
    RandomFile.start_sync, RandomFile.sync = start_sync_at_point, sync_at_point  # type: ignore[method-assign]


if __name__ == "__main__":
    from tests.models.small_decoder import small_decoder
    from xtts_export_callback.training.worker import main

    arm_helper(Point(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
    with small_decoder():
        main()
