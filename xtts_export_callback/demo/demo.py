"""Trains, exports, averages and speaks in a minute, without a download or a GPU."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xtts_export_callback.demo.speech_samples import write_wav
from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.evaluation.speaking_model import check_generation
from xtts_export_callback.files.disk import free_bytes
from xtts_export_callback.files.paths import expanded
from xtts_export_callback.files.printable import printable
from xtts_export_callback.files.processes import is_running
from xtts_export_callback.training.config import ExportConfig
from xtts_export_callback.training.preflight import check_sound
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from xtts_export_callback.demo.tiny_model import TinyAssets

DEFAULT_OUTPUT = "xtts-export-demo"
_NEEDED = 2_500_000_000  # bytes, about 1.6 GB of them in the end
_UNFINISHED = "demo-is-running"  # with the process that does; whoever starts again after Ctrl-C replaces its folder
_WRITTEN = ("data", "train.json", "runs", "speech.wav")
_SENTENCE = "listen to the rain on the roof."

# Six epochs of five steps, a save every 8 steps: three checkpoints, then the best model of the last epoch.
_EPOCHS, _SAVE_STEP, _BEST_AFTER, _AVERAGED = 6, 8, 25, 3

_USES = (
    ("checkpoint_*.pth", "full checkpoint: weights, optimizer, DVAE; training resumes from it"),
    ("best_model_*.pth", "the same, at the lowest evaluation loss"),
    ("best_model.pth", "the Trainer's copy of it"),
    ("inference/checkpoint_*", "that checkpoint's inference weights, bit for bit"),
    ("inference/best_model_*", "the best model's inference weights, bit for bit"),
    ("inference/average_last_*", "the mean of the last checkpoints:"),
    ("inference/average_last_*/model.pth", "weights of GPT and HiFi-GAN decoder"),
    ("inference/average_last_*/config.json", "settings, without local paths"),
    ("inference/average_last_*/vocab.json", "the vocabulary of the training"),
    ("inference/average_last_*/mel_stats.pth", "mel statistics, which some servers ask for"),
    ("inference/average_last_*/export.json", "the checkpoints and versions it was made from"),
)


def run_demo(output: str | Path | None = None) -> Path:
    """Generate speech, train a tiny but real XTTS with the callback on, average its checkpoints and speak.

    Args:
        output: New folder for everything, ``xtts-export-demo`` in the working directory by default.

    Returns:
        The run folder.

    Raises:
        OutputExistsError: If ``output`` exists already.
        ConfigError: If there is no room for it, torchaudio cannot read a recording, or Coqui's XTTS cannot speak here.
    """
    from rich.console import Console

    from xtts_export_callback.demo.tiny_model import write_tiny_assets

    folder = _free_folder(output)
    check_sound()
    console = Console(highlight=False, soft_wrap=True)
    started = time.perf_counter()
    console.print("[bold]1. Generating[/] speech, a vocabulary and a DVAE; importing torch and Coqui TTS takes a while")
    check_generation()
    folder.mkdir(parents=True)
    (folder / _UNFINISHED).write_text(str(os.getpid()), encoding="ascii")
    with _quiet(console, folder):
        assets = write_tiny_assets(folder / "data")
        command = _shown(folder / "train.json")
        console.print(f"[bold]2. Training[/] a tiny XTTS with the export on: xtts-export train {command}")
        run = _train(folder, assets)
        average = run / "inference" / f"average_last_{_AVERAGED}"
        console.print(f'[bold]3. Speaking[/] with the average: TTS(model_path="{_shown(average)}", ...)')
        speech = _speak(average, assets, folder / "speech.wav")
    (folder / _UNFINISHED).unlink()
    console.print(_table(run, speech))
    console.print(f"Done in {time.perf_counter() - started:.0f} s. The voice hums: it was trained for seconds.")
    return run


def _shown(path: Path) -> str:
    """Escape markup and control characters of a path for rich."""
    from rich.markup import escape

    return escape(printable(path))


def _free_folder(output: str | Path | None) -> Path:
    """Return the folder to work in, which does not exist; that of a demo that was interrupted is removed first."""
    folder = expanded(output if output is not None else DEFAULT_OUTPUT).resolve()
    if folder.exists():
        if not _is_interrupted_demo(folder):
            msg = f"{folder}: exists already; remove it or choose another folder with --output"
            raise OutputExistsError(msg)
        shutil.rmtree(folder)
    parent = next(each for each in folder.parents if each.is_dir())
    free = free_bytes(parent)
    if free < _NEEDED:
        msg = f"{folder}: {human_size(free)} free, expected {human_size(_NEEDED)}; choose another folder with --output"
        raise ConfigError(msg)
    return folder


def _is_interrupted_demo(folder: Path) -> bool:
    """Whether a folder holds what a demo has written that no longer runs and did not end, and nothing else."""
    try:
        names = {entry.name for entry in folder.iterdir()}
        return names <= {_UNFINISHED, *_WRITTEN} and not is_running(int((folder / _UNFINISHED).read_text("ascii")))
    except (OSError, ValueError):
        return False


def _train(folder: Path, assets: TinyAssets) -> Path:
    """Run the recipe, as ``xtts-export train`` does."""
    import torch

    from xtts_export_callback.demo.tiny_model import tiny_trainer_config
    from xtts_export_callback.train_gpt_xtts import train

    config = tiny_trainer_config(
        assets,
        folder / "runs",
        run_name="demo",
        epochs=_EPOCHS,
        save_step=_SAVE_STEP,
        save_n_checkpoints=1,
        save_best_after=_BEST_AFTER,
        export=ExportConfig(enabled=True, average_last=_AVERAGED),
    )
    config.save_json(folder / "train.json")
    torch.manual_seed(0)
    return train(folder / "train.json")


def _speak(model: Path, assets: TinyAssets, path: Path) -> Path:
    """Load an inference folder like any Coqui model, and speak a sentence."""
    from TTS.api import TTS

    tts = TTS(model_path=str(model), config_path=str(model / "config.json"), progress_bar=False)
    wav = tts.tts(_SENTENCE, speaker_wav=str(assets.speaker_wav), language="en")
    # tts_to_file of coqui-tts 0.27 would label it with the rate of the training data, 22,050 Hz.
    write_wav(path, np.asarray(wav), sample_rate=tts.synthesizer.tts_config.audio.output_sample_rate)
    return path


def _table(run: Path, speech: Path) -> Table:
    """List each file with its size and purpose."""
    from rich.table import Table

    table = Table(title=_shown(run), title_justify="left")
    table.add_column("File", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("What it is for")
    for pattern, use in _USES:
        for path in sorted(run.glob(pattern), key=_number):
            inside = pattern.count("/") > 1
            name = f"  {path.name}" if inside else path.relative_to(run).as_posix() + "/" * path.is_dir()
            table.add_row(name, human_size(_size(path)), f"  {use}" if inside else use)
    table.add_section()
    table.add_row(speech.name, human_size(_size(speech)), f'"{_SENTENCE}"')
    return table


def _number(path: Path) -> int:
    """Return the step in a name, for sorting."""
    return int("".join(re.findall(r"\d+$", path.stem)) or 0)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


class _Highlights(logging.Handler):
    """Shows the progress of a training: epochs, losses, checkpoints and exports, from the Trainer's log."""

    def __init__(self, console: Console, folder: Path) -> None:
        super().__init__()
        self._console = console
        self._run = re.compile(re.escape(str(folder / "runs")) + r"[/\\][^/\\]+[/\\]")

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a record says about progress, and warnings as they are."""
        for line in re.sub(r"\x1b\[\d*m", "", record.getMessage()).splitlines():
            text = line if record.levelno >= logging.WARNING else _highlight(line)
            if text:
                self._console.print(f"   {printable(self._run.sub('', text.strip()))}", markup=False)


def _highlight(line: str) -> str:
    """Shorten a line of the Trainer's log, to nothing if it does not show progress."""
    if epoch := re.search(r"> EPOCH: (\d+)/", line):  # counted to the last one, or in older Trainers to their number
        return f"epoch {int(epoch[1]) + 1} of {_EPOCHS}"
    if loss := re.search(r"avg_loss: *([\d.]+)", line):
        return f"evaluation loss {float(loss[1]):.3f}"
    saved = re.search(r"> ((?:CHECKPOINT|BEST MODEL|EXPORT) :.*)", line)
    return saved[1] if saved else ""


@contextlib.contextmanager
def _quiet(console: Console, folder: Path) -> Iterator[None]:
    """Keep all but the highlights of a training's log off the terminal. The run's trainer_0_log.txt has all of it."""
    import transformers
    from trainer.logger import logger

    before = list(logger.handlers)
    verbosity = transformers.logging.get_verbosity()
    logger.handlers = [_Highlights(console, folder)]
    transformers.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in logger.handlers:
            handler.close()
        logger.handlers = before
        transformers.logging.set_verbosity(verbosity)
