"""What is printed and logged of names and strings that come from files."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import export_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.cli.progress import say
from xtts_export_callback.files.printable import printable
from xtts_export_callback.run.log import training_logger


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


EVIL = "\x1b]0;title\x07\x1b[2J\r\nforged: fine \x9b\u202e"
REPORTS = [
    ["inspect", "A"],
    ["inspect", "A", "--tensors"],
    ["inspect", "FOLDER"],
    ["inspect", "RUN"],
    ["verify", "A", "FOLDER"],
    ["verify", "RUN"],
    ["compare", "A", "B"],
    ["compare", "RUN"],
    ["average", "A", "B", "--output", "OUT"],
    ["merge", "A", "B", "--dry-run"],
    ["merge", "A", "B", "--output", "OUT"],
    ["export", "A", "--force"],
    ["inspect", "NOTHING"],
    ["verify", "NOTHING"],
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A run whose name and whose files' strings hold what steers a terminal; names of what lies there."""
    folder = tmp_path_factory.mktemp("hostile")
    run = folder / "x\x1b[31m\nforged\r"
    for number, name in ((1, "A"), (2, "B")):
        state = small_state(number)
        state["config"] |= {EVIL: number, "languages": [EVIL, name]}
        state |= {"step": EVIL, "epoch": EVIL, "date": EVIL, "model_loss": {"train_loss": EVIL, "eval_loss": EVIL}}
        write_small(run / f"checkpoint_{number}.pth", {**state, "export": {"kind": "export", "dtype": EVIL}})
    export = export_checkpoint(run / "checkpoint_2.pth").path
    provenance = json.loads((export / "export.json").read_bytes())
    provenance |= {"created": EVIL, "dtype": EVIL, EVIL: EVIL}
    provenance["files"][EVIL] = {"bytes": EVIL}
    provenance["sources"][0] |= {"name": EVIL, "step": EVIL}
    (export / "export.json").write_text(json.dumps(provenance), encoding="utf-8")
    (run / "config.json").write_text("{}", encoding="utf-8")
    found = {"A": run / "checkpoint_1.pth", "B": run / "checkpoint_2.pth", "FOLDER": export, "RUN": run}
    return {name: str(path) for name, path in {**found, "NOTHING": run / EVIL}.items()}


@pytest.mark.skipif(sys.platform == "win32", reason="its names hold no control characters")
@pytest.mark.parametrize("form", REPORTS, ids=" ".join)
def test_no_command_prints_what_steers_a_terminal_or_forges_a_line(
    hostile: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    names = {**hostile, "OUT": str(tmp_path / "out\x1b[1m\n")}
    assert main([names.get(word, word) for word in form]) in {0, 1, 2}
    printed = "".join(capsys.readouterr())
    assert ("\\x1b" in printed) is (form != ["compare", "RUN"])  # which names nothing of the files
    assert not any(unfit in printed for unfit in "\x1b\x07\r\x9b\u202e")
    assert not any(line.lstrip().startswith("forged") for line in printed.splitlines())


@pytest.mark.skipif(sys.platform == "win32", reason="its names hold no control characters")
@pytest.mark.parametrize(
    "form", [form for form in REPORTS if form[0] in {"inspect", "compare", "verify"}][:-2], ids=" ".join
)
def test_json_of_hostile_strings_is_json_of_one_character_set(
    hostile: dict[str, str], capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    assert main([*(hostile.get(word, word) for word in form), "--json"]) in {0, 1}
    printed = capsys.readouterr().out
    assert json.loads(printed)
    assert printed.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", ["a$b$c", "a_b_c", "a\nb", "a%^{}\\x"])
def test_a_picture_is_drawn_of_models_of_any_name(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write_small(tmp_path / name / f"checkpoint_{step}.pth") for step in (1, 2)]
    picture = tmp_path / name / "picture.svg"
    assert main(["compare", *map(str, paths), "--plot", str(picture)]) == 1
    assert main(["compare", str(tmp_path / name), "--plot", str(picture)]) == 0
    assert capsys.readouterr().err == ""
    assert picture.read_bytes().endswith(b"</svg>\n")
