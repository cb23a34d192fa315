"""A campaign of faults: every fault at every point of every write of a real training, and what is left afterwards.

    python -m tests.faults.campaign [--cases N] [--seed S] [--dir DIR] [--only FAULT] [--file-system KIND]

Linux only; needs the right to mount a small file system for "no space", which is made in a file otherwise left out.
Every case trains a light model under the real Trainer in a process of its own, does the fault, checks what is there,
then continues the run to its end and checks again.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.files import SMALL_ARGS
from tests.faults.points import PHASES, SAVES, TASKS, Point, arm_training
from tests.models.file_systems import CLONING, SMALLEST, mounted
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import XttsExportError
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.run.checkpoints import find_checkpoints, find_exports

OPTIONS = {"enabled": True, "average_last": 2, "keep_optimizer_for": 1}
TRAINING = {"epochs": 2, "save_step": 2, "save_n_checkpoints": 2}
_LAST_SAVE = 6
_TIMEOUT = 120.0  # seconds
_WIDE = 192  # channels with which matrices have blocks to share
_ROOM = 640 << 20  # bytes that a case then takes


class Fault(NamedTuple):
    """What is done when a process has reached a point.

    Attributes:
        do: Does it, and returns what undoes it.
        loses_exports: Whether the fault itself takes older exports away.
        exit_code: How the training has to end.
        saves: Whether the training is told to save and export when the fault is done to it.
    """

    do: Callable[[Case], Callable[[], None]]
    loses_exports: bool = False
    exit_code: int = 0
    saves: bool = False


class Case(NamedTuple):
    """One case under way."""

    folder: Path
    trainer: int
    process: int
    name: str

    @property
    def run(self) -> Path:
        """The run folder."""
        return next(self.folder.glob("out/light-*"))

    @property
    def exports(self) -> Path:
        """The folder of exports."""
        return self.run / "inference"


def _nothing() -> None:
    pass


def kill_training(case: Case) -> Callable[[], None]:
    os.kill(case.trainer, signal.SIGKILL)
    return _nothing


def kill_everything(case: Case) -> Callable[[], None]:
    for pid in {case.trainer, *helpers_of(case.trainer)}:
        os.kill(pid, signal.SIGKILL)
    return _nothing


def kill_helper(case: Case) -> Callable[[], None]:
    for pid in helpers_of(case.trainer):
        os.kill(pid, signal.SIGKILL)
    return _nothing


def terminate_training(case: Case) -> Callable[[], None]:
    os.kill(case.trainer, signal.SIGTERM)
    return _nothing


def ctrl_c(case: Case) -> Callable[[], None]:
    os.kill(case.trainer, signal.SIGINT)
    return _nothing


def ctrl_c_twice(case: Case) -> Callable[[], None]:
    os.kill(case.trainer, signal.SIGINT)
    time.sleep(0.05)
    os.kill(case.trainer, signal.SIGINT)
    return _nothing


def no_space(case: Case) -> Callable[[], None]:
    """Not a byte is left. See `quiet_log` for what of the Trainer does not survive that."""
    filler = case.folder.parent / f"filler-{case.folder.name}"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return lambda: filler.unlink(missing_ok=True)


def read_only_folder(case: Case) -> Callable[[], None]:
    """Immutable: even root cannot create, rename or remove anything there."""
    folders = [folder for folder in (case.exports, case.run) if folder.is_dir()]
    for folder in folders:
        subprocess.run(["chattr", "+i", folder], check=True)

    def undo() -> None:
        for folder in folders:
            subprocess.run(["chattr", "-i", folder], check=True)

    return undo


def exports_deleted(case: Case) -> Callable[[], None]:
    shutil.rmtree(case.exports, ignore_errors=True)
    return _nothing


def clock_set_back(case: Case) -> Callable[[], None]:
    """Seen from now on, everything that is there was written in a year's time."""
    later = time.time() + 365 * 86400
    for path in [*case.run.rglob("*"), case.run]:
        with contextlib.suppress(OSError):
            os.utime(path, (later, later))
    return _nothing


def second_run(case: Case) -> Callable[[], None]:
    """The same run is continued by another process while this one goes on."""
    with contextlib.suppress(IndexError):
        find_checkpoints(case.run)[0]
        pid = start(case.folder, run=case.run, log="second.txt")
        return lambda: wait_for(pid) and None
    return _nothing


def source_removed(case: Case) -> Callable[[], None]:
    """The Trainer's file goes, as retention removes it; an older one stays to continue from."""
    checkpoints = find_checkpoints(case.run)
    target = case.run / (case.name if case.name.endswith(".pth") else f"{case.name}.pth")
    if len(checkpoints) > 1:
        (target if target.is_file() else checkpoints[0].path).unlink()
    return _nothing


