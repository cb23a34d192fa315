"""What every command has in common: ``--json``, ``-q``, ``-v``, suggestions, completion."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.models.small_xtts import write_small
from xtts_export_callback.cli.json_output import JSON_VERSION
from xtts_export_callback.cli.main import COMMANDS, main

JSON_PAGE = Path(__file__).parents[2] / "docs" / "json.md"

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (1000, 2000):
        write_small(tmp_path / "run" / f"checkpoint_{step}.pth")
    return tmp_path / "run"


def printed(capsys: Capture, *arguments: object) -> tuple[int, Any, str]:
    """Exit code, the JSON on stdout, and stderr."""
    try:
        code: Any = main([*map(str, arguments), "--json"])
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def forms(run: Path) -> dict[str, list[object]]:
    a, b = run / "checkpoint_1000.pth", run / "checkpoint_2000.pth"
    return {
        "export": ["export", run, "--output", run / "out"],
        "average": ["average", run, "--last", 2],
        "merge": ["merge", a, b, "--output", run / "merged"],
        "merge --dry-run": ["merge", a, b, "--dry-run"],
        "inspect": ["inspect", a],
        "inspect several": ["inspect", a, b, run],
        "compare": ["compare", a, b],
        "compare run": ["compare", run],
        "verify": ["verify", run],
        "template": ["train", "--template", run / "t.json"],
    }


@pytest.mark.parametrize("form", list(forms(Path())))
def test_json_is_all_of_stdout_and_has_a_version(run: Path, capsys: Capture, form: str) -> None:
    code, value, complaints = printed(capsys, *forms(run)[form])

    assert (code, complaints) == (1 if form == "compare" else 0, "")
    assert value.pop("version") == JSON_VERSION
    text = JSON_PAGE.read_text(encoding="utf-8")
    assert [key for key in value if key not in text] == []


@pytest.mark.parametrize("form", list(forms(Path())))
def test_quiet_commands_print_nothing(run: Path, capsys: Capture, form: str) -> None:
    assert main([*map(str, forms(run)[form]), "-q"]) in {0, 1}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_three_options(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    help_text = capsys.readouterr().out
    assert all(option in help_text for option in ("--json", "-q, --quiet", "-v, --verbose"))


# What follows `run PROGRAM` are the program's own arguments.
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("demo", "run")])
def test_an_error_is_json_with_code_2_and_one_line_on_stderr(command: str, tmp_path: Path, capsys: Capture) -> None:
    missing = tmp_path / "nothing.pth"
    words = {
        "compare": [missing, missing],
        "average": [missing, missing, "--output", tmp_path / "out"],
        "push": [missing, "me/voice"],
        "speak": [missing, "--text", "x", "--voice", missing],
    }
    code, value, complaints = printed(capsys, command, *words.get(command, [missing]))

    assert code == 2
    assert len(complaints.splitlines()) == 1
    assert value["error"]["type"] in {"CheckpointError", "ConfigError", "OutputExistsError"}
    assert value["error"]["message"] in complaints


def test_a_wrong_option_is_json_too(capsys: Capture) -> None:
    code, value, complaints = printed(capsys, "verify", "--ful", "x")

    assert (code, value["error"]["type"]) == (2, "UsageError")
    assert len(complaints.splitlines()) == 1


@pytest.mark.parametrize("command", ["export", "inspect", "verify"])
def test_of_several_sources_one_that_fails_does_not_stop_the_others(run: Path, capsys: Capture, command: str) -> None:
    (run / "other.pth").write_bytes(b"nothing of use")
    missing = run / "nothing.pth"
    sources = [run / "checkpoint_1000.pth", missing, run / "checkpoint_2000.pth"]
    code, value, complaints = printed(capsys, command, *sources)

    assert code == 2
    assert len(complaints.splitlines()) == 1
    assert len(value["exports" if command == "export" else "reports"]) == 2
    (failure,) = value["errors"]
    assert failure["path"] == str(missing)


def test_verbose_commands_say_more(run: Path, capsys: Capture) -> None:
    export = ["export", str(run / "checkpoint_1000.pth"), "--output"]
    main([*export, str(run / "a")])
    brief = capsys.readouterr().out
    main([*export, str(run / "b"), "-v"])
    verbose = capsys.readouterr().out

    assert len(verbose.splitlines()) > len(brief.splitlines()) == 1
    assert "  wrote vocab.json: " in verbose
    assert "  dropped optimizer: " in verbose or "  dropped dvae: " in verbose


def test_a_verbose_error_has_its_traceback_above_its_line(tmp_path: Path, capsys: Capture) -> None:
    assert main(["inspect", str(tmp_path / "nothing.pth"), "-v"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("xtts-export: ")


@pytest.mark.parametrize(
    ("words", "meant"), [(["exprot", "x"], "export"), (["verfiy"], "verify"), (["export", "--ouput", "x"], "--output")]
)
def test_a_mistyped_word_is_answered_with_the_one_that_was_meant(words: list[str], meant: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert f"(did you mean {meant}?)" in line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_option_is_completed(shell: str, capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", shell])
    script = capsys.readouterr().out

    assert end.value.code == 0
    assert all(command in script for command in COMMANDS)
    assert "for-training" in script
    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(script, encoding="utf-8")
        assert subprocess.run([shell, "-n", path], check=False).returncode == 0
