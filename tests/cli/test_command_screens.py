"""What each command prints in a terminal of 60, 80 and 120 columns, held against files: one for each command.

``python -m tests.cli.test_command_screens`` writes the files anew; look at them before you commit them. A line that is
longer than the terminal goes on in the next one, as a terminal shows it. Sizes and seconds are made of nines, since
they depend on versions and on the machine.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.models.reports import RUN, evaluation, sweep
from tests.models.small_decoder import small_decoder
from tests.models.small_xtts import write_small
from xtts_export_callback import export_checkpoint
from xtts_export_callback.cli import evaluate as evaluate_command
from xtts_export_callback.cli.main import COMMANDS, main
from xtts_export_callback.demo import demo
from xtts_export_callback.evaluation import speak as speaking
from xtts_export_callback.evaluation.speak import Wav

SCREENS = Path(__file__).with_name("screens")
WIDTHS = (60, 80, 120)
FIRST, LAST = f"{RUN}/checkpoint_9000.pth", f"{RUN}/checkpoint_10000.pth"
EXPORTED = f"{RUN}/inference/checkpoint_9000"
"""An export that the runs have; that of the other checkpoint is not made yet."""

SHOWN: dict[str, list[list[str]]] = {
    "demo": [],  # its last table alone: the rest comes from a training
    "export": [["export", FIRST, "--output", "slim"], ["export", str(RUN)], ["export", str(RUN), "nothing.pth"]],
    "average": [["average", str(RUN), "--last", "2"], ["average", FIRST]],
    "merge": [
        ["merge", FIRST, LAST, "--method", "slerp", "--weights", "0.6", "0.4", "--dry-run"],
        ["merge", FIRST, LAST, "--output", "merged", "--for-training"],
        ["merge", FIRST, LAST, "--method", "ties", "--output", "ties"],
    ],
    "inspect": [["inspect", str(RUN)], ["inspect", EXPORTED], ["inspect", "page.pth"]],
    "verify": [["verify", EXPORTED], ["verify", str(RUN)], ["verify", "damaged.pth"], ["verify", "nothing.pth"]],
    "prune": [["prune", str(RUN), "--dry-run"], ["prune", str(RUN)], ["prune", str(RUN), "--yes"]],
    "evaluate": [
        ["evaluate", str(RUN)],
        ["evaluate", str(RUN), "--speech"],
        ["evaluate", FIRST, "--sweep", "base", "--config", "config.json"],
    ],
    "speak": [["speak", str(RUN), "--text", "Hello.", "--voice", "me.wav"]],
    "report": [["report", str(RUN)]],
    "push": [["push", EXPORTED, "me/my_voice", "--dry-run"], ["push", "nothing", "me/my_voice"]],
    "run": [["run", "nothing.py"], ["run"]],
    "train": [
        ["train", "--template", "my_finetune.json"],
        ["train", "nothing.json"],
        ["train", "my_finetune.json", "--coqpit.bacth_size", "2"],
    ],
    "unknown": [["exprot", FIRST], ["export", "--ouput", "slim", FIRST]],
}
EXTRAS = {"report": "jinja2", "push": "huggingface_hub"}


def write_places(folder: Path) -> None:
    """A run of two checkpoints, one of them exported, a damaged file and a page in place of a model."""
    for path in (FIRST, LAST):
        write_small(folder / path)
    export_checkpoint(folder / FIRST)
    damaged = bytearray((folder / FIRST).read_bytes())
    with zipfile.ZipFile(folder / FIRST) as archive:
        damaged[archive.getinfo("archive/data/100").header_offset + 1000] ^= 1
    (folder / "damaged.pth").write_bytes(damaged)
    (folder / "page.pth").write_text("<!DOCTYPE html><html><body>Sign in</body></html>", encoding="utf-8")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("places")
    write_places(folder)
    yield folder
    shutil.rmtree(folder)


def screen(name: str, width: int, places: Path) -> str:
    """What a terminal shows of each form of a command, with an exit code that is not 0."""
    shown = []
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        shutil.copytree(places, scratch, dirs_exist_ok=True)
        patch.chdir(scratch)
        patch.setenv("COLUMNS", str(width))
        patch.setattr(evaluate_command, "_of_models", lambda args, _: evaluation(with_speech=args.speech))
        patch.setattr("xtts_export_callback.evaluation.sweep.sweep_weights", lambda *_, **__: sweep())
        patch.setattr(speaking, "speak", lambda *_, **__: [Wav("a", "speech/checkpoint_9000.wav", 1.84, [])])
        if name == "demo":
            shown += _demo_table(width)
        for words in SHOWN[name]:
            shown += ["$ xtts-export " + " ".join(words), *_printed(words)]
    return "".join(
        f"{line[start : start + width].rstrip()}\n" for line in shown for start in range(0, max(len(line), 1), width)
    )


def _demo_table(width: int) -> list[str]:
    written = ("model.pth", "config.json", "vocab.json", "export.json")
    for name in ("checkpoint_8.pth", "best_model.pth", *(f"inference/average_last_3/{each}" for each in written)):
        path = Path("demo", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(99_990))
    out = io.StringIO()
    console = Console(file=out, width=width, legacy_windows=False)
    console.print(demo._table(Path("demo"), Path("demo", "best_model.pth")))
    return [_without_figures(line) for line in out.getvalue().splitlines()]


def _printed(words: list[str]) -> list[str]:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code: object = main(words)
    except SystemExit as end:
        code = end.code
    lines = [_without_figures(line) for line in out.getvalue().splitlines()]
    return [*lines, f"(exit code {code})"] if code else lines


def _without_figures(line: str) -> str:
    line = re.sub(r"\b[\d.,]{2,} (?:[kMG]?B|bytes|s)\b", lambda found: re.sub(r"\d", "9", found.group()), line)
    line = re.sub(r"\b\d{4}-\d\d-\d\dT[\d:]+[Z+:\d]*", "2026-11-22T10:00:00Z", line)
    line = re.sub(r"\b(?=[a-f]*\d)[0-9a-f]{8,}\b", lambda found: "0" * len(found.group()), line)
    return re.sub(r"^\| By \| .* \|$", "| By | python 3, torch 2 |", line)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SHOWN)
def test_a_screen_of_a_command_is_the_one_that_was_looked_at(name: str, width: int, places: Path) -> None:
    pytest.importorskip(EXTRAS.get(name, "json"))
    assert screen(name, width, places) == (SCREENS / f"{name}_command_{width}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_the_terminal_and_names_every_option_in_its_first_column(
    command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([*filter(None, [command]), "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > width] == []
    first = {line.split()[0].rstrip(",") for line in lines if re.match(r"(?:  |    )\S", line)}
    assert ({"-h", "--json", "-q", "-v"} if command else {"-h", *COMMANDS}) <= first


if __name__ == "__main__":
    os.environ.pop("NO_COLOR", None)
    with tempfile.TemporaryDirectory() as folder, small_decoder():
        write_places(Path(folder))
        for each in SHOWN:
            for columns in WIDTHS:
                text = screen(each, columns, Path(folder))
                (SCREENS / f"{each}_command_{columns}.txt").write_text(text, encoding="utf-8")