FAULTS = {
    "kill -9": Fault(kill_training, exit_code=-signal.SIGKILL),
    "kill -9, helper too": Fault(kill_everything, exit_code=-signal.SIGKILL),
    "helper killed": Fault(kill_helper),
    "SIGTERM": Fault(terminate_training, exit_code=-signal.SIGTERM),
    "SIGTERM, saved": Fault(terminate_training, exit_code=-signal.SIGTERM, saves=True),
    "Ctrl-C": Fault(ctrl_c, exit_code=130),
    "Ctrl-C twice": Fault(ctrl_c_twice, exit_code=130),
    "no space": Fault(no_space),
    "read-only folder": Fault(read_only_folder),
    "exports deleted": Fault(exports_deleted, loses_exports=True),
    "clock set back": Fault(clock_set_back),
    "two runs": Fault(second_run),
    "source removed": Fault(source_removed),
}


def helpers_of(trainer: int) -> list[int]:
    """Child processes of a training."""
    return [int(pid) for pid in Path(f"/proc/{trainer}/task/{trainer}/children").read_text().split()] + [
        pid for pid in _children(trainer) if Path(f"/proc/{pid}").exists()
    ]


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
    return found


def start(
    folder: Path, *, point: Point | None = None, run: Path | None = None, log: str, saves_on_terminate: bool = False
) -> int:
    """Fork a training off this process, which has imported everything already, and return its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        with _log(folder, log).open("w", buffering=1) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        from tests.models.light import light_run
        from tests.models.small_decoder import small_decoder

        quiet_log()
        with small_decoder():
            if point is not None:
                arm_training(point)
            light_run(folder / "out", {**OPTIONS, "save_on_terminate": saves_on_terminate}, run=run, **TRAINING)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        from xtts_export_callback.training import background  # noqa: F401 - its clean-up is registered with atexit

        with contextlib.suppress(BaseException):
            import atexit

            atexit._run_exitfuncs()
        os._exit(code)


def quiet_log() -> None:
    """Let the Trainer's log file fill the disk without an end to training.

    `trainer.logging.console_logger` flushes it with every line, on a full disk an `OSError`, with us and without.
    """
    flush = logging.FileHandler.flush

    def tolerant(self: logging.FileHandler) -> None:
        with contextlib.suppress(OSError):
            flush(self)

    logging.FileHandler.flush = tolerant  # type: ignore[method-assign]


def wait_for(pid: int) -> int:
    """Exit code of a forked process; it is killed when it hangs."""
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -999


def fingerprints(exports: Path) -> dict[str, str]:
    """Content of every export by name."""
    return {saved.name: read(saved.path) for saved in find_exports(exports)}


def is_kept(run: Path, name: str) -> bool:
    """Whether an export is one that nothing but a fault could take away."""
    return name.startswith("checkpoint") or (run / f"{name}.pth").exists()


def read(path: Path) -> str:
    """Read every tensor of a file or folder against its checksum."""
    with open_checkpoint(path) as checkpoint:
        for tensor in checkpoint.tensors.values():
            tensor.read()
        return checkpoint.fingerprint()


def corrupt(run: Path) -> list[str]:
    """What has a final name and is not whole."""
    found = []
    for path in [*run.glob("*.pth"), *(run / "inference").glob("[!.]*")]:
        try:
            read(path)
            if path.is_dir() and read_provenance(path) is None:
                found.append(f"{path.name}: no provenance")
        except (XttsExportError, OSError) as error:
            if path.exists():
                found.append(f"{path.name}: {error}")
    return found


def one_case(folder: Path, write: str, phase: str, fault: Fault) -> list[str]:
    """Do one case and return what is wrong afterwards."""
    folder.mkdir()
    point = Point(write, phase, folder)
    trainer = start(folder, point=point, log="first.txt", saves_on_terminate=fault.saves)
    deadline = time.monotonic() + _TIMEOUT
    while not point.reached.exists():
        if os.waitpid(trainer, os.WNOHANG)[0] or time.monotonic() > deadline:
            return [f"the point was not reached\n{end_of(folder, 'first.txt')}"]
        time.sleep(0.005)
    note = json.loads(point.reached.read_text())
    case = Case(folder, trainer, note["pid"], note["name"])
    run = case.run
    before = {} if fault.loses_exports else fingerprints(case.exports)
    undo = fault.do(case)
    with contextlib.suppress(OSError):
        point.done.touch()
    code = wait_for(trainer)
    undo()
    point.done.touch()
    wrong = []
    if code != fault.exit_code:
        wrong.append(f"first run: exit code {code}, expected {fault.exit_code}\n{end_of(folder, 'first.txt')}")
    wait_for_helpers(folder)
    wrong += [f"corrupt: {what}" for what in corrupt(run)]
    after = fingerprints(case.exports)
    # With the best models that the Trainer replaces their exports go as well.
    before = {name: content for name, content in before.items() if is_kept(run, name)}
    wrong += [f"lost export {name}" for name in before if name not in after]
    wrong += [f"changed export {name}" for name in before if name in after and after[name] != before[name]]
    wrong += not_exported(run) if fault.saves else []
    return [*wrong, *resumed(folder, run)]


def not_exported(run: Path) -> list[str]:
    """What a training that saves on SIGTERM must have exported, and has not: the checkpoint of its last step."""
    newest = find_checkpoints(run)[-1].name
    return [] if newest in fingerprints(run / "inference") else [f"not exported on SIGTERM: {newest}"]


def resumed(folder: Path, run: Path) -> list[str]:
    """Resume a run to its end and return what is wrong with it then."""
    exports = run / "inference"
    code = wait_for(start(folder, run=run, log="resumed.txt"))
    if code:
        return [f"resume: exit code {code}\n{end_of(folder, 'resumed.txt')}"]
    wrong = [f"corrupt after resume: {what}" for what in corrupt(run)]
    found = find_checkpoints(run)
    checkpoints = {saved.name for saved in found}
    wrong += [f"not exported after resume: {name}" for name in checkpoints - set(fingerprints(exports))]
    wrong += [f"leftover: {path.name}" for path in [*run.glob(".*"), *exports.glob(".*")]]
    if max((saved.step for saved in found), default=0) < _LAST_SAVE:
        wrong.append(f"the resumed run did not reach its end: {sorted(checkpoints)}")
    return wrong


def _log(folder: Path, name: str) -> Path:
    """Beside the small file system: a training whose console is full ends without us as well."""
    return folder.parents[1] / f"{folder.name}-{name}"


def end_of(folder: Path, name: str) -> str:
    return _log(folder, name).read_text()[-2000:]


def wait_for_helpers(folder: Path) -> None:
    """A helper whose training is gone finishes its job first."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(str(folder).encode() in command for command in _commands()):
            return
        time.sleep(0.05)


