"""The mean of a real tiny run speaks, and training goes on from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.trainings import close_trainer_logs, make_trainer, speak, train
from xtts_export_callback import load_xtts
from xtts_export_callback.cli.main import main
from xtts_export_callback.demo.tiny_model import TinyAssets, tiny_trainer_config

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(tiny_assets: TinyAssets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of 6 steps with full checkpoints of steps 2 and 4."""
    config = tiny_trainer_config(
        tiny_assets, tmp_path_factory.mktemp("run"), epochs=1, save_step=2, save_n_checkpoints=2, save_best_after=10**6
    )
    trainer = train(config)
    yield Path(trainer.output_path)
    close_trainer_logs()


@pytest.fixture(scope="module")
def mean(run: Path) -> Path:
    """The mean of the run's checkpoints, written to go on training from."""
    assert main(["average", str(run), "--last", "2", "--for-training"]) == 0
    return run / "inference" / "average_last_2"


def test_the_mean_of_a_real_run_speaks(mean: Path, tiny_assets: TinyAssets) -> None:
    model = load_xtts(mean)
    spoken = speak(model, "Hello there.", tiny_assets.speaker_wav)
    wave = np.asarray(spoken)
    assert wave.size > 1000
    assert np.isfinite(wave).all()


def test_it_is_the_mean(run: Path, mean: Path) -> None:
    models = [torch.load(run / f"checkpoint_{step}.pth", weights_only=True)["model"] for step in (2, 4)]
    result = torch.load(mean / "model.pth", weights_only=True)["model"]
    moved = 0
    for name, tensor in result.items():
        inputs = [model[f"xtts.{name}"] for model in models]
        if tensor.is_floating_point():
            assert torch.equal(tensor, ((inputs[0].double() + inputs[1].double()) / 2).float())
            moved += not torch.equal(inputs[0], inputs[1])
    assert moved > 10  # the checkpoints are different ones


def test_gpt_trainer_goes_on_from_exactly_these_weights(
    mean: Path, tiny_assets: TinyAssets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config: Any = tiny_trainer_config(tiny_assets, tmp_path / "next", save_best_after=10**6)
    config.model_args.xtts_checkpoint = str(mean / "model.pth")
    config.model_args.tokenizer_file = str(mean / "vocab.json")
    config.model_args.mel_norm_file = str(mean / "mel_stats.pth")
    config.model_args.dvae_checkpoint = str(mean / "dvae.pth")
    trainer = make_trainer(config)
    loaded = trainer.model.state_dict()
    written = torch.load(mean / "model.pth", weights_only=True)["model"]
    dvae = torch.load(mean / "dvae.pth", weights_only=True)
    assert {name.removeprefix("xtts.") for name in loaded if name.startswith("xtts.")} == set(written)
    assert all(torch.equal(loaded[f"xtts.{name}"], tensor) for name, tensor in written.items())
    assert all(torch.equal(loaded[f"dvae.{name}"], tensor) for name, tensor in dvae.items())
    trainer.fit()
    trained = trainer.model.state_dict()
    name = "gpt.mel_head.weight"
    assert not torch.equal(trained[f"xtts.{name}"], written[name])


def test_two_runs_merge_by_recipe_and_speak(run: Path, mean: Path, tiny_assets: TinyAssets) -> None:
    recipe = run / "both.yaml"
    recipe.write_text(
        json.dumps(
            {
                "method": "slerp",
                "models": [{"path": "checkpoint_2.pth"}, {"path": "inference/average_last_2", "name": "mean"}],
                "rules": [{"match": ["conditioning_encoder", "perceiver"], "take": "mean"}],
            }
        ),
        encoding="utf-8",
    )
    assert main(["merge", str(recipe), "--output", str(run / "inference" / "both")]) == 0
    model = load_xtts(run / "inference" / "both")
    spoken = speak(model, "Hello there.", tiny_assets.speaker_wav)
    assert np.isfinite(np.asarray(spoken)).all()
