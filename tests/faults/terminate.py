"""SIGTERM at any moment of a training that saves on it: what is there is whole, and the last step is not lost.

    python -m tests.faults.terminate [--cases N] [--seed S] [--dir DIR]

The first cases are the points of `tests.faults.points`: before, during and after every kind of write. The others are
random moments between the start of the training and its end. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.campaign import (
    FAULTS,
    corrupt,
    end_of,
    not_exported,
    one_case,
    prepare_to_fork,
    resumed,
    start,
    wait_for,
    wait_for_helpers,
)
from tests.faults.points import PHASES, SAVES, TASKS

POINTS = list(itertools.product((*SAVES, *TASKS), PHASES))
SAYS_SO = "SIGTERM: the model is saved"


def at_moment(folder: Path, delay: float) -> list[str]:
    """Send SIGTERM some seconds after the start and return what is wrong afterwards."""
    folder.mkdir()
    trainer = start(folder, log="first.txt", saves_on_terminate=True)
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        os.kill(trainer, signal.SIGTERM)
    code = wait_for(trainer)
    wait_for_helpers(folder)
    log = end_of(folder, "first.txt")
    if code not in {-signal.SIGTERM, 0}:  # 0: it had ended
        return [f"exit code {code}\n{log}"]
    run = next(folder.glob("out/light-*"), None)
    if run is None:  # nothing had begun
        return []
    wrong = [f"corrupt: {what}" for what in corrupt(run)]
    if code and SAYS_SO in log:
        wrong += not_exported(run)
    if any(run.glob("checkpoint_*.pth")):
        wrong += resumed(folder, run)
    return wrong


def duration(folder: Path) -> float:
    """Seconds that a training takes which nobody ends."""
    folder.mkdir()
    started = time.monotonic()
    code = wait_for(start(folder, log="first.txt", saves_on_terminate=True))
    if code:
        message = f"an undisturbed training ended with {code}: {end_of(folder, 'first.txt')}"
        raise RuntimeError(message)
    return time.monotonic() - started


def campaign(base: Path, count: int, seed: int) -> int:
    """Run so many cases, print each, and return how many are wrong."""
    prepare_to_fork()
    whole = duration(base / "undisturbed")
    generator = random.Random(seed)
    points = POINTS if count >= len(POINTS) else generator.sample(POINTS, (count + 1) // 2)
    moments: list[tuple[str, str] | float] = [*points]
    moments += [generator.uniform(0.0, whole) for _ in range(count - len(moments))]
    bad = 0
    for number, moment in enumerate(moments, 1):
        folder = base / f"case{number}"
        if isinstance(moment, float):
            what, wrong = f"{moment:.2f} of {whole:.2f} s", at_moment(folder, moment)
        else:
            what, wrong = " ".join(reversed(moment)), one_case(folder, *moment, FAULTS["SIGTERM, saved"])
        saved = SAYS_SO in end_of(folder, "first.txt")
        print(
            f"{number:3}/{count} {what:24} {'saved' if saved else 'not begun or ended':20} {'; '.join(wrong) or 'ok'}"
        )
        bad += bool(wrong)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{count} cases, {bad} wrong", flush=True)
    return bad


def main() -> None:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(description="Send SIGTERM at any moment of a training that saves on it.")
    parser.add_argument("--cases", type=int, default=30, help="how many (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--dir", type=Path, help="where to train (default: a temporary folder)")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="xtts-export-terminate-", dir=options.dir))
    cases = base / "cases"
    cases.mkdir()
    try:
        bad = campaign(cases, options.cases, options.seed)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
