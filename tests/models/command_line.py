"""The command line as tests call it."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtts_export_callback.cli.main import main


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run the command line on bad input: exit code 2, one line on stderr and nothing on stdout."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line
