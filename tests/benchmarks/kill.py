"""Kill the commands that write at random moments and look at what is left.

    python -m tests.benchmarks.kill --moments 50

Each command first writes an output, then replaces it with ``--force`` again and again, and is killed (SIGKILL) at a
random moment of that. After every kill the output has to be whole and nothing else visible beside it; at the end the
command has to succeed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.files import write_run
from tests.models.small_decoder import START

COMMANDS = ("export", "average", "merge")
_ROOT = Path(__file__).parents[2]


class Outcome(NamedTuple):
    """What killing a command left behind.

    Attributes:
        moments: How often it was killed while it ran.
        finished: How often it was done before.
        replaced: How often the new output was in place already when it was killed.
    """

    moments: int
    finished: int
    replaced: int


def kill_at_random_moments(command: str, folder: Path, *, moments: int, seed: int = 0) -> Outcome:
    """Kill a command at random moments of replacing its output.

    Args:
        command: One of `COMMANDS`.
        folder: An empty folder to work in.
        moments: How many kills.
        seed: Of the moments.

    Returns:
        How it went.

    Raises:
        AssertionError: When something half-written was visible, an output was lost, or a rerun failed.
    """
    run = folder / "run"
    paths = write_run(run, files=2, scale="small")
    published = folder / "published"
    published.mkdir()
    output = published / "model"
    sources = paths[:1] if command == "export" else paths
    start = [*START, "xtts_export_callback", command, *map(str, sources)]
    arguments = [*start, "--output", str(output), "--force"]
    duration = _run(arguments)
    expected = _content(output)
    inputs = {path: path.read_bytes() for path in run.iterdir()}
    chance = random.Random(seed)
    killed = finished = replaced = 0
    while killed < moments:
        before = (output / "model.pth").stat().st_ino
        process = _start(arguments)
        time.sleep(chance.uniform(0, duration))
        done = process.poll() is not None
        process.kill()
        process.wait()
        killed, finished = killed + (not done), finished + done
        _check(published, output, expected)
        replaced += not done and (output / "model.pth").stat().st_ino != before
        assert {path: path.read_bytes() for path in run.iterdir()} == inputs, "a source changed"
    _run(arguments)
    _check(published, output, expected)
    return Outcome(killed, finished, replaced)


def _check(published: Path, output: Path, expected: dict[str, bytes]) -> None:
    visible = [path.name for path in published.iterdir() if not path.name.startswith(".")]
    assert visible == [output.name], f"visible beside the output: {visible}"
    assert _content(output) == expected, "the output is not whole"


def _content(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


def _start(arguments: list[str]) -> subprocess.Popen[bytes]:
    # A fixed date makes every output the same, byte for byte.
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "SOURCE_DATE_EPOCH": "0"}
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def _run(arguments: list[str]) -> float:
    started = time.perf_counter()
    assert _start(arguments).wait() == 0, f"{' '.join(arguments)} failed"
    return time.perf_counter() - started


def main() -> None:
    """Kill every command as often as the command line says."""
    parser = argparse.ArgumentParser(description="Kill export, average and merge at random moments.")
    parser.add_argument("--moments", type=int, default=50, help="kills of each command (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default 0)")
    options = parser.parse_args()
    for command in COMMANDS:
        folder = Path(tempfile.mkdtemp(prefix="xtts-export-kill-"))
        try:
            outcome = kill_at_random_moments(command, folder, moments=options.moments, seed=options.seed)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(
            f"{command}: killed at {outcome.moments} moments ({outcome.replaced} with the new output in place already; "
            f"{outcome.finished} more runs were done first): output whole each time, nothing else visible, rerun fine",
            flush=True,
        )


if __name__ == "__main__":
    main()
