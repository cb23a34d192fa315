"""Which training clip is packed as the voice."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.models.programs import ACCEPTS
from tests.models.trainings import make_trainer
from xtts_export_callback import export_callbacks
from xtts_export_callback.demo.tiny_model import TinyAssets
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.training.best_clip import best_clip
from xtts_export_callback.training.config import ExportConfig

RECORDINGS = Path(__file__).parents[1] / "evaluation" / "recordings"


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, int]:
    """Speech of 7.4 s, made of the two recordings in turn."""
    clips = [soundfile.read(path) for path in sorted(RECORDINGS.glob("*.wav"))]
    return np.concatenate([sound for sound, _ in clips] * 2), clips[0][1]


@pytest.fixture(params=["voice activity", "energy"])
def measure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the packages that find speech, and without them."""
    if request.param == "energy":
        monkeypatch.setitem(sys.modules, "silero_vad", None)
    else:
        pytest.importorskip("silero_vad")
    return str(request.param)


@pytest.mark.parametrize("worse", ["half silent", "faint", "clipped", "shorter"])
def test_clear_speech_is_chosen_before_others(
    speech: tuple[np.ndarray, int], measure: str, tmp_path: Path, worse: str
) -> None:
    sound, rate = speech
    others = {
        "half silent": np.concatenate([sound, np.zeros(12 * rate)]),
        "faint": np.tile(sound, 2) / 100,
        "clipped": np.clip(np.tile(sound, 2) * 30, -1, 1),
        "shorter": sound[: int(6.2 * rate)],
    }
    soundfile.write(tmp_path / "good.wav", sound, rate)
    soundfile.write(tmp_path / "worse.wav", others[worse], rate)

    for order in (["good.wav", "worse.wav"], ["worse.wav", "good.wav"]):
        assert best_clip([tmp_path / name for name in order]).name == "good.wav"


def test_noise_is_no_speech(speech: tuple[np.ndarray, int], tmp_path: Path) -> None:
    pytest.importorskip("silero_vad")
    sound, rate = speech
    soundfile.write(tmp_path / "good.wav", sound, rate)
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 20 * rate), rate)

    assert best_clip([tmp_path / "noise.wav", tmp_path / "good.wav"]).name == "good.wav"


def test_clips_of_other_lengths_and_kinds_are_not_considered(speech: tuple[np.ndarray, int], tmp_path: Path) -> None:
    sound, rate = speech
    soundfile.write(tmp_path / "short.wav", sound[: 5 * rate], rate)
    soundfile.write(tmp_path / "long.wav", np.tile(sound, 5), rate)
    soundfile.write(tmp_path / "good.flac", sound, rate)
    (tmp_path / "text.wav").write_text("no sound", "utf-8")

    with pytest.raises(ConfigError, match=r"none of 4 training clips is a WAV of 6 to 30 s; name one"):
        best_clip([*tmp_path.iterdir(), tmp_path / "gone.wav"])


def test_no_clip_is_taken_by_default() -> None:
    assert ExportConfig().voice == ""


@pytest.mark.integration
def test_the_best_training_clip_is_packed_with_its_latents(
    tiny_assets: TinyAssets,
    tiny_config: Callable[..., Any],
    tmp_path: Path,
    log: list[str],
    speech: tuple[np.ndarray, int],
) -> None:
    config = tiny_config(epochs=1, export=ExportConfig(enabled=True, layout="xtts-finetune-webui", voice="auto"))
    dataset = shutil.copytree(tiny_assets.dataset, tmp_path / "speech")
    for name in ("good1", "good2", "good3"):  # two clips are for the evaluation
        soundfile.write(dataset / "wavs" / f"{name}.wav", *speech)
        with (dataset / "metadata.csv").open("a", encoding="utf-8") as rows:
            rows.write(f"{name}|in the thing|in the thing\n")
    config.datasets[0].path = str(dataset)
    trainer = make_trainer(config, export_callbacks(config))
    trainer.save_checkpoint()
    trainer.fit()
    (packed,) = (Path(trainer.output_path) / "inference").glob("*-xtts-finetune-webui")

    assert ACCEPTS["xtts-finetune-webui"](packed)
    assert soundfile.info(packed / "reference.wav").frames == len(speech[0])
    assert list(torch.load(packed / "speakers_xtts.pth", weights_only=True)) == [packed.name]
    assert any(line.endswith(" is the best training clip: it is packed as the voice") for line in log)
