"""The helper process that exports while training goes on: one job per line on stdin, one answer per line on stdout.

Jobs and answers carry a number, so that text printed to stdout as Python starts is not taken for an answer.

It imports numpy and the standard library, neither torch nor Coqui, so that it starts in a quarter of a second and stays
small. It runs in a session of its own, which the terminal's Ctrl-C does not reach; when the training is gone it
finishes the current job and ends.

`worker_client.COMMAND` starts it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import CheckpointError, OutputExistsError, XttsExportError
from xtts_export_callback.export.export import export_opened
from xtts_export_callback.files.atomic import whole_file
from xtts_export_callback.files.clone import clone_range
from xtts_export_callback.files.paths import signature
from xtts_export_callback.files.random_access import Moved, RandomFile
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.process import prepare_process
from xtts_export_callback.run.checkpoints import find_checkpoints
from xtts_export_callback.run.optimizer_state import rewrite_as_weights
from xtts_export_callback.tensors.tensor import FileStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xtts_export_callback.checkpoint import Checkpoint

_NICE = 5  # training comes first
_POLL = 1.0  # seconds
_BEAT = 1.0  # seconds between two signs of progress
_PRIVATE = 0o600


def export(
    *,
    source: str,
    known_as: str,
    target: str,
    stored: dict[str, Any],
    trained_in: str | None = None,
    written_as: list[int] | None = None,
    layout: str | None = None,
    voice: str | None = None,
) -> dict[str, Any]:
    """Export one checkpoint.

    Args:
        source: The file to read, which may be a link held against the Trainer's retention.
        known_as: Where the Trainer saved it.
        target: The folder to write. Only an export of ours is ever replaced: a resumed run saves some steps a
            second time.
        stored: ``dtype``, ``precision`` and ``format``, as for `export_checkpoint`.
        trained_in: The working directory of the training.
        written_as: The `signature` of the source when this training had written it; if it is the same now, what it
            shares with the export is not read to compare checksums that were taken of these bytes a moment ago.
        layout: As for `export_checkpoint`.
        voice: As for `export_checkpoint`; its latents need torch and Coqui, so that the helper gets none.

    Returns:
        ``nbytes``, ``notes`` and ``written``: False if the same export existed already.
    """
    options: dict[str, Any] = {**stored, "layout": layout, "voice": voice}
    options["trained_in"] = Path(trained_in) if trained_in else None
    with open_checkpoint(source, known_as=Path(known_as)) as checkpoint:
        if written_as is not None and list(signature(Path(source))) == written_as:
            _trust(checkpoint)
        try:
            written = export_opened(checkpoint, Path(target), **options)
        except OutputExistsError:
            if read_provenance(Path(target)) is None:
                raise
            written = export_opened(checkpoint, Path(target), force=True, **options)
    return {"nbytes": written.nbytes, "written": written.written, "notes": written.notes}


def _trust(checkpoint: Checkpoint) -> None:
    for tensor in checkpoint.stored.values():
        if isinstance(tensor.storage, FileStorage):
            tensor.storage.is_verified = True


def average(
    *,
    sources: list[str],
    target: str,
    stored: dict[str, Any],
    vocab: str | None = None,
    layout: str | None = None,
    voice: str | None = None,
) -> dict[str, Any]:
    """Average checkpoints or exports; the arguments are those of `average_checkpoints` and `export`."""
    from xtts_export_callback.merge.average import average_checkpoints

    is_ours = read_provenance(Path(target)) is not None
    written = average_checkpoints(sources, target, **stored, vocab=vocab, layout=layout, voice=voice, force=is_ours)
    return {"nbytes": written.nbytes, "written": written.written, "notes": written.notes}


def running_mean(
    *, source: str, known_as: str, window: str, target: str, stored: dict[str, Any], trained_in: str | None = None
) -> dict[str, Any]:
    """Export the running mean at a checkpoint; ``window`` is its file, the other arguments are those of `export`."""
    from xtts_export_callback.merge.running_mean import write_running_mean

    written = write_running_mean(
        source,
        [window],
        Path(target),
        known_as=Path(known_as),
        **stored,
        trained_in=Path(trained_in) if trained_in else None,
        force=read_provenance(Path(target)) is not None,
    )
    return {"nbytes": written.nbytes, "written": written.written, "notes": written.notes}


def copy(*, source: str, target: str) -> dict[str, Any]:
    """Copy a file, with its mode and owner, so that the copy appears whole and replaces an existing file.

    Where the file system can share blocks, the copy takes no space.
    """
    with (
        whole_file(Path(target), force=True, like=Path(source)) as temporary,
        RandomFile(Path(source)) as file,
        RandomFile(temporary, create=True, mode=_PRIVATE) as out,
    ):
        step = 8 << 20  # otherwise the system would keep gigabytes for the last sync
        if not clone_range(out, 0, file, 0, file.size):
            for start in range(0, file.size, step):
                out.copy_range_from(file, start, start, min(step, file.size - start))
                out.start_sync()
        out.sync()
        return {"nbytes": out.size}


def drop_optimizer(*, run: str, keep: int) -> dict[str, Any]:
    """Rewrite all but the newest checkpoints of a run as weights.

    Mode and owner of the files stay unchanged, and so do links and their targets.

    Args:
        run: The run folder.
        keep: How many keep their optimizer state.

    Returns:
        ``names`` of the files that were rewritten, and ``freed``, in bytes.

    Raises:
        CheckpointError: When the newest checkpoint is not whole; then nothing is rewritten.
    """
    checkpoints = [saved.path for saved in find_checkpoints(Path(run)) if saved.kind == "checkpoint"]
    names, freed = [], 0
    for path in checkpoints[:-keep]:
        if path.is_symlink():
            continue  # a file elsewhere may be in use there
        try:
            saved = rewrite_as_weights(path, newest=checkpoints[-1])
        except (CheckpointError, OSError):
            if path.exists():
                raise
            continue  # removed by the Trainer's retention meanwhile
        if saved:
            names.append(path.name)
            freed += saved
    return {"names": names, "freed": freed}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "export": export,
    "average": average,
    "running_mean": running_mean,
    "copy": copy,
    "drop_optimizer": drop_optimizer,
}


def perform(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job.

    Args:
        job: ``task``, a name in `TASKS`, and its arguments.

    Returns:
        ``ok`` and what the task gave, or ``error`` in one line.
    """
    arguments = dict(job)
    task = TASKS[arguments.pop("task")]
    try:
        return {"ok": True, **task(**arguments)}
    except XttsExportError as error:
        return {"ok": False, "error": str(error)}
    except Exception as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Do jobs until no process is left to send one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    if hasattr(os, "nice"):
        os.nice(_NICE)
    prepare_process()
    answers = _Answers(os.dup(1))
    os.dup2(2, 1)  # keeps other output apart from the answers
    sys.stdout = sys.stderr
    threading.Thread(target=answers.report_progress, name="xtts-export-progress", daemon=True).start()
    # A job is finished whether the training still listens or not.
    with contextlib.suppress(BrokenPipeError):
        for line in _lines():
            job = json.loads(line)
            answers.job = job.pop("job")
            answers.send({"ok": False, **perform(job)})
    os._exit(0)  # closing a broken pipe would complain


