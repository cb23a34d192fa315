"""Install each stack, then this package beside it, and run the integration tests there.

    python -m tests.stacks NAME ... | all [--limit SECONDS] [-- PYTEST ARGUMENTS]
    python -m tests.stacks --pin NAME ...

Every stack gets an environment in a temporary folder (7 GB; TMPDIR says where), which is removed afterwards. No version
of the stack may change when the package is installed. Needs Python 3.11, on Linux.
"""

from __future__ import annotations

import argparse
import ctypes.util
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.stacks.environment import Environment, changed, pin
from tests.stacks.suite import Outcome, run_tests
from tests.stacks.table import STACKS, Stack

_SHOWN = {
    "TTS": ("coqui-tts", "TTS", "tts"),
    "trainer": ("coqui-tts-trainer", "trainer"),
    "torch": ("torch",),
    "transformers": ("transformers",),
    "numpy": ("numpy",),
}
_ROW = "{:<26} {:<7} {:<7} {:<7} {:<12} {:<7} {:>6} {:>6} {:>7} {:>7}  {}"
HEADER = _ROW.format("stack", *_SHOWN, "passed", "failed", "skipped", "seconds", "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests on the stacks that the command line names.

    Returns:
        The exit code: 0 when everything passed and no stack was changed, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.stacks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", metavar="NAME", nargs="+", choices=[*STACKS, "all"], help=f"{', '.join(STACKS)}, all")
    parser.add_argument("--limit", type=float, default=3600, metavar="SECONDS", help="time for the tests of one stack")
    parser.add_argument("--pin", action="store_true", help="write the files of pins anew and run nothing")
    own, rest = _split(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(own)
    stacks = list(STACKS.values()) if "all" in arguments.names else [STACKS[name] for name in arguments.names]
    if arguments.pin:
        for stack in stacks:
            pin(stack)
        return 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with Ctrl-C ignored
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the folder is removed
    rows: list[str] = []
    fine = True
    for stack in stacks:
        print(f"\n=== {stack.name}", flush=True)
        versions, outcome = _try(stack, rest or ["-m", "integration"], arguments.limit)
        rows.append(_row(stack, versions, outcome))
        print("\n".join([HEADER, *rows]), flush=True)
        fine = fine and outcome.passed > 0 and not outcome.failed and not outcome.note
    return 0 if fine else 1


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and after ``--`` those for pytest."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:end]), list(argv[end + 1 :])


def _try(stack: Stack, arguments: Sequence[str], limit: float) -> tuple[Mapping[str, str], Outcome]:
    """Make the environment, run the tests in it and remove it."""
    if stack.needs_ffmpeg and ctypes.util.find_library("avcodec") is None:
        return {}, Outcome(0, 0, 0, 0.0, "not run: the libraries of FFmpeg are not installed")
    folder = Path(tempfile.mkdtemp(prefix="xtts-export-stack."))
    try:
        environment = Environment(folder / "venv")
        environment.install_stack(stack)
        before = environment.versions()
        environment.install_checkout()
        after = environment.versions()
        differences = changed(before, after)
        if differences:
            return after, Outcome(0, 0, 0, 0.0, f"not run: installing us changed {', '.join(differences)}")
        return after, run_tests(environment, arguments, limit=limit)
    except RuntimeError as error:
        return {}, Outcome(0, 0, 0, 0.0, f"not run: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _row(stack: Stack, versions: Mapping[str, str], outcome: Outcome) -> str:
    shown = [next((versions[name] for name in names if name in versions), "?") for names in _SHOWN.values()]
    counts = (outcome.passed, outcome.failed, outcome.skipped, f"{outcome.seconds:.0f}")
    return _ROW.format(stack.name, *shown, *counts, outcome.note)


if __name__ == "__main__":
    sys.exit(main())
