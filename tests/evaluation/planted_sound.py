"""Recordings with planted faults.

    python -m tests.evaluation.planted_sound FOLDER --seeds 10

takes the clips of a folder in the layout of LJSpeech, plants every fault in each, with other random numbers for every
seed, has ``evaluate --wavs`` rank them, and prints what came out. Ten seeds of six short clips take ten minutes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xtts_export_callback.evaluation.sound import RATE, read_sound, resampled, write_sound

if TYPE_CHECKING:
    from xtts_export_callback.evaluation.sound import FloatArray

HEALTHY = ("clean", "quieter")
FAULTS = {"cut": "cut short", "doubled": "speech after the text", "babble": "speech after the text", "gap": "long gap"}
"""Candidates whose fault has a kind; the others are known by their measures."""
OTHERS = ("noise", "chopped", "speaker")


def versions(sound: FloatArray, other: FloatArray, seed: int) -> dict[str, FloatArray]:
    """Return a recording as every candidate has it.

    Args:
        sound: The recording, at 16 kHz.
        other: Another one, to babble with.
        seed: Of noise, places and lengths.
    """
    rng = np.random.default_rng(seed)
    level = np.sqrt(np.mean(sound**2))
    chopped = sound.copy()
    for start in range(int(rng.integers(0, 1600)), len(sound), 4800):
        chopped[start : start + 1600] = 0.0
    middle, end = int(len(sound) * rng.uniform(0.4, 0.6)), int(len(sound) * rng.uniform(0.5, 0.62))
    start_of_babble = int(rng.integers(0, max(1, len(other) - 24_000)))
    made = {
        "clean": sound,
        "quieter": 0.5 * sound,
        "noise": sound + rng.standard_normal(len(sound)) * level * 10 ** (-rng.uniform(6, 10) / 20),
        "cut": sound[:end],
        "chopped": chopped,
        "doubled": np.concatenate([sound, sound[-int(len(sound) * rng.uniform(0.35, 0.6)) :]]),
        "babble": np.concatenate([sound, other[start_of_babble : start_of_babble + 24_000][::-1]]),
        "gap": np.concatenate([sound[:middle], np.zeros(int(rng.uniform(1.4, 2.5) * RATE)), sound[middle:]]),
        # As a tape that runs too slowly: a lower voice with longer formants.
        "speaker": resampled(sound, round(RATE * rng.uniform(0.8, 0.85))),
    }
    return {name: np.asarray(each, np.float32) for name, each in made.items()}


def write_versions(
    source: Path, folder: Path, *, seed: int, names: Callable[[str], bool] = bool, takes: int = 1
) -> Path:
    """Write recordings in the layout that ``evaluate --wavs`` reads.

    Args:
        source: Folder with ``metadata.csv`` and the recordings, in it or in ``wavs/``.
        folder: The folder to write.
        seed: Of the first take.
        names: Which candidates to write.
        takes: How many takes of each recording.
    """
    wavs = {path.stem: path for path in sorted(source.rglob("*.wav"))}
    sounds = [read_sound(path) for path in wavs.values()]
    folder.mkdir(parents=True)
    shutil.copyfile(source / "metadata.csv", folder / "metadata.csv")
    for number, name in enumerate(wavs):
        for take in range(takes):
            made = versions(sounds[number], sounds[number - 1], 1000 * seed + 100 * take + number)
            for candidate in filter(names, made):
                (folder / candidate).mkdir(exist_ok=True)
                write_sound(folder / candidate / f"{name}_{take}.wav", made[candidate], RATE)
    return folder


def main() -> None:
    """Rank planted faults for several seeds."""
    from xtts_export_callback.evaluation.evaluate_recordings import evaluate_recordings

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--takes", type=int, default=1, help="takes of each clip; six clips or more tell candidates apart"
    )
    parser.add_argument("--voice", type=Path, help="recording of the reader (default: the first one)")
    args = parser.parse_args()
    voice = args.voice or next(iter(sorted(args.folder.rglob("*.wav"))))
    for seed in range(args.first, args.first + args.seeds):
        with tempfile.TemporaryDirectory() as temporary:
            folder = write_versions(args.folder, Path(temporary) / "wavs", seed=seed, takes=args.takes)
            found = evaluate_recordings(folder, voice=voice)
        print(f"seed {seed}: {found.verdict}")
        for one in found.candidates:
            kinds = dict(one.speech.faults.kinds) if one.speech else {}
            print(f"  {one.rank} {one.name:8} {kinds} {one.reason}", flush=True)


if __name__ == "__main__":
    main()
