"""Environments with the packages of a stack, made with ``venv`` and ``pip``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.stacks.table import PYTHON, Stack

REPOSITORY = Path(__file__).parents[2]

# Versions that take any version of the packages that they share with a stack.
TEST_TOOLS = ("pytest==8.2.2", "hypothesis==6.100.0", "pytest-xdist==3.6.1")


class Environment:
    """A virtual environment.

    Args:
        folder: Where to make it.

    Raises:
        RuntimeError: If there is no Python of the version that the pins are for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.settings = _settings()
        python = sys.executable if f"{sys.version_info[0]}.{sys.version_info[1]}" == PYTHON else f"python{PYTHON}"
        if shutil.which(python) is None:
            message = f"there is no python{PYTHON} here, which the pins of the stacks are for"
            raise RuntimeError(message)
        self._run([python, "-m", "venv", str(folder)])

    def install_stack(self, stack: Stack) -> None:
        """Install every package of a stack in the version that is pinned."""
        self._pip("install", "--quiet", "--no-deps", "--requirement", str(stack.pins))  # the pins are complete

    def install_checkout(self) -> None:
        """Install this checkout as somebody does who has a stack, and what runs its tests."""
        self._pip("install", "--quiet", "--editable", str(REPOSITORY), *TEST_TOOLS)

    def versions(self) -> dict[str, str]:
        """The version of every package but ours."""
        lines = self._pip("freeze").splitlines()
        return dict(line.split("==", 1) for line in lines if "==" in line)

    def _pip(self, *arguments: str) -> str:
        return self._run([str(self.python), "-m", "pip", *arguments])

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=self.settings)
        if done.returncode:
            message = f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            raise RuntimeError(message)
        return done.stdout


def pin(stack: Stack) -> None:
    """Resolve what a stack asks for as it was on its day, and write the versions to its file of pins.

    Needs ``uv``, and an index that says when a file was uploaded.
    """
    arguments = ["--python-version", PYTHON, "--exclude-newer", stack.date]
    command = ["uv", "pip", "compile", "-", *arguments, "--no-annotate", "--no-header", "--quiet"]
    asked = "\n".join(stack.requires)
    pins = subprocess.run(command, input=asked, check=True, stdout=subprocess.PIPE, text=True, env=_settings()).stdout
    header = f"# {' '.join(stack.requires)}, as of {stack.date}\n"
    # Which index it came from is no part of a stack.
    versions = [line for line in pins.splitlines(keepends=True) if re.match(r"\w", line)]
    stack.pins.write_text(header + "".join(versions), encoding="utf-8")


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What an installation has done to the packages that were there."""
    return [
        f"{name} {version} -> {after.get(name, 'removed')}"
        for name, version in before.items()
        if after.get(name) != version
    ]


def _settings() -> dict[str, str]:
    """The settings of this process, without those that point to other packages."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in hidden} | {"PYTHONNOUSERSITE": "1"}
