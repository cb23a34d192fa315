"""Without torch and Coqui: what works all the same, and how the rest says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.small_xtts import write_small

TRAINING = {"torch", "torchaudio", "TTS", "trainer", "coqpit"}
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({sorted(TRAINING)}))"
NAMES = ("ExportCallback", "ExportConfig", "XttsExportTrainerConfig", "export_callbacks")


def without_torch(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python as where none of the packages for training is installed."""
    command = [sys.executable, "-c", f"{WITHOUT}\n{code}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def command_without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    return without_torch("from xtts_export_callback.cli.main import main; sys.exit(main())", *arguments)


@pytest.mark.parametrize(
    ("arguments", "task"),
    [
        (["demo"], "xtts-export demo"),
        (["train", "config.json"], "xtts-export train"),
        (["verify", "--load", "model.pth"], "verify --load"),
    ],
    ids=["demo", "train", "verify --load"],
)
def test_a_command_that_needs_torch_names_the_extra_in_one_line(arguments: list[str], task: str) -> None:
    done = command_without_torch(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"xtts-export: {task} needs packages that are not installed (torch")
    assert 'pip install "xtts-export-callback[train]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_speaking_without_torch_names_the_extra() -> None:
    done = command_without_torch("speak", "model.pth", "--text", "hello", "--speaker", "somebody")

    assert (done.returncode, done.stdout) == (2, "")
    assert 'pip install "xtts-export-callback[train]"' in done.stderr


def test_pushing_without_the_client_of_the_hub_names_the_extra(tmp_path: Path) -> None:
    write_small(tmp_path / "checkpoint_1.pth")
    hidden = "import sys; sys.modules['huggingface_hub'] = None"
    code = (
        "sys.path.insert(0, sys.argv.pop(1)); from tests.models.small_decoder import small_decoder\n"
        "from xtts_export_callback.cli.main import main\n"
        "with small_decoder(): sys.exit(main(['export', sys.argv[1]]) or main(['push', sys.argv[2], 'me/voice', '-q']))"
    )
    arguments = [Path(__file__).parents[1], tmp_path / "checkpoint_1.pth", tmp_path / "inference" / "checkpoint_1"]
    command = [sys.executable, "-c", f"{hidden}\n{code}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert 'pip install "xtts-export-callback[remote]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_measuring_speech_without_its_packages_names_their_extra(tmp_path: Path) -> None:
    done = command_without_torch("evaluate", "--wavs", tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert 'pip install "xtts-export-callback[speech]"' in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_needs_torch_names_the_extra(name: str) -> None:
    done = without_torch(f"from xtts_export_callback import {name}")

    assert done.stderr.splitlines()[-1].startswith(
        f"xtts_export_callback.errors.MissingExtraError: {name} needs packages that are not installed"
    )


def test_loading_a_folder_names_the_extra(tmp_path: Path) -> None:
    for name in ("config.json", "vocab.json", "model.pth"):
        (tmp_path / name).write_bytes(b"{}")
    done = without_torch("from xtts_export_callback import load_xtts; load_xtts(sys.argv[1])", tmp_path)

    assert "MissingExtraError: load_xtts needs packages" in done.stderr.splitlines()[-1]


def test_the_file_commands_need_no_torch(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (1000, 2000):
        write_small(run / f"checkpoint_{step}.pth")
    code = (
        "sys.path.insert(0, sys.argv.pop(1)); from tests.models.small_decoder import small_decoder\n"
        "from xtts_export_callback.cli.main import main\n"
        "with small_decoder(): sys.exit(main(sys.argv[1:]))"
    )
    root = Path(__file__).parents[1]
    averaged = tmp_path / "averaged"
    for arguments in (
        ["export", run],
        ["average", run, "--last", "2", "--output", averaged],
        ["merge", run / "inference" / "checkpoint_1000", averaged, "--weights", "1", "1", "--output", tmp_path / "m"],
        ["inspect", averaged],
        ["verify", averaged],
        ["verify", run],
        ["compare", averaged, averaged],
    ):
        done = without_torch(code, root, *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"


def test_the_template_is_the_config_in_the_repository(tmp_path: Path) -> None:
    done = command_without_torch("train", "--template", tmp_path / "mine.json")

    assert done.returncode == 0
    assert done.stdout.startswith(f"{tmp_path / 'mine.json'}: ")
    configs = Path(__file__).parents[1] / "configs"
    assert (tmp_path / "mine.json").read_bytes() == (configs / "finetune_xtts_v2.json").read_bytes()


def test_a_template_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("mine")
    done = command_without_torch("train", "--template", tmp_path / "mine.json")

    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert (tmp_path / "mine.json").read_text() == "mine"
