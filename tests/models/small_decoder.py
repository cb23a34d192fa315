"""Sizes that make a whole XTTS small, and how to have the package expect them: 0.3 MB in place of 0.1 GB.

The sizes of the decoder and of the speaker encoder are fixed in coqui-tts and no config can change them. Within
`small_decoder` the package expects smaller ones, in this process and in the helper process that exports. In any other
process:

    python -m tests.models.small_decoder MODULE ARGUMENTS ...
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xtts_export_callback.training import worker_client
from xtts_export_callback.xtts import expected_shapes

TOKENS, WIDTH, LAYERS = 6, 8, 2
ARGS: dict[str, Any] = {
    "gpt_layers": LAYERS,
    "gpt_n_model_channels": WIDTH,
    "gpt_n_heads": 2,
    "gpt_max_audio_tokens": 5,
    "gpt_max_text_tokens": 4,
    "gpt_number_text_tokens": TOKENS,
    "gpt_num_audio_tokens": 7,
    "gpt_use_perceiver_resampler": True,
    "decoder_input_dim": WIDTH,
    "d_vector_dim": 4,
}
"""``model_args`` of the small model."""

SMALL: dict[str, Any] = {
    "_UP_CHANNELS": 32,
    "_SPEAKER_FILTERS": (8, 8, 8, 8),
    "_SPEAKER_WIDTH": 4,
}
REAL: dict[str, Any] = {
    name: value
    for name, value in vars(expected_shapes).items()
    if name.lstrip("_").isupper() or name == "expected_tensors"
}
"""What `expected_shapes` has without any of this."""
_REAL_HELPER = worker_client.COMMAND
START = (sys.executable, "-m", "tests.models.small_decoder")
"""Starts a module in a process of its own that expects the small decoder."""
# First in the path, because some packages install a folder `tests` of their own.
_HELPER = "import sys; sys.path.insert(0, sys.argv[1]); from tests.models.small_decoder import run_helper; run_helper()"
_SMALL_HELPER = (sys.executable, "-c", _HELPER, str(Path(__file__).parents[2]))


@contextmanager
def small_decoder() -> Iterator[None]:
    """Have the package and its helper process expect the small decoder and speaker encoder."""
    with expecting({**REAL, **SMALL}, _SMALL_HELPER):
        yield


@contextmanager
def real_decoder() -> Iterator[None]:
    """Undo `small_decoder` for a while."""
    with expecting(REAL, _REAL_HELPER):
        yield


@contextmanager
def expecting(sizes: Mapping[str, Any], helper: tuple[str, ...] | None = None) -> Iterator[None]:
    """Have the package expect other sizes, by their names in `expected_shapes`."""
    before = {name: getattr(expected_shapes, name) for name in sizes}
    command = worker_client.COMMAND
    vars(expected_shapes).update(sizes)
    worker_client.COMMAND = helper or command
    try:
        yield
    finally:
        vars(expected_shapes).update(before)
        worker_client.COMMAND = command


def run_helper() -> None:
    """Be the helper process, with the small decoder."""
    from xtts_export_callback.training.worker import main

    with small_decoder():
        main()


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    with small_decoder():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
