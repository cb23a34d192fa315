"""What is printed and logged of names and strings that come from files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xtts_export_callback.cli import main
from xtts_export_callback.commands.common import say
from xtts_export_callback.printable import printable, training_logger


@given(st.text(st.characters()))
def test_what_is_printable_is_one_line_without_controls_that_any_terminal_takes(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in shown)
    shown.encode("utf-8")


def test_letters_of_every_script_stay_as_they_are() -> None:
    assert printable("Müller 声 [bold] \\n") == "Müller 声 [bold] \\n"


def test_overrides_of_the_writing_direction_are_shown() -> None:
    assert printable("a\u202eb\u2066c\u2028d") == "a\\u202eb\\u2066c\\u2028d"


def test_a_record_of_the_training_log_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "trainer.xtts_export"):
        training_logger().info(" > EXPORT : %s", "a\nforged\x1b[2J")
    assert caplog.messages == [" > EXPORT : a\\nforged\\x1b[2J"]


def test_a_command_says_a_name_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("x\r\nforged\x9b2J")
    assert capsys.readouterr().out == "x\\r\\nforged\\x9b2J\n"


def test_an_error_shows_the_line_feed_in_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "a\nb.pth")]) == 2
    assert "a\\nb.pth" in capsys.readouterr().err


def test_inspect_shows_the_strings_of_a_file_as_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {"gpt.a": torch.ones(2)}, "date": "\x1b[2J\nforged"}, tmp_path / "m.pth")
    assert main(["inspect", str(tmp_path / "m.pth")]) == 0
    shown = capsys.readouterr().out
    assert "\\x1b[2J\\nforged" in shown and "\x1b" not in shown
