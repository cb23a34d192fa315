"""What the tests of inference folders share: a checkpoint of the tiny model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.trainings import close_trainer_logs, make_trainer
from xtts_export_callback.demo.tiny_model import TinyAssets, tiny_trainer_config


@pytest.fixture(scope="module")
def checkpoint(tiny_assets: TinyAssets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A full checkpoint of the tiny model, as the Trainer saves it."""
    trainer = make_trainer(tiny_trainer_config(tiny_assets, tmp_path_factory.mktemp("run")))
    trainer.save_checkpoint()
    close_trainer_logs()
    yield Path(trainer.output_path) / "checkpoint_0.pth"
    shutil.rmtree(trainer.output_path)
