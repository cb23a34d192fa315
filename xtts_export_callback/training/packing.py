"""Packs models of a run for another program when training ends, beside their plain folders.

It runs in the training process: the latents of a voice need torch and Coqui, which the helper process must not import.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.export.export import packed_as
from xtts_export_callback.inference_folder.layouts import layout_of
from xtts_export_callback.run.checkpoints import Saved, find_checkpoints, last_checkpoints
from xtts_export_callback.run.log import training_logger
from xtts_export_callback.training.log import guarded
from xtts_export_callback.training.worker import average, export
from xtts_export_callback.units import human_size
from xtts_export_callback.xtts.assets import VOCAB_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xtts_export_callback.training.config import ExportConfig

logger = training_logger()

AUTO = "auto"
"""Value of ``export.voice`` that stands for the best training clip."""


def pack(
    run: Path,
    options: ExportConfig,
    *,
    averaged: int = 0,
    trained_in: str | None = None,
    clips: Sequence[str] = (),
) -> None:
    """Pack the newest checkpoint, the best model and the average. An error becomes a line in the training log.

    Args:
        run: The run folder.
        options: What to pack for, and how.
        averaged: How many checkpoints the average of the run is of; 0 for none.
        trained_in: The working directory of the training.
        clips: The recordings that the model was trained on, to choose a voice from.
    """
    if options.voice == AUTO:
        options = replace(options, voice=guarded("no voice was chosen", partial(_choose_voice, clips)) or "")
    folder = run / options.folder
    saved_files = find_checkpoints(run)
    newest = [saved for saved in saved_files if saved.kind == "checkpoint"][-1:]
    best = [saved for saved in saved_files if saved.kind == "best_model"][-1:] if options.export_best else []
    for saved in (*newest, *best):
        guarded(f"{saved.name} was not packed", partial(_pack_one, folder, saved, options, trained_in))
    if averaged:
        guarded("the average was not packed", partial(_pack_average, run, folder, options, averaged))


def _choose_voice(clips: Sequence[str]) -> str:
    from xtts_export_callback.training.best_clip import best_clip

    chosen = str(best_clip(map(Path, clips)))
    logger.info(" > EXPORT : %s is the best training clip: it is packed as the voice", chosen)
    return chosen


def _pack_one(folder: Path, saved: Saved, options: ExportConfig, trained_in: str | None) -> None:
    source = str(saved.path)
    _write(folder / saved.name, options, partial(export, source=source, known_as=source, trained_in=trained_in))


def _pack_average(run: Path, folder: Path, options: ExportConfig, count: int) -> None:
    plain = folder / f"average_last_{count}"
    sources = [str(saved.path) for saved in last_checkpoints(run, count, folder=options.folder, prefer_full=True)]
    _write(plain, options, partial(average, sources=sources, vocab=str(plain / VOCAB_FILE)))


def _write(plain: Path, options: ExportConfig, write: Callable[..., dict[str, Any]]) -> None:
    started = time.perf_counter()
    target = packed_as(plain, options.layout)
    stored = {**options.stored, "format": "pth"}  # a layout has its own
    done = write(target=str(target), stored=stored, layout=options.layout, voice=options.voice or None)
    for note in done["notes"]:
        logger.warning(" ! EXPORT : %s: %s", target, note)
    if done["written"]:
        size, seconds = human_size(done["nbytes"]), time.perf_counter() - started
        logger.info(" > EXPORT : packed %s (%s in %.1f s)", target, size, seconds)
        logger.info(" > EXPORT : %s", layout_of(options.layout).place(target))
