"""Real trainings of the tiny model: in this process, or in one of their own that a test can interrupt and kill."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]

# What one training step callback is called with is the Trainer itself.
Callbacks = Mapping[str, Callable[[Any], None]]


@contextmanager
def lines_logged_by(name: str) -> Iterator[list[str]]:
    """The lines that a logger and those below it have logged so far."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def make_trainer(config: Any, callbacks: Callbacks | None = None, **trainer_args: Any) -> Any:
    """Build a real Trainer with a real GPTTrainer, as a training script does, without reading the command line.

    Args:
        config: From the fixture ``tiny_config``.
        callbacks: For the Trainer's ``callbacks``.
        **trainer_args: Fields of ``TrainerArgs``, such as ``continue_path``.
    """
    from trainer import Trainer, TrainerArgs
    from TTS.tts.datasets import load_tts_samples
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

    # A list of data sets up to coqui-tts 0.27, from 0.28 on the config that holds them.
    takes_list = "datasets" in inspect.signature(load_tts_samples).parameters
    train_samples, eval_samples = load_tts_samples(
        config.datasets if takes_list else config, eval_split=True, eval_split_size=config.eval_split_size
    )
    return Trainer(
        TrainerArgs(**trainer_args),
        config,
        output_path=config.output_path,
        model=GPTTrainer(config),
        train_samples=train_samples,
        eval_samples=eval_samples,
        parse_command_line_args=False,
        callbacks=dict(callbacks or {}),
    )


def train(config: Any, callbacks: Callbacks | None = None, **trainer_args: Any) -> Any:
    """Train to the end and return the Trainer. Takes the arguments of :func:`make_trainer`."""
    trainer = make_trainer(config, callbacks, **trainer_args)
    trainer.fit()
    trainer.output_path = Path(trainer.output_path)  # a string in trainer 0.0.36
    return trainer


def speak(model: Any, text: str, voice: Path) -> Any:
    """Have an ``Xtts`` say something in English. Up to coqui-tts 0.26 it has to be given its own config."""
    config = {"config": model.config} if "config" in inspect.signature(model.synthesize).parameters else {}
    return model.synthesize(text, speaker_wav=str(voice), language="en", **config)["wav"]


def speak_briefly(model: Any, voice: Path) -> Any:
    """Have an ``Xtts`` begin to say something: 20 steps, since untrained models do not stop by themselves."""
    model.gpt.max_gen_mel_tokens = 20
    return speak(model, "we sing.", voice)


def ctrl_c_exit_code() -> int:
    """What a training ends with after Ctrl-C; trainer 0.0.36 makes it an error."""
    from trainer import Trainer

    return 130 if "_exit(130)" in inspect.getsource(Trainer.fit) else 1


def close_trainer_logs() -> None:
    """Detach the log files that every Trainer adds to the one logger of its package and never closes."""
    logger = logging.getLogger("trainer")
    for handler in [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()


def start_recipe(*arguments: str | Path, prelude: str = "") -> subprocess.Popen[str]:
    """Start ``train_gpt_xtts`` in a process group of its own, for tests that interrupt or kill a training.

    Args:
        *arguments: Its command line.
        prelude: Python code to run before it, such as one that patches a function to fail or to stop.

    Returns:
        The process, its stdout and stderr together in ``.stdout``.
    """
    # What is started in the background of a script ignores Ctrl-C, and so would all that it starts.
    hear = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
    run = "import sys\nfrom xtts_export_callback.train_gpt_xtts import main\nsys.exit(main(sys.argv[1:]))"
    code = f"{hear}\n{prelude}\n{run}\n"
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
    )
