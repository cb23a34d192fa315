"""Encoders of voices: the one inside every XTTS, or Resemblyzer's for recordings without a model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xtts_export_callback.evaluation.measures import Reference
from xtts_export_callback.evaluation.sound import RATE, read_sound

if TYPE_CHECKING:
    from xtts_export_callback.evaluation.measures import VoiceEncoder
    from xtts_export_callback.evaluation.sound import FloatArray

# resemblyzer.hparams
_WINDOW, _STEP, _MELS = 400, 160, 40  # samples, samples, bands
_FRAMES, _LOUDNESS = 160, 10 ** (-30 / 20)  # 1.6 s at a time; full scale
_WIDTH, _LAYERS = 256, 3


def reference(encoder: VoiceEncoder, wav: Path) -> Reference:
    """Return the voice of a recording, to compare clips with.

    Raises:
        ConfigError: When the recording cannot be read.
    """
    return Reference(encoder, encoder(read_sound(wav)))


def encoder_of(model: Any) -> VoiceEncoder:
    """Return the speaker encoder of an ``Xtts``, ``hifigan_decoder.speaker_encoder``: H/ASP, arXiv 2009.14153.

    Fine-tuning leaves it as it is, so that candidates of one base model are judged alike.

    Args:
        model: The ``Xtts``.
    """

    def encode(sound: FloatArray) -> FloatArray:
        import torch

        embedding = model.get_speaker_embedding(torch.from_numpy(sound)[None].to(model.device), RATE)
        result: FloatArray = embedding.cpu().numpy().reshape(-1)
        return result

    return encode


def resemblyzer() -> VoiceEncoder | None:
    """Return the encoder of Resemblyzer 0.1 (GE2E, arXiv 1710.10467), if the package is installed.

    Only its weights are used: the package itself imports webrtcvad, which needs a C compiler to install and a version
    of setuptools that still has ``pkg_resources``. ``pip install --no-deps resemblyzer`` is enough.

    Returns:
        The encoder; None where the package is missing. Clips of LJSpeech have cosines of 0.78 to 0.97 with each other,
        the lower ones where a clip is shorter than two seconds, and of 0.35 to 0.56 with clips of another woman. It
        also hears noise: at 10 dB, the same voice comes down from 0.93 to 0.63.
    """
    found = importlib.util.find_spec("resemblyzer")
    if found is None or not found.submodule_search_locations:
        return None
    return _Resemblyzer(Path(next(iter(found.submodule_search_locations))) / "pretrained.pt")


class _Resemblyzer:
    """The network of ``resemblyzer.voice_encoder`` and the spectrogram of ``resemblyzer.audio``."""

    def __init__(self, weights: Path) -> None:
        import torch
        from torchaudio.transforms import MelSpectrogram

        state = torch.load(str(weights), map_location="cpu", weights_only=True)["model_state"]
        self._lstm = torch.nn.LSTM(_MELS, _WIDTH, _LAYERS, batch_first=True)
        self._linear = torch.nn.Linear(_WIDTH, _WIDTH)
        for name, module in (("lstm.", self._lstm), ("linear.", self._linear)):
            module.load_state_dict({key[len(name) :]: value for key, value in state.items() if key.startswith(name)})
        # As librosa.feature.melspectrogram has it by default.
        slaney = {"mel_scale": "slaney", "norm": "slaney", "pad_mode": "constant"}
        self._mel = MelSpectrogram(RATE, _WINDOW, hop_length=_STEP, n_mels=_MELS, **slaney)

    def __call__(self, sound: FloatArray) -> FloatArray:
        import torch
        from torch.nn.functional import normalize, pad

        loudness = float(np.sqrt(np.mean(sound**2)))
        louder = sound * max(1.0, _LOUDNESS / max(loudness, 1e-9))
        frames = self._mel(torch.from_numpy(louder.astype(np.float32))).T
        frames = pad(frames, (0, 0, 0, max(0, _FRAMES - len(frames))))
        pieces = frames.unfold(0, _FRAMES, _FRAMES // 2).transpose(1, 2)
        with torch.inference_mode():
            last_state = self._lstm(pieces)[1][0][-1]
            each = normalize(torch.relu(self._linear(last_state)))
            result: FloatArray = normalize(each.mean(0), dim=0).numpy()
        return result
