"""Have models say a text: one wav each, with the same voice and the same seed.

The model is built once and takes the weights of one after another. A run stands for all of its checkpoints and exports.
The same seed gives the same wav on the same machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.cli.options import add_report_options
from xtts_export_callback.cli.progress import clips_bar, say
from xtts_export_callback.cli.reporting import report

if TYPE_CHECKING:
    import argparse

    from xtts_export_callback.evaluation.speak import Wav


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("paths", nargs="+", metavar="RUN|MODEL", help="runs, checkpoints, exports, averages, merges")
    parser.add_argument("--text", required=True, help="what to say")
    voice = parser.add_mutually_exclusive_group(required=True)
    voice.add_argument("--voice", metavar="WAV", help="recording of the voice, 3 s or more")
    voice.add_argument("--speaker", metavar="NAME", help="a voice of the speakers_xtts.pth beside the first model")
    parser.add_argument("--language", default="en", metavar="CODE", help="language of the text (default: en)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the speech (default: 0)")
    parser.add_argument("--device", help="such as cuda or cpu (default: the first GPU, or else the CPU)")
    parser.add_argument("--output", default="speech", metavar="DIR", help="folder for the wavs (default: speech)")
    parser.add_argument("--force", action="store_true", help="replace wavs of these names in DIR")
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Speak, then say where the wavs are."""
    from xtts_export_callback.evaluation.speak import speak

    options = {key: getattr(args, key) for key in ("voice", "speaker", "language", "seed", "device", "force")}
    with clips_bar("speak", quiet=args.quiet) as progress:
        written = speak(args.paths, args.text, Path(args.output), progress=progress, **options)
    report(args, lambda: {"wavs": [one.to_dict() for one in written]}, lambda: _show(written))
    return 0


def _show(written: list[Wav]) -> None:
    for one in written:
        faults = f" ({', '.join(one.faults)})" if one.faults else ""
        say(f"{one.wav}: {one.seconds:.1f} s{faults}")
