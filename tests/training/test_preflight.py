"""What could not read a recording, or could not speak, is refused before it starts, in one line with the remedy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torchaudio

from xtts_export_callback import train_gpt_xtts
from xtts_export_callback.demo.demo import run_demo
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.speaking_model import check_generation
from xtts_export_callback.training.preflight import check_sound

# As torchaudio 2.11 says it, where torchcodec finds no FFmpeg.
NO_FFMPEG = """Failed to create AudioDecoder for /tmp/sound.wav: Could not load libtorchcodec. Likely causes:
          1. FFmpeg is not properly installed in your environment. We support
             versions 4, 5, 6, 7, 8, and 9.

[start of libtorchcodec loading traceback]
OSError: libavutil.so.61: cannot open shared object file: No such file or directory
[end of libtorchcodec loading traceback]."""
NO_TORCHCODEC = "TorchCodec is required for load_with_torchcodec. Please install torchcodec to use this function."
NO_BACKEND = "Couldn't find appropriate backend to handle uri /tmp/sound.wav and format None."
OTHER_CUDA = "Detected that PyTorch and TorchAudio were compiled with different CUDA versions."


def test_sound_can_be_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    load = torchaudio.load

    def noting(path: str) -> Any:
        read.append(load(path))
        return read[-1]

    monkeypatch.setattr(torchaudio, "load", noting)
    check_sound()
    assert [(sound.shape[-1], rate) for sound, rate in read] == [(2205, 22050)]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError(NO_FFMPEG), r"\(Could not load libtorchcodec\); from 2\.9 on .*apt install ffmpeg.*2\.8\.0"),
        (ImportError(NO_TORCHCODEC), r"\(TorchCodec is required.*\); .*pip install torchcodec.*apt install ffmpeg"),
        (RuntimeError(NO_BACKEND), r"\(Couldn't find .*\); pip install soundfile"),
        (OSError("a long\n\nstory"), r"\(a long story\)"),
    ],
    ids=["no FFmpeg", "no torchcodec", "no backend", "another error"],
)
def test_what_cannot_read_sound_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    def load(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(torchaudio, "load", load)
    with pytest.raises(ConfigError, match=r"torchaudio cannot read a wav file " + expected) as caught:
        check_sound()
    assert "\n" not in str(caught.value)


def test_samples_that_are_not_those_of_the_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torchaudio, "load", lambda path: (torch.zeros(1, 10), 22050))
    with pytest.raises(ConfigError, match="reads 10 samples at 22050 Hz from a wav file with 2205 at 22050"):
        check_sound()


def test_a_torchaudio_that_does_not_fit_torch_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torchaudio.py").write_text(f"raise RuntimeError({OTHER_CUDA!r})", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchaudio")
    with pytest.raises(
        ConfigError, match=r"torchaudio cannot be imported \(Detected .*\); install the version that fits"
    ):
        check_sound()


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **options: Any) -> Any:
        raise RuntimeError(NO_FFMPEG)

    monkeypatch.setattr(torchaudio, "load", load)


@pytest.mark.usefixtures("unreadable")
def test_a_training_that_would_hang_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(train_gpt_xtts, "read_config", lambda *args, **options: {"trainer_args": {}})
    monkeypatch.setattr(train_gpt_xtts, "_fit", lambda *args, **options: pytest.fail("the training has started"))
    with pytest.raises(ConfigError, match="apt install ffmpeg"):
        train_gpt_xtts.train(tmp_path / "config.json")


@pytest.mark.usefixtures("unreadable")
def test_a_demo_that_would_hang_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="apt install ffmpeg"):
        run_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unreadable")
def test_a_training_of_another_script_is_warned(light: Callable[..., Path], log: list[str]) -> None:
    light({"enabled": True}, epochs=1)
    (line,) = [line for line in log if "recordings cannot be read here" in line]
    assert line.startswith(" ! EXPORT : ")
    assert "apt install ffmpeg" in line


class TestTransformersThatRenamesTheCache:
    """As 5.24 does, whose ``generate`` hands the cache to the model as ``cache``."""

    @pytest.fixture(autouse=True)
    def _renamed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers import GenerationMixin

        def prepare(self: Any, input_ids: Any, cache: Any = None, **others: Any) -> Any: ...

        monkeypatch.setattr(GenerationMixin, "prepare_inputs_for_generation", prepare)

    def test_the_demo_names_it_and_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot speak with transformers .*pip install .transformers<5\.24"):
            run_demo(tmp_path / "demo")
        assert list(tmp_path.iterdir()) == []

    def test_a_model_that_takes_it_under_the_new_name_is_let_through(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from TTS.tts.layers.xtts.gpt_inference import GPT2InferenceModel

        def forward(self: Any, input_ids: Any = None, cache: Any = None) -> Any: ...

        monkeypatch.setattr(GPT2InferenceModel, "forward", forward)
        check_generation()


@pytest.mark.integration
def test_with_what_is_installed_here_models_can_speak() -> None:
    check_generation()
