"""Write ``speakers_xtts.pth``, ``mel_stats.pth`` and ``dvae.pth`` of a release into an export.

The reader of checkpoints reads them and they are written anew, so that an export holds only voices, statistics and
weights: no truncated download, no Git LFS pointer, no pickle that runs code, no private file.
"""

from __future__ import annotations

import re
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.document import check_tensors
from xtts_export_callback.checkpoint.placeholders import describe
from xtts_export_callback.checkpoint.reader import open_document
from xtts_export_callback.checkpoint.writer import write_pth
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.tensors.tensor import Tensor, skip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPEAKERS, MEL_STATS, DVAE = "speakers_xtts.pth", "mel_stats.pth", "dvae.pth"
COMPANIONS = (SPEAKERS, MEL_STATS, DVAE)
VOICE = ("gpt_cond_latent", "speaker_embedding")
"""Keys of a voice, in the order in which ``Xtts.synthesize`` unpacks them."""

# The release has 7.8 MB for 58 voices, 1 kB and 211 MB.
_MOST_BYTES = {SPEAKERS: 256 << 20, MEL_STATS: 1 << 20, DVAE: 1 << 30}
_MEL_SHAPE = (80,)  # Xtts.__init__: register_buffer("mel_stats", torch.ones(80))
_CODEBOOK = "codebook.embed"  # TTS.tts.layers.xtts.dvae.Quantize
_PLAIN_NAME = re.compile(r"\w[\w .,'()&+-]{0,99}")


@contextmanager
def open_companion(path: Path, name: str) -> Iterator[Any]:
    """Open one of these files.

    Args:
        path: The file.
        name: Which of `COMPANIONS` it should be.

    Yields:
        The content to write: a tensor, a dict of tensors, or for each voice a dict of `VOICE`. No tensor is read.

    Raises:
        CheckpointError: When the file is something else.
    """
    with open_document(path, most=_MOST_BYTES[name]) as (document, _):
        _check(path, name, document)
        if name != SPEAKERS:
            yield document
        else:
            yield {voice: _in_order(latents) for voice, latents in document.items()}


def write_companion(path: Path, candidates: list[Path], *, mode: int) -> list[str]:
    """Write one of these files anew, from the first valid candidate.

    Args:
        path: The file to create, named as one of `COMPANIONS`.
        candidates: Paths of possible sources.
        mode: Permissions, narrowed by those of the source.

    Returns:
        What was left out, and why, in a line each.

    Raises:
        OSError, VerificationError: When writing fails.
    """
    notes = []
    for candidate in candidates:
        try:
            with open_companion(candidate, path.name) as document:
                plain = _with_plain_names(document) if path.name == SPEAKERS else document
                if path.name != SPEAKERS or plain:
                    narrowed = mode & stat.S_IMODE(candidate.stat().st_mode)
                    write_pth(path, plain, mode=narrowed)
            if path.name == SPEAKERS and len(plain) < len(document):
                count = len(document) - len(plain)
                notes.append(f"{candidate}: {count} of {len(document)} voices were left out: their names are not plain")
            break
        except CheckpointError as error:
            notes.append(f"{path.name} was left out: {error}")
    return notes


def _with_plain_names(voices: dict[str, Any]) -> dict[str, Any]:
    """Keep the voices with a plain name; some programs use the paths of recordings as names."""
    return {name: latents for name, latents in voices.items() if _PLAIN_NAME.fullmatch(name)}


def companion_fault(path: Path, name: str, allowed: re.Pattern[str]) -> str | None:
    """Read one of these files in full and say why Coqui could not use it; None if it can.

    Args:
        path: The file.
        name: Which of `COMPANIONS` it should be.
        allowed: Globals that ``torch.load(weights_only=True)`` accepts.
    """
    try:
        with open_document(path, most=_MOST_BYTES[name]) as (document, names):
            _check(path, name, document)
            refused = next((each for each in sorted(names) if not allowed.fullmatch(each)), None)
            if refused is not None:
                return f"{name}: {refused} is refused by torch.load(weights_only=True)"
            voices = document if name == SPEAKERS else {}
            for voice, latents in voices.items():
                if list(latents) != list(_in_order(latents)):
                    return f"{name}: expected only {' and '.join(VOICE)} for {describe(voice)}, in this order"
            tensors = [latent for latents in voices.values() for latent in latents.values()]
            tensors += [document] if name == MEL_STATS else document.values() if name == DVAE else []
            for tensor in tensors:
                skip(tensor.storage.reader(), tensor.storage.nbytes)
    except (CheckpointError, OSError, EOFError) as error:
        return str(error)
    return None


def _check(path: Path, name: str, document: Any) -> None:
    if name == MEL_STATS:
        _check_mel_stats(path, document)
    elif name == DVAE:
        _check_dvae(path, document)
    else:
        _check_voices(path, document)


def _check_mel_stats(path: Path, document: Any) -> None:
    if not isinstance(document, Tensor) or document.shape != _MEL_SHAPE or not document.dtype.is_float:
        found = f"{document.dtype.name} {list(document.shape)}" if isinstance(document, Tensor) else describe(document)
        msg = f"{path}: expected floating-point mel statistics of shape {list(_MEL_SHAPE)}, found {found}"
        raise CheckpointError(msg)


def _check_dvae(path: Path, document: Any) -> None:
    is_weights = isinstance(document, dict) and _CODEBOOK in document
    other = next((key for key, value in document.items() if not _is_weight(key, value)), None) if is_weights else None
    if not is_weights or other is not None:
        found = describe(document) if other is None else f"{describe(document[other])} for {describe(other)}"
        msg = f"{path}: expected the weights of a DVAE by name, {_CODEBOOK} among them, found {found}"
        raise CheckpointError(msg)
    check_tensors(path, path.stat().st_size, document)


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _in_order(latents: dict[str, Any]) -> dict[str, Any]:
    return {key: latents[key] for key in VOICE if key in latents}


def _check_voices(path: Path, document: Any) -> None:
    """Accept a voice without latents, whose name Coqui lists; refuse one with only some, which it cannot use."""
    if not isinstance(document, dict) or not document:
        msg = f"{path}: expected voices by name, found {describe(document)}"
        raise CheckpointError(msg)
    for voice, latents in document.items():
        is_voice = isinstance(voice, str) and isinstance(latents, dict)
        if not is_voice or (latents and not all(_is_latent(latents.get(key)) for key in VOICE)):
            msg = f"{path}: expected {' and '.join(VOICE)} for each voice, found something else for {describe(voice)}"
            raise CheckpointError(msg)
    voices = enumerate(document.values())
    flat = {f"{number}.{key}": latent for number, latents in voices for key, latent in _in_order(latents).items()}
    if flat:
        check_tensors(path, path.stat().st_size, flat)


def _is_latent(value: Any) -> bool:
    """Whether a value can be a latent of shape [1, frames, channels] or [1, channels, 1]."""
    return isinstance(value, Tensor) and value.dtype.is_float and len(value.shape) == 3 and value.numel > 0
