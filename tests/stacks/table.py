"""The stacks: what somebody installed at the time, and the exact versions that this gave them.

``pins/NAME.txt`` holds every version of a stack, for Python 3.11 on Linux on x86-64. ``python -m tests.stacks --pin
NAME`` resolves a row of this table into that file.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PYTHON = "3.11"
PINS = Path(__file__).parent / "pins"


class Stack(NamedTuple):
    """One stack.

    Attributes:
        name: What it is called on the command line.
        requires: What somebody asked pip for.
        date: The day of that: packages uploaded later are not considered.
        needs_ffmpeg: Whether it reads sound with torchcodec, which loads the libraries of FFmpeg.
    """

    name: str
    requires: tuple[str, ...]
    date: str
    needs_ffmpeg: bool = False

    @property
    def pins(self) -> Path:
        """The file with the version of every package."""
        return PINS / f"{self.name}.txt"


def _coqui(version: str, trainer: str, *others: str) -> tuple[str, ...]:
    return (f"coqui-tts=={version}", f"coqui-tts-trainer=={trainer}", *others)


STACKS = {
    stack.name: stack
    for stack in (
        # The original, whose last torch is that of its time: XTTS in it reads checkpoints as torch did up to 2.5. On
        # Python 3.11 it takes numpy from 1.24 on.
        Stack(
            "tts-0.22.0",
            ("TTS==0.22.0", "trainer==0.0.36", "torch==2.1.2", "torchaudio==2.1.2", "numpy==1.24.4"),
            "2024-02-01",
        ),
        Stack("coqui-0.24.2", _coqui("0.24.2", "0.1.4", "torch", "torchaudio"), "2024-10-15"),
        Stack("coqui-0.25.3", _coqui("0.25.3", "0.2.2", "torch", "torchaudio"), "2025-02-10"),
        Stack("coqui-0.26.2", _coqui("0.26.2", "0.2.3", "torch", "torchaudio"), "2025-07-10"),
        # With the last transformers of version 4.
        Stack(
            "coqui-0.27.5",
            _coqui("0.27.5", "0.3.3", "torch==2.8.0", "torchaudio==2.8.0", "transformers==4.57.6"),
            "2026-02-10",
        ),
        # coqui-tts 0.28.0 imports six without asking for it.
        Stack("coqui-0.28.0", _coqui("0.28.0", "0.4.0", "torch==2.8.0", "torchaudio==2.8.0", "six"), "2026-11-20"),
        # torchaudio ends with 2.11.0, built for CUDA 13.0: beside torch 2.15.0, built for 13.2, its import raises.
        # transformers 5.24 renames the argument for the cache of `generate`: coqui-tts 0.28.0 cannot speak with it.
        Stack(
            "coqui-0.28.0-newest-torch",
            _coqui("0.28.0", "0.4.0", "torch==2.14.1", "torchaudio==2.11.0", "torchcodec", "transformers<5.24", "six"),
            "2026-11-27",
            needs_ffmpeg=True,
        ),
    )
}
