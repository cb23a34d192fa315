"""Whether a training can work here at all, asked before it starts.

Coqui reads recordings with torchaudio. Where that fails, `XTTSDataset.__getitem__` passes over the recording and asks
for another one, without end: a training hangs in its first step, says nothing, and its memory grows until it is killed.
"""

from __future__ import annotations

import tempfile
import warnings
import wave
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from xtts_export_callback.errors import ConfigError

_SAMPLES, _RATE = 2205, 22050
_TORCHCODEC = (
    "from 2.9 on it takes torchcodec, in the version that fits torch {torch}, and the libraries of FFmpeg: pip install "
    "torchcodec, and apt install ffmpeg, brew install ffmpeg or conda install ffmpeg; or install torch and torchaudio "
    "2.8.0, which need neither"
)
_BACKEND = "pip install soundfile, which it reads sound with"
_MATCH = "install the version that fits torch {torch}, or torch and torchaudio 2.8.0"


def check_sound() -> None:
    """Read a short recording with torchaudio, as Coqui will read those of the training and those it speaks like.

    Importing torch and torchaudio takes seconds, the reading itself milliseconds.

    Raises:
        ConfigError: If torchaudio cannot be imported or cannot read a wav file, with the cause and the remedy.
        ModuleNotFoundError: If torch or torchaudio is not installed.
    """
    try:
        import torchaudio
    except ModuleNotFoundError:
        raise
    except Exception as error:  # of another CUDA than torch: RuntimeError; of another torch: OSError
        _refuse("torchaudio cannot be imported", error, _MATCH)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torchaudio announces for its next version
        path = Path(folder) / "sound.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(_RATE)
            file.writeframes(bytes(2 * _SAMPLES))
        try:
            sound, rate = torchaudio.load(str(path))
        except Exception as error:  # each of its backends raises errors of its own
            _refuse("torchaudio cannot read a wav file", error, _TORCHCODEC if _is_torchcodec(error) else _BACKEND)
    if (sound.shape[-1], rate) != (_SAMPLES, _RATE):
        msg = f"torchaudio reads {sound.shape[-1]} samples at {rate} Hz from a wav file with {_SAMPLES} at {_RATE}"
        raise ConfigError(msg)


def _is_torchcodec(error: Exception) -> bool:
    return "torchcodec" in str(error).lower()


def _refuse(what: str, error: Exception, remedy: str) -> NoReturn:
    """Raise one line of what torchaudio says in up to 150."""
    cause = " ".join(str(error).split())
    if "Could not load libtorchcodec" in cause:
        cause = "Could not load libtorchcodec"
    msg = f"{what} ({cause[:300]}); {remedy.format(torch=version('torch'))}"
    raise ConfigError(msg) from error
