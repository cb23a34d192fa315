"""Have several models say one text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.evaluation.candidates import find_candidates, swap_weights
from xtts_export_callback.evaluation.faults import faults_of_codes
from xtts_export_callback.evaluation.prepare import usable_device
from xtts_export_callback.evaluation.results import Sentence
from xtts_export_callback.evaluation.sound import write_sound
from xtts_export_callback.evaluation.speaking import say, voice_by_name, voice_of_recording
from xtts_export_callback.evaluation.speaking_model import check_generation, speaking_model
from xtts_export_callback.extras import require
from xtts_export_callback.files.atomic import whole_file
from xtts_export_callback.files.paths import expanded

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Wav:
    """A file that a model spoke.

    Attributes:
        name: The model's name.
        wav: The file.
        seconds: Its length.
        faults: ``"no stop token"`` and ``"loop in the codes"``, where they occurred.
    """

    name: str
    wav: str
    seconds: float
    faults: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)


def speak(  # noqa: PLR0913 - options of one command
    paths: Sequence[str | os.PathLike[str]],
    text: str,
    output: Path,
    *,
    voice: str | os.PathLike[str] | None = None,
    speaker: str | None = None,
    language: str = "en",
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Wav]:
    """Have models say a text, one after another in the memory of one.

    Args:
        paths: Runs (all of their checkpoints and exports), checkpoints, inference folders or files of weights.
        text: What to say.
        output: Folder for the wavs, ``NAME.wav`` each, 16 bit, 24 kHz, mono.
        voice: Recording of the voice to say it with.
        speaker: In place of a recording, a voice of the ``speakers_xtts.pth`` beside the first model. Its latents come
            from the release, whose GPT the models were trained from.
        language: Code as XTTS has it, such as ``"en"`` or ``"zh-cn"``.
        seed: The same seed gives the same wav on the same machine.
        device: Such as ``"cuda"``; by default the first GPU, or else the CPU.
        force: Replace wavs of these names.
        progress: Called with the number of wavs written and that of all.

    Returns:
        The files, in the order of the models.

    Raises:
        CheckpointError: When a file is damaged or not an XTTS model.
        ConfigError: When the voice cannot be used or the text cannot be said.
        IncompatibleError: When a model has another vocabulary or size than the first.
        MissingExtraError: When torch or Coqui's packages are not installed.
        OutputExistsError: When a wav exists, and ``force`` is not given. Nothing is written then.
    """
    require("train", "speak")
    recording = expanded(voice) if voice is not None else None
    if (recording is None) == (speaker is None) or (recording is not None and not recording.is_file()):
        found = f"{recording}, which is no file" if recording is not None else "neither of both"
        msg = f"speak: expected --voice WAV or --speaker NAME, found {found}; name one voice"
        raise ConfigError(msg)
    sources = find_candidates(expanded(path) for path in paths)
    output = expanded(output)
    taken = [path for one in sources if (path := output / f"{one.candidate.name}.wav").exists()]
    if taken and not force:
        msg = f"{taken[0]}: exists already; name another --output or replace it with --force"
        raise OutputExistsError(msg)
    check_generation()
    model = speaking_model(sources[0].path, usable_device(device))
    written = []
    for number, source in enumerate(sources, 1):
        if number > 1:
            swap_weights(model, source.path)
        # The latents of a recording depend on the weights, those of a name do not.
        latents = voice_of_recording(model, recording) if recording else voice_by_name(model, speaker or "")
        said = say(model, Sentence(text, language), latents, seed=seed)
        output.mkdir(parents=True, exist_ok=True)
        wav = output / f"{source.candidate.name}.wav"
        with whole_file(wav, force=force) as temporary:
            write_sound(temporary, said.sound, said.rate)
        faults = faults_of_codes(said.codes)
        written.append(Wav(source.candidate.name, str(wav), len(said.sound) / said.rate, faults))
        if progress is not None:
            progress(number, len(sources))
    return written
