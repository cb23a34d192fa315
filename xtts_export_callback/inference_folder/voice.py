"""The voice of a packed model: a reference clip, and the latents that the model makes of it.

The clip is written anew with its sound alone: a WAV can carry the name of its speaker, of its owner and of a studio.
The latents depend on the weights, because the conditioning encoder is trained too. Computing them needs torch and
Coqui.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from xtts_export_callback.checkpoint import write_pth
from xtts_export_callback.errors import ConfigError, MissingExtraError
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.inference_folder.load import load_xtts
from xtts_export_callback.quiet import quiet
from xtts_export_callback.tensors.tensor import ArrayStorage, Tensor
from xtts_export_callback.xtts.companions import SPEAKERS, VOICE, open_companion

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from xtts_export_callback.inference_folder.layouts import Layout

_CHUNK = struct.Struct("<4sI")
_FORMAT = struct.Struct("<HHIIHH")  # kind, channels, rate, bytes a second, bytes a frame, bits a sample
_SHORTEST = 1.0  # seconds
GOOD_SECONDS = (6.0, 30.0)
"""Length of a good reference clip; XTTS makes its latents from up to 30 s."""
_MOST_BYTES = 256 << 20
_NOT_IN_NAMES = re.compile(r"[^\w .,'()&+-]")


@dataclass(frozen=True)
class Clip:
    """A reference recording.

    Attributes:
        content: A WAV that holds format and samples and nothing else.
        seconds: Its length.
    """

    content: bytes
    seconds: float

    @property
    def sha256(self) -> str:
        """The SHA-256 of the WAV, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def notes(self) -> list[str]:
        """What is worth knowing about it, in a line each."""
        if GOOD_SECONDS[0] <= self.seconds <= GOOD_SECONDS[1]:
            return []
        return [f"the reference clip has {self.seconds:.1f} s: XTTS copies a voice best from 6 to 30 s of clean speech"]


def read_clip(path: Path) -> Clip:
    """Read a WAV.

    Raises:
        ConfigError: When it is something else, holds no sound or is shorter than a second.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            _refuse(path, f"more than {_MOST_BYTES >> 20} MiB; cut out 6 to 30 s of it")
        content = path.read_bytes()
    except OSError as error:
        msg = f"{path}: {error.strerror or error}; name a WAV with --voice"
        raise ConfigError(msg) from error
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        _refuse(path, f"something else; convert it: ffmpeg -i {path.name} -ac 1 -ar 22050 reference.wav")
    kept: dict[bytes, bytes] = {}
    position = 12
    while position + _CHUNK.size <= len(content):
        name, size = _CHUNK.unpack_from(content, position)
        start = position + _CHUNK.size
        if name in (b"fmt ", b"fact", b"data"):
            kept.setdefault(name, content[start : start + size])  # of a stream, the size of the data is 0xFFFFFFFF
        position = start + size + size % 2
    if len(kept.get(b"fmt ", b"")) < _FORMAT.size or not kept.get(b"data"):
        _refuse(path, "one without sound; record it again")
    _, _, rate, _, frame, _ = _FORMAT.unpack_from(kept[b"fmt "])
    kept[b"data"] = kept[b"data"][: len(kept[b"data"]) // max(1, frame) * max(1, frame)]
    seconds = len(kept[b"data"]) / (rate * frame) if rate * frame else 0.0
    if seconds < _SHORTEST:
        _refuse(path, f"{seconds:.2f} s of sound; record 6 to 30 s")
    chunks = b"".join(_CHUNK.pack(name, len(data)) + data + b"\0" * (len(data) % 2) for name, data in kept.items())
    return Clip(_CHUNK.pack(b"RIFF", 4 + len(chunks)) + b"WAVE" + chunks, seconds)


def _refuse(path: Path, found: str) -> NoReturn:
    msg = f"{path}: expected a WAV of a voice, found {found}"
    raise ConfigError(msg)


Latents: TypeAlias = "dict[str, npt.NDArray[np.float32]]"
"""``gpt_cond_latent`` [1, frames, channels] and ``speaker_embedding`` [1, channels, 1], float32."""


def compute_latents(folder: Path, clip: Path, conditioning: Mapping[str, int]) -> Latents:
    """Compute the latents of a clip with the weights of an inference folder.

    Args:
        folder: The inference folder.
        clip: The WAV.
        conditioning: Arguments of ``Xtts.get_conditioning_latents``; empty for those that ``Xtts.synthesize`` takes
            from the config.

    Raises:
        MissingExtraError: Without torch or Coqui.
        CheckpointError: When the folder cannot be loaded.
    """
    with quiet():
        model = load_xtts(folder)
    chosen: dict[str, Any] = dict(conditioning) or {
        "max_ref_length": model.config.max_ref_len,
        **{key: model.config[key] for key in ("gpt_cond_len", "gpt_cond_chunk_len", "sound_norm_refs")},
    }
    with quiet():
        latents = model.get_conditioning_latents(audio_path=[str(clip)], **chosen)
    found = {key: latent.detach().cpu().float().numpy() for key, latent in zip(VOICE, latents, strict=True)}
    del model
    gc.collect()  # Windows renames no folder with a mapped file in it
    return found


def write_latents(folder: Path, name: str, layout: Layout, *, mode: int) -> list[str]:
    """Write the latents of a folder's clip, as far as its program reads them: as JSON and as ``speakers_xtts.pth``.

    Args:
        folder: The folder, with weights, config, vocabulary and clip.
        name: Name of the model.
        layout: What the folder is for.
        mode: Permissions of the files.

    Returns:
        What was left out, and why, in a line each.
    """
    if not layout.lists_voices:
        return []
    try:
        latents = compute_latents(folder, folder / layout.clip.format(name=name), layout.conditioning)
    except MissingExtraError as error:
        return [f"latents were left out: {error}"]
    if layout.latents:
        shaped = {key: latent.squeeze() if layout.flat_latents else latent for key, latent in latents.items()}
        content = json.dumps({key: latent.tolist() for key, latent in shaped.items()}).encode()
        with RandomFile(folder / layout.latents.format(name=name), create=True, mode=mode) as out:
            out.write_at(content, 0)
            out.sync()
    _add_speaker(folder / SPEAKERS, name, latents, mode)
    return []


def _add_speaker(path: Path, name: str, latents: Latents, mode: int) -> None:
    """Write ``speakers_xtts.pth`` with a voice, before those of the file that is there."""
    plain = _NOT_IN_NAMES.sub("_", name)[:100].lstrip(" .,'()&+-") or "voice"
    voice = {
        key: Tensor.contiguous(ArrayStorage(latent.tobytes()), "float32", latent.shape)
        for key, latent in latents.items()
    }
    if not path.exists():
        write_pth(path, {plain: voice}, mode=mode)
        return
    with open_companion(path, SPEAKERS) as others:
        rest = {key: each for key, each in others.items() if key != plain}
        write_pth(path, {plain: voice, **rest}, force=True, mode=mode)