class _Answers:
    """Sends the answers to the training: a line per job with its number, and lines that report progress before it."""

    def __init__(self, fd: int) -> None:
        self.job = 0
        self._fd = fd
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        # Output printed as Python started may have left half a line in the pipe.
        rest = b"\n" + json.dumps({"job": self.job, **message}).encode() + b"\n"
        with self._lock:
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def report_progress(self) -> None:
        """Report the bytes moved while their number grows: the training waits for a slow disk, not for a dead one."""
        told = -1
        with contextlib.suppress(OSError):  # the training is gone
            while True:
                if told != Moved.nbytes:
                    told = Moved.nbytes
                    self.send({"moved": told})
                time.sleep(_BEAT)


def _lines() -> Iterator[bytes]:
    if sys.platform == "win32":
        yield from sys.stdin.buffer
        return
    # A process forked by the training, such as a data loader, also holds the pipe and keeps it open.
    import select

    parent = os.getppid()
    fd = sys.stdin.fileno()
    pending = b""
    while True:
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            yield line
        if not select.select([fd], [], [], _POLL)[0]:
            if os.getppid() != parent:
                return
            continue
        received = os.read(fd, 1 << 16)
        if not received:
            return
        pending += received


def _end(number: int, _frame: Any) -> NoReturn:
    sys.exit(128 + number)  # exiting this way cleans up
