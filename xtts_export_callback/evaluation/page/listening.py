"""What the page plays: for each sentence the clips of all candidates, equally loud."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xtts_export_callback.evaluation.page.sound import common_target, read_sound
from xtts_export_callback.evaluation.plots import outline
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    from pathlib import Path

    from xtts_export_callback.evaluation.page.sound import Sound
    from xtts_export_callback.evaluation.results import Evaluation, Sample

MOST_AUDIO = 28_000_000
"""Bytes of sound in a page, as base64; with everything else it stays under 30 MB."""


@dataclass(frozen=True)
class Clip:
    """A clip of a candidate.

    Attributes:
        key: Its id in the page.
        candidate: Name of the candidate.
        sound: The sound.
        sample: What was measured of it; None for the reference voice.
    """

    key: str
    candidate: str
    sound: Sound
    sample: Sample | None = None


@dataclass(frozen=True)
class Group:
    """Clips to compare: the same sentence with the same seed.

    Attributes:
        key: Its id in the page.
        text: The sentence.
        language: Its language code.
        take: Number of the seed, from 1; 0 where there is only one.
        clips: In the order of the candidates.
    """

    key: str
    text: str
    language: str
    take: int
    clips: list[Clip]


@dataclass(frozen=True)
class Listening:
    """Everything that is played.

    Attributes:
        groups: By sentence and seed.
        voice: The reference voice.
        notes: What could not be embedded, and why.
    """

    groups: list[Group] = field(default_factory=list)
    voice: Clip | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def clips(self) -> list[Clip]:
        """Every clip, the reference voice included."""
        return [*([self.voice] if self.voice else []), *(clip for group in self.groups for clip in group.clips)]

    @property
    def target(self) -> float:
        """The loudness that clips are played at, in LUFS."""
        return common_target(clip.sound for clip in self.clips)

    def gain(self, clip: Clip) -> float:
        """The factor that a clip is played with."""
        return round(clip.sound.gain(self.target), 4)

    def outline(self, clip: Clip) -> str:
        """SVG path of a waveform as loud as it is played, on one scale for all."""
        most = max(one.sound.peak * self.gain(one) for one in self.clips) or 1.0
        return outline(clip.sound.outline, self.gain(clip) / most)


def read_listening(folder: Path, evaluation: Evaluation, *, most: int = MOST_AUDIO) -> Listening:
    """Read the clips of an evaluation, first seed first, as many whole groups as a page has room for.

    Args:
        folder: Folder of the evaluation.
        evaluation: The evaluation.
        most: Room, in bytes of base64.

    Raises:
        ConfigError: When a clip cannot be read.
    """
    notes: list[str] = []
    samples = [(one.name, sample) for one in evaluation.candidates for sample in one.samples]
    keys = sorted({(sample.seed, sample.sentence) for _, sample in samples})
    takes = len({seed for seed, _ in keys}) > 1
    voice = read_sound(folder / evaluation.voice) if evaluation.voice else None
    used = len(voice.data) if voice else 0
    groups, omitted = [], 0
    for seed, number in keys:
        mine = [(name, sample) for name, sample in samples if (sample.seed, sample.sentence) == (seed, number)]
        clips = []
        for index, (name, sample) in enumerate(mine):
            sound = read_sound(folder / sample.wav)
            if sound is None:
                notes.append(f"{sample.wav} of {name} holds no sound.")
            else:
                clips.append(Clip(f"s{number}-t{seed}-c{index}", name, sound, sample))
        size = sum(len(clip.sound.data) for clip in clips)
        if used + size > most:
            omitted += 1
        elif clips:
            used += size
            text, language = _sentence(evaluation, number)
            groups.append(Group(f"s{number}-t{seed}", text, language, seed + 1 if takes else 0, clips))
    if omitted:
        notes.append(
            f"{omitted} of {len(keys)} sentences and takes did not fit into {human_size(most)} and can be heard in the "
            "folder of the evaluation only."
        )
    groups.sort(key=lambda group: group.key)
    return Listening(groups, Clip("voice", "Reference voice", voice) if voice else None, notes)


def _sentence(evaluation: Evaluation, number: int) -> tuple[str, str]:
    if 0 <= number < len(evaluation.sentences):
        return evaluation.sentences[number].text, evaluation.sentences[number].language
    return f"Sentence {number + 1}", ""
