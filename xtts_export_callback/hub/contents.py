"""What of an inference folder is sent: the files that this package wrote, and which of them hold a voice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import read_json_object
from xtts_export_callback.inference_folder.layouts import LAYOUTS
from xtts_export_callback.inference_folder.ownership import described_files, is_as_written
from xtts_export_callback.inference_folder.provenance import PROVENANCE_FILE, read_provenance
from xtts_export_callback.verification.layout import verify_layout
from xtts_export_callback.verification.model import verify_checkpoint
from xtts_export_callback.xtts.assets import LICENSE_FILE
from xtts_export_callback.xtts.companions import SPEAKERS, VOICE, open_companion

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CARD_FILE = "README.md"
_OWN = (CARD_FILE, LICENSE_FILE)
"""Files that somebody may add to a folder before it is sent."""

# Names in the release's speakers_xtts.pth.
_RELEASED_VOICES = """
Claribel Dervla, Daisy Studious, Gracie Wise, Tammie Ema, Alison Dietlinde, Ana Florence, Annmarie Nele, Asya
Anara, Brenda Stern, Gitta Nikolina, Henriette Usha, Sofia Hellen, Tammy Grit, Tanja Adelina, Vjollca Johnnie,
Andrew Chipper, Badr Odhiambo, Dionisio Schuyler, Royston Min, Viktor Eka, Abrahan Mack, Adde Michal, Baldur
Sanjin, Craig Gutsy, Damien Black, Gilberto Mathias, Ilkin Urbano, Kazuhiko Atallah, Ludvig Milivoj, Suad Qasim,
Torcull Diarmuid, Viktor Menelaos, Zacharie Aimilios, Nova Hogarth, Maja Ruoho, Uta Obando, Lidiya Szekeres,
Chandra MacFarland, Szofi Granger, Camilla Holmström, Lilya Stainthorpe, Zofija Kendrick, Narelle Moon, Barbora
MacLean, Alexandra Hisakawa, Alma María, Rosemary Okafor, Ige Behringer, Filip Traverse, Damjan Chapman, Wulf
Carlevaro, Aaron Dreschner, Kumar Dahl, Eugenio Mataracı, Ferran Simen, Xavier Hayasaka, Luis Moray, Marcos
Rudaski
"""  # noqa: RUF001


@dataclass(frozen=True)
class Contents:
    """What of an inference folder can be sent.

    Attributes:
        folder: The folder.
        provenance: Content of its ``export.json``.
        files: Sizes in bytes by the names that the files have in it, with ``/`` between folders; smallest first.
        voices: Those of the files that hold a voice: a recording, its latents, or speakers that are not the release's.
        left_out: Files of others in the folder, which are not sent.
    """

    folder: Path
    provenance: dict[str, Any]
    files: dict[str, int]
    voices: tuple[str, ...]
    left_out: tuple[str, ...]


def contents_of(folder: Path, progress: Callable[[int], None] | None = None) -> Contents:
    """Verify an inference folder, and list what of it can be sent.

    Args:
        folder: The folder.
        progress: Called with the number of bytes read since the last call.

    Raises:
        ConfigError: When it is none that this package wrote, has a fault or was changed since.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        msg = f"{folder}: expected an inference folder, found {what}; name what xtts-export export has written"
        raise ConfigError(msg)
    provenance = read_provenance(folder)
    described = described_files(provenance)
    if provenance is None or not described:
        msg = f"{folder}: expected an inference folder with its {PROVENANCE_FILE}; write one with xtts-export export"
        raise ConfigError(msg)
    _check_whole(folder, provenance, described, progress)
    present = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    known = {*described, PROVENANCE_FILE, *_OWN}
    files = {name: size for name, size in sorted(present.items(), key=lambda item: item[1]) if name in known}
    return Contents(
        folder,
        provenance,
        files,
        tuple(name for name in files if _holds_voice(folder / name)),
        tuple(name for name in present if name not in known),
    )


def _check_whole(
    folder: Path, provenance: dict[str, Any], described: dict[str, Any], progress: Callable[[int], None] | None
) -> None:
    layout = LAYOUTS.get(str(provenance.get("layout")))
    report = (
        verify_layout(folder, layout, progress=progress) if layout else verify_checkpoint(folder, progress=progress)
    )
    faults = [fault.message for fault in report.faults]
    faults += [f"{name} changed since" for name, each in described.items() if not is_as_written(folder / name, each)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        msg = f"{folder}: not sent, since it has a fault: {faults[0]}{more}; write it anew with xtts-export export"
        raise ConfigError(msg)


def _holds_voice(path: Path) -> bool:
    if path.name == SPEAKERS:
        with open_companion(path, SPEAKERS) as voices:
            return not voices.keys() <= set(_RELEASED_VOICES.replace("\n", " ").strip().split(", "))
    return path.suffix == ".wav" or (path.suffix == ".json" and VOICE[0] in read_json_object(path))
