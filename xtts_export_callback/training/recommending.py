"""Has the best model of a run chosen when training ends, in a process of its own that training outlives.

The process builds a model and loads Coqui, so it is not the helper (`worker`), which must stay small. Beside it the
training keeps its weights and the moments of the optimizer; gradients and what torch has cached are freed first. Where
the card still has too little memory, the CPU measures.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xtts_export_callback.errors import XttsExportError
from xtts_export_callback.files.atomic import remove_leftovers
from xtts_export_callback.run.log import training_logger
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    from xtts_export_callback.training.config import ExportConfig

logger = training_logger()

RECOMMENDED = "recommended"
"""Name of its folder in the folder of exports."""

SECONDS = 30 * 60.0
"""When the process measures no further model. The help of the option ``recommend`` states it."""

GRACE = 5 * 60.0
"""Seconds after that for the pass that is under way and the writing; then the process is ended."""

_PATIENCE = 10.0  # seconds that the process may take to clean up
_POLL = 1.0  # seconds
# The search path is that of the training, which its script may have extended, but nothing is imported before it is set.
_START = (
    "import sys; sys.path[:] = [*filter(None, sys.path)]; import json; job = json.loads(sys.stdin.readline()); "
    "sys.path[:] = job.pop('search'); from xtts_export_callback.training.recommending import main; main(job)"
)
COMMAND = (sys.executable, "-c", _START)
"""The command that starts the process."""

_BY_HAND = "measure the models with: xtts-export evaluate RUN --greedy"


class _EvaluationError(XttsExportError):
    """The process could not recommend a model."""


def recommend_model(trainer: Any, options: ExportConfig, trained_in: str | None = None) -> None:
    """Have the model with the lowest evaluation loss written to ``recommended``, and wait for it.

    Ctrl-C skips it, and training ends as without it.

    Args:
        trainer: The Trainer, whose evaluation split decides.
        options: Those of the export.
        trained_in: The working directory of the training.

    Raises:
        XttsExportError: When it fails, with the reason in one line.
    """
    samples = getattr(trainer, "eval_samples", None)
    if not samples:
        msg = f"the training has no evaluation split to measure models on; {_BY_HAND} --data FILE"
        raise _EvaluationError(msg)
    target = Path(trainer.output_path).absolute() / options.folder / RECOMMENDED
    job = {
        "run": str(target.parents[1]),
        "target": str(target),
        "samples": samples,
        "stored": options.stored,
        "seconds": SECONDS,
        "trained_in": trained_in,
        "search": sys.path,
        "parent": os.getpid(),
    }
    _free_memory(trainer)
    line = " > EXPORT : choosing the model to recommend by its evaluation loss, in at most %i min; Ctrl-C skips it"
    logger.info(line, round(SECONDS / 60))
    started = time.perf_counter()
    try:
        answer = _answer_to(job)
    except KeyboardInterrupt:
        logger.warning(" ! EXPORT : no model is recommended: interrupted; %s", _BY_HAND)
        return
    finally:
        remove_leftovers(target.parent)
    if not answer["written"]:
        logger.info(" > EXPORT : %s stays as it is. %s", target, answer["reason"])
        return
    size, seconds = human_size(answer["nbytes"]), time.perf_counter() - started
    logger.info(" > EXPORT : %s is %s (%s in %.1f s). %s", target, answer["model"], size, seconds, answer["reason"])


def _free_memory(trainer: Any) -> None:
    """Free what training no longer needs. Weights and moments stay, which a script may use after the training."""
    import torch

    with contextlib.suppress(Exception):  # a model of unusual kind
        trainer.model.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no card was used


def _answer_to(job: dict[str, Any]) -> dict[str, Any]:
    line = json.dumps(job, default=str).encode() + b"\n"
    process = subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal is for the training
    )
    try:
        out, errors = process.communicate(line, timeout=job["seconds"] + GRACE)
    except subprocess.TimeoutExpired as error:
        msg = f"it took longer than {job['seconds'] + GRACE:g} s and was ended; {_BY_HAND}"
        raise _EvaluationError(msg) from error
    finally:
        _end(process)
    answer: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        answer = json.loads(out)
    if not answer:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        msg = f"its process ended with exit code {process.returncode}{''.join(f': {text}' for text in last)}"
        raise _EvaluationError(msg)
    if "error" in answer:
        raise _EvaluationError(answer["error"])
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process, if it still runs, and the data loaders that it started."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    with contextlib.suppress(OSError):
        if sys.platform != "win32":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):  # no process is left to read what is flushed
                pipe.close()


# In the process


def main(job: dict[str, Any]) -> None:
    """Choose and write the model, and print the answer as JSON: what `recommend` returns, or ``error`` in one line.

    Args:
        job: Arguments of `recommend`, plain values, and the id of the training's process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit)
    parent = job.pop("parent")
    threading.Thread(target=_end_with, args=(parent,), name="xtts-export-parent", daemon=True).start()
    answers = os.dup(1)
    os.dup2(2, 1)  # keeps what Coqui prints apart from the answer
    sys.stdout = sys.stderr
    try:
        answer = _recommend(job)
    except XttsExportError as error:
        answer = {"error": str(error)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split()):.300}"}
    os.write(answers, json.dumps(answer).encode())


def _recommend(job: dict[str, Any]) -> dict[str, Any]:
    from xtts_export_callback.evaluation.recommend import recommend

    run, target, trained_in = (Path(path) if path else None for path in map(job.pop, ("run", "target", "trained_in")))
    assert run is not None and target is not None
    started = time.monotonic()
    try:
        return recommend(run, target, trained_in=trained_in, **job)
    except Exception as error:
        if "CUDA out of memory" not in str(error):
            raise
    job["seconds"] -= time.monotonic() - started
    return recommend(run, target, trained_in=trained_in, device="cpu", **job)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:  # on Windows it stays the same for ever
        time.sleep(_POLL)
    os.kill(os.getpid(), signal.SIGTERM)


def _exit(number: int, _frame: Any) -> NoReturn:
    sys.exit(128 + number)  # exiting this way cleans up
