"""Options of commands that have models speak, or measure speech."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from xtts_export_callback.evaluation.speech_evaluation import SpeechOptions


def add_speech_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate`` for speech."""
    group = parser.add_argument_group("speech (extra speech)")
    group.add_argument("--speech", action="store_true", help="have each model say the same sentences, and measure them")
    group.add_argument("--wavs", metavar="DIR", help="measure recordings, a folder for each candidate; needs no model")
    group.add_argument(
        "--sentences",
        metavar="FILE",
        help="a sentence in each line, de|Guten Tag. for one in another language (default: the run's test sentences, "
        "or texts of its evaluation split; with --wavs: DIR/metadata.csv)",
    )
    group.add_argument("--seeds", type=int, default=1, metavar="N", help="say each sentence N times (default: 1)")
    group.add_argument(
        "--voice", metavar="WAV", help="the voice to speak with and to compare with (default: the run's own)"
    )
    group.add_argument(
        "--asr", metavar="MODEL", help="folder of a faster-whisper model (default: pocketsphinx, English only)"
    )
    group.add_argument(
        "--encoder",
        metavar="MODEL",
        help="with --wavs: the XTTS that compares voices (default: Resemblyzer, if installed)",
    )


def speech_options(args: argparse.Namespace) -> SpeechOptions | None:
    """Return what the command line says about speech; None without ``--speech``."""
    if not args.speech:
        return None
    from xtts_export_callback.evaluation.speech_evaluation import SpeechOptions
    from xtts_export_callback.files.paths import expanded

    def path(name: str | None) -> Path | None:
        return expanded(name) if name is not None else None

    return SpeechOptions(path(args.sentences), path(args.voice), args.language or "en", args.seeds, args.asr)
