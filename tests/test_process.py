"""A process of our own starts light: no threads that spin, no memory given back too early, no search for cycles."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

ALLOCATE = """
import gc, json, os, sys, threading
from xtts_export_callback.process import prepare_process
if sys.argv[1] == "prepared":
    prepare_process()
import numpy, resource

def work():
    for _ in range(10):
        [numpy.ones(1 << 18) for _ in range(4)]  # four buffers of 2 MB, freed together

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

threads = len(os.listdir("/proc/self/task"))  # before there is one of ours, which may outlive its join for a moment
before = faults()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(json.dumps({"faults": faults() - before, "threads": threads, "objects": gc.get_threshold()[0]}))
"""


def run(*arguments: str) -> Any:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    command = [sys.executable, "-c", ALLOCATE, *arguments]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


@pytest.fixture(scope="module")
def prepared() -> Any:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("counts what Linux and glibc do")
    return run("prepared")


def test_memory_that_is_freed_is_used_again(prepared: Any) -> None:
    assert prepared["faults"] < run("as it is")["faults"] / 4


def test_numpy_brings_no_threads_along(prepared: Any) -> None:
    assert prepared["threads"] == 1


def test_an_open_checkpoint_is_not_searched_for_cycles(prepared: Any) -> None:
    assert prepared["objects"] >= 200_000


@pytest.mark.parametrize(("command", "is_prepared"), [("inspect", True), ("train", False)])
def test_only_commands_that_do_not_train_have_the_process_to_themselves(
    monkeypatch: pytest.MonkeyPatch, command: str, is_prepared: bool
) -> None:
    from xtts_export_callback.cli import main

    prepared: list[bool] = []
    monkeypatch.setattr(main, "prepare_process", lambda: prepared.append(True))
    monkeypatch.setattr(sys, "argv", ["xtts-export", command, "nothing-there"])
    with contextlib.suppress(SystemExit):
        main.main()
    assert bool(prepared) is is_prepared
