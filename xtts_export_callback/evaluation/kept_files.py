"""The files that an evaluation of speech keeps beside its ``evaluation.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.errors import OutputExistsError
from xtts_export_callback.evaluation.results import EVALUATION_FILE
from xtts_export_callback.evaluation.sound import RATE, read_sound, write_sound
from xtts_export_callback.files.atomic import whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

REFERENCE_FILE = "reference.wav"


def refuse_foreign(folder: Path, names: Sequence[str], voice: Path | None) -> None:
    """Refuse to write over files in a folder that holds no evaluation yet.

    Args:
        folder: The evaluation's folder. It need not exist.
        names: Files that are to be written.
        voice: The recording of the voice, which may be one of them.

    Raises:
        OutputExistsError: When one of the names is taken, but for that of the voice itself.
    """
    if (folder / EVALUATION_FILE).exists():
        return
    taken = [path for name in names if (path := folder / name).exists() and not (voice and path.samefile(voice))]
    if taken:
        msg = f"{taken[0]}: exists already and is not of an evaluation; name another --output"
        raise OutputExistsError(msg)


def keep_voice(voice: Path, folder: Path) -> str:
    """Copy the reference into the evaluation's folder, as a mono wav at the rate of the measures.

    Args:
        voice: The recording, which may be the copy itself.
        folder: The evaluation's folder, created if missing.

    Returns:
        The name of the copy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / REFERENCE_FILE
    if not (kept.exists() and kept.samefile(voice)):
        sound = read_sound(voice)
        with whole_file(kept, force=True) as temporary:
            write_sound(temporary, sound, RATE)
    return REFERENCE_FILE
