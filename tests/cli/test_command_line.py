"""Whatever stands on the command line: an exit code, at most one line on stderr, never a traceback."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.small_decoder import START, small_decoder
from tests.models.small_xtts import write_small
from xtts_export_callback.cli.main import COMMANDS, main

REPOSITORY = Path(__file__).parents[2]
WITH_PATHS = [
    ["inspect", "ODD"],
    ["inspect", "ODD", "--json"],
    ["verify", "ODD"],
    ["export", "ODD"],
    ["export", "A", "--output", "ODD"],
    ["export", "A", "--vocab", "ODD", "--output", "OUT"],
    ["export", "A", "--config", "ODD", "--output", "OUT"],
    ["compare", "ODD"],
    ["compare", "ODD", "A"],
    ["compare", "A", "ODD"],
    ["compare", "RUN", "ODD"],
    ["compare", "A", "B", "--plot", "ODD"],
    ["average", "ODD"],
    ["average", "A", "ODD", "--output", "OUT"],
    ["average", "A", "B", "--output", "ODD"],
    ["average", "A", "B", "--vocab", "ODD", "--output", "OUT"],
    ["merge", "ODD"],
    ["merge", "A", "ODD", "--output", "OUT"],
    ["merge", "A", "B", "--output", "ODD"],
    ["merge", "A", "B", "--base", "ODD", "--method", "ties", "--output", "OUT"],
    ["train", "ODD"],
    ["train", "--continue", "ODD"],
]
NO_FILES = ["a\0b", "\ud800", "\udcff", "~nobody-of-that-name/x", "x" * 300, "x/" * 3000, "FILE/x", "LOOP", "/dev/null"]
NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1e400", "1e308", "9" * 5000, "", "²", "1e-320", "x"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("places")
    with small_decoder():
        paths = {name: write_small(folder / "run" / f"checkpoint_{step}.pth") for step, name in ((1, "A"), (2, "B"))}
    (folder / "file").write_bytes(b"x")
    (folder / "loop").symlink_to(folder / "loop")
    paths |= {"RUN": folder / "run", "OUT": folder / "out", "FILE": folder / "file", "LOOP": folder / "loop"}
    yield {name: str(path) for name, path in paths.items()}


def outcome(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[Any, list[str]]:
    """Exit code, and lines on stderr."""
    try:
        code: Any = main(arguments)
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="there it is other names that no file can have")
@pytest.mark.parametrize("odd", NO_FILES, ids=lambda odd: ascii(odd)[:24])
@pytest.mark.parametrize("form", WITH_PATHS, ids=" ".join)
def test_a_path_where_nothing_can_be_read_or_written_is_one_line(
    places: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: list[str],
    odd: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = odd.replace("FILE", places["FILE"]).replace("LOOP", places["LOOP"])
    arguments = [path if word == "ODD" else places.get(word, word) for word in form]
    is_written = "--output" in form and form[form.index("--output") + 1] == "ODD" and odd in {"\udcff", NO_FILES[3]}
    code, lines = outcome(capsys, arguments)
    assert (code, len(lines)) == ((0, 0) if is_written else (2, 1)), lines


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: ascii(number)[:12])
@pytest.mark.parametrize(
    "form",
    [
        ["average", "RUN", "--last"],
        ["average", "A", "B", "--output", "OUT", "--weights", "1"],
        ["merge", "A", "B", "--output", "OUT", "--weights", "1"],
        ["merge", "A", "B", "--base", "B", "--method", "ties", "--dry-run", "--weights", "1"],
        ["merge", "A", "B", "--base", "B", "--method", "ties", "--dry-run", "--scale"],
        ["merge", "A", "B", "--base", "B", "--method", "ties", "--dry-run", "--density"],
        ["merge", "A", "--base", "B", "--method", "interpolate", "--dry-run", "--scale"],
    ],
    ids=lambda form: f"{form[0]} {form[-2]} {form[-1]}",
)
def test_a_number_that_means_nothing_is_one_line(
    places: dict[str, str], capsys: pytest.CaptureFixture[str], form: list[str], number: str
) -> None:
    arguments = [places.get(word, word) for word in form]
    code, lines = outcome(
        capsys, [*arguments, number] if form[-1] == "1" else [*arguments[:-1], f"{form[-1]}={number}"]
    )
    assert (code, len(lines)) in {(0, 0), (2, 1)}, lines


# Not the first three, which train, nor those words that `run` would start in place of the tests.
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(COMMANDS)[3:]), st.lists(st.text(st.characters(), max_size=6), max_size=3))
def test_any_words_after_a_command_are_one_line(command: str, words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY / "tests" / "fuzz")
        try:
            code: Any = main([command, *words])
        except SystemExit as end:
            code = end.code
    assert code in {0, 2}


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = outcome(capsys, [])
    assert code == 2
    assert lines[0].startswith("usage: xtts-export")
    assert all(any(line.split()[:1] == [command] for line in lines) for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--verison"], " (did you mean --version?)"),
        (["--print-completoin", "bash"], " (did you mean --print-completion?)"),
        (["--vocab", "x", "export", "y"], "; write the command first"),
        (["--", "inspect", "x"], "; write the command first"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_unknown_option_before_the_command_is_named(
    capsys: pytest.CaptureFixture[str], words: list[str], meant: str
) -> None:
    assert outcome(capsys, words) == (
        2,
        [f"xtts-export: {words[0]}: no such option{meant}; see xtts-export --help"],
    )


@pytest.mark.parametrize("command", ["verify", "inspect", "export", "prune", "average"])
def test_an_empty_path_is_not_the_working_directory(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, lines = outcome(capsys, [command, ""])
    said = "xtts-export: an empty path; name a file or a folder (the one you are in is .); see xtts-export --help"
    assert (code, lines) == (2, [said])


def test_an_option_is_not_taken_for_another_because_both_have_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(capsys, ["merge", "--recipe", "x.yaml"]) == (
        2,
        ["xtts-export merge: unrecognized arguments: --recipe; see xtts-export merge --help"],
    )
    assert "(did you mean --method?)" in outcome(capsys, ["merge", "a", "--methd", "ties"])[1][0]


@pytest.mark.parametrize("options", [["--json"], ["-q"], ["-v", "--quiet"]])
def test_the_options_of_every_command_may_stand_before_it(
    places: dict[str, str], capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main([*options, "inspect", places["A"]]) == 0
    before = capsys.readouterr()
    assert main(["inspect", places["A"], *options]) == 0
    assert capsys.readouterr() == before


@pytest.mark.parametrize("arguments", [["--nope", "export", "x"], ["--nope"], ["--dtype", "int8", "export", "x"]])
def test_another_option_before_the_command_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, lines = outcome(capsys, arguments)
    assert (code, len(lines)) == (2, 1), lines


@pytest.mark.parametrize("command", ["compare", "evaluate", "export", "inspect", "report", "verify"])
def test_a_path_that_does_not_exist_is_named_as_such(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, lines = outcome(capsys, [command, "nowhere.pth"])
    assert (code, len(lines)) == (2, 1)
    assert "nowhere.pth: " in lines[0]
    assert re.search("no such file or folder|No such file or directory", lines[0]), lines


def test_a_template_is_not_written_over_a_file_nor_beside_another_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "voice.json"
    template.write_text("mine")
    found = outcome(capsys, ["train", "--template", str(template)])
    assert found == (2, [f"xtts-export: {template}: exists already; name another file"])
    code, lines = outcome(capsys, ["train", "other.json", "--template", str(tmp_path / "new.json")])
    assert (code, lines[0].endswith("expected alone, found other.json; leave one out")) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["voice.json"]
    assert template.read_text() == "mine"


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_ends_every_command_with_130_and_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(f"xtts_export_callback.cli.{command}"), "run", interrupt)
    words = {
        "compare": ["x", "y"],
        "demo": [],
        "push": ["x", "a/b"],
        "speak": ["x", "--text", "y", "--voice", "z"],
    }.get(command, ["x"])
    code, lines = outcome(capsys, [command, *words])
    assert (code, len(lines)) == (130, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a name that its file systems may refuse")
@pytest.mark.parametrize(
    "form", [["inspect", "A"], ["verify", "A"], ["export", "A"], ["merge", "A", "A", "--dry-run"]], ids=" ".join
)
def test_a_terminal_of_ascii_shows_other_letters_as_escapes(tmp_path: Path, form: list[str]) -> None:
    path = write_small(tmp_path / "聲.pth")
    done = subprocess.run(
        [*START, "xtts_export_callback", *(str(path) if word == "A" else word for word in form)],
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u8072" in done.stdout
