"""The README is a contract: its commands run, its code works, its diff applies to a script like the stock recipe."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Demo
from tests.models.trainings import REPOSITORY
from xtts_export_callback.training.config import ExportConfig

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")

# What the diff is applied to: the stock recipe's steps, on the tiny model's files.
SCRIPT = """
import inspect
import json
import sys
from trainer import Trainer, TrainerArgs
from TTS.config.shared_configs import BaseDatasetConfig
from TTS.tts.configs.xtts_config import XttsAudioConfig
from TTS.tts.datasets import load_tts_samples
from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer, GPTTrainerConfig

try:  # up to coqui-tts 0.24 another class of that name has the sample rate of the DVAE
    from TTS.tts.layers.xtts.trainer.gpt_trainer import XttsAudioConfig
except ImportError:
    pass

FIELDS = json.load(open(sys.argv.pop()))
OUT_PATH = FIELDS.pop("output_path")
FIELDS["model_args"] = GPTArgs(**FIELDS["model_args"])
FIELDS["datasets"] = [BaseDatasetConfig(**dataset) for dataset in FIELDS["datasets"]]
FIELDS["audio"] = XttsAudioConfig(**FIELDS["audio"])


def main():
    config = GPTTrainerConfig(
        output_path=OUT_PATH,
        **FIELDS,
    )
    model = GPTTrainer(config)
    takes_list = "datasets" in inspect.signature(load_tts_samples).parameters
    train_samples, eval_samples = load_tts_samples(
        config.datasets if takes_list else config,
        eval_split=True,
        eval_split_size=config.eval_split_size,
    )
    trainer = Trainer(
        TrainerArgs(),
        config,
        output_path=OUT_PATH,
        model=model,
        train_samples=train_samples,
        eval_samples=eval_samples,
    )
    trainer.fit()


main()
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def coqui_version() -> tuple[int, ...]:
    """The installed coqui-tts; 0.22 for the original TTS."""
    try:
        return tuple(map(int, version("coqui-tts").split(".")[:2]))
    except PackageNotFoundError:
        return (0, 22)


def apply_diff(diff: str, text: str) -> str:
    """Apply the hunks of the README's diff, which are told apart by ``@@`` and have no line numbers."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"the hunk does not apply:\n{hunk}"
        text = text.replace(before, after)
    return text


@pytest.fixture(scope="module")
def after_the_demo(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory in which the demo has been run."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "xtts-export-demo").symlink_to(demo.output)
    yield folder
    shutil.rmtree(folder)


def typed(block: str, folder: Path) -> str:
    """Type a block into a shell that has nothing on its path but the system, with the environment activated.

    Returns:
        The commands that failed, one per line, with their exit codes.
    """
    activate = Path(sys.prefix) / "bin" / "activate"
    path = "" if activate.is_file() else f"{Path(sys.executable).parent}:"
    lines = [f". {shlex.quote(str(activate))}"] if activate.is_file() else []
    prelude = [*lines, """trap 'echo "$BASH_COMMAND: $?" >> failed.txt' ERR"""]
    environment = {"PATH": f"{path}/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}
    failed = folder / "failed.txt"
    failed.unlink(missing_ok=True)
    script = "\n".join([*prelude, block])
    subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, check=False, timeout=600)
    return failed.read_text(encoding="utf-8") if failed.exists() else ""


@pytest.mark.integration
@pytest.mark.skipif(coqui_version() < (0, 28), reason="the README shows the current coqui-tts")
@pytest.mark.skipif(sys.platform == "win32", reason="the README's blocks are for bash")
def test_every_block_and_every_piece_of_python_runs_as_typed_after_the_demo(after_the_demo: Path) -> None:
    blocks_to_type = [block for block in blocks("bash") if "pip install" not in block]
    typed_at_once = "".join(blocks_to_type)  # in one terminal: RUN is set in the first
    failed = typed(typed_at_once, after_the_demo).splitlines()
    # compare exits with 1 where models differ, as the README says.
    assert [line for line in failed if not (line.startswith("xtts-export compare") and line.endswith(": 1"))] == []
    for code in blocks("python"):
        subprocess.run([sys.executable, "-c", code], cwd=after_the_demo, check=True, timeout=300)
    assert (after_the_demo / "rain.wav").stat().st_size > 1000


@pytest.mark.integration
def test_the_diff_turns_a_stock_script_into_one_that_exports(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    (diff,) = blocks("diff")
    config = tiny_config(save_step=2)
    options = {
        name: getattr(config, name)
        for name in [
            "output_path",
            "run_name",
            "epochs",
            "save_step",
            "batch_size",
            "eval_batch_size",
            "num_loader_workers",
            "num_eval_loader_workers",
            "eval_split_size",
            "optimizer",
            "optimizer_wd_only_on_weights",
            "optimizer_params",
            "lr",
            "save_best_after",
        ]
    }
    values = config.to_dict()
    options |= {name: values[name] for name in ("model_args", "audio", "datasets")}
    (tmp_path / "fields.json").write_text(json.dumps(options))
    script = tmp_path / "train_gpt_xtts.py"
    script.write_text(apply_diff(diff, SCRIPT))
    result = subprocess.run(
        [sys.executable, script, tmp_path / "fields.json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (run,) = Path(config.output_path).iterdir()
    assert {"checkpoint_2", "checkpoint_4", "average_last_2"} <= {entry.name for entry in (run / "inference").iterdir()}


def test_every_option_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", README, flags=re.MULTILINE))
    defaults = ExportConfig()
    assert rows == {option.name: json.dumps(getattr(defaults, option.name)) for option in fields(ExportConfig)}


def test_nothing_is_left_to_fill_in() -> None:
    assert "PLACEHOLDER" not in README


def test_the_recipe_adds_the_callback_by_the_line_of_the_diff() -> None:
    recipe = (REPOSITORY / "xtts_export_callback" / "train_gpt_xtts.py").read_text(encoding="utf-8")
    assert "callbacks=export_callbacks(config)," in blocks("diff")[0]
    assert "callbacks=export_callbacks(config)," in recipe
