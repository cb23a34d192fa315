"""Whatever the moment of a kill, an output is there whole or not at all. `tests.benchmarks.kill` tries more moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.kill import COMMANDS, kill_at_random_moments


@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_at_any_moment_leaves_the_earlier_output_whole_and_nothing_else_visible(
    tmp_path: Path, command: str
) -> None:
    assert kill_at_random_moments(command, tmp_path, moments=6).moments == 6