def _commands() -> Iterator[bytes]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield (entry / "cmdline").read_bytes()


def cases(seed: int, count: int | None, only: str | None) -> list[tuple[str, str, str]]:
    """Faults, writes and phases; a sample of them when fewer are asked for."""
    every = list(itertools.product([only] if only else FAULTS, (*SAVES, *TASKS), PHASES))
    return every if count is None else random.Random(seed).sample(every, min(count, len(every)))


def prepare_to_fork() -> None:
    """Import everything once, for all trainings that are forked off this process."""
    import torch

    import tests.models.light  # noqa: F401

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where this was started in the background
    torch.set_num_threads(1)  # a fork takes no threads along
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports half of torch


def campaign(base: Path, chosen: list[tuple[str, str, str]], kind: str = "ext4") -> Counter[str]:
    """Run cases one after the other, print each, and return how many of each fault went well and badly.

    All run on a small file system of that kind, so that it can be filled up and folders can be made immutable.
    """
    prepare_to_fork()
    counts: Counter[str] = Counter()
    if kind in CLONING:
        SMALL_ARGS["gpt_n_model_channels"] = _WIDE
    with mounted(kind, base, _ROOM if kind in CLONING else None) as disk:
        for number, (fault, write, phase) in enumerate(chosen, 1):
            folder = disk / f"case{number}"
            started = time.perf_counter()
            try:
                wrong = one_case(folder, write, phase, FAULTS[fault])
            except Exception:
                wrong = [traceback.format_exc()]
            counts[f"{fault}: {'ok' if not wrong else 'WRONG'}"] += 1
            verdict = "ok" if not wrong else "WRONG: " + "; ".join(wrong)
            seconds = time.perf_counter() - started
            print(f"{number:3}/{len(chosen)} {fault:20} {phase:6} {write:15} {seconds:5.1f} s  {verdict}", flush=True)
            subprocess.run(["chattr", "-R", "-i", folder], check=False, capture_output=True)
            for leftover in (folder, disk / f"filler-{folder.name}"):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
    return counts


def main() -> None:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(description="Do every fault at every point of every write.")
    parser.add_argument("--cases", type=int, help="a random sample of so many (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--only", choices=sorted(FAULTS), help="one fault only")
    parser.add_argument("--dir", type=Path, help="where the small file system is made (default: a temporary folder)")
    parser.add_argument("--file-system", choices=SMALLEST, default="ext4", help="its kind; xfs and btrfs share blocks")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="xtts-export-faults-", dir=options.dir))
    try:
        counts = campaign(base, cases(options.seed, options.cases, options.only), options.file_system)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print("\n".join(f"{count:4}  {name}" for name, count in sorted(counts.items())))
    bad = sum(count for name, count in counts.items() if name.endswith("WRONG"))
    print(f"{sum(counts.values())} cases, {bad} wrong")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
