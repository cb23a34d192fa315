"""Replaces functions of the Trainer where it has no event: its saves, and the removal of a run.

The Trainer finds and writes its files through fsspec, which may read a path as a URL, a home folder or a pattern. This
module also tells what that means for a run.
"""

from __future__ import annotations

import glob
import os
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.run.checkpoints import SHORTCUT, holds_anything
from xtts_export_callback.run.log import training_logger
from xtts_export_callback.training.log import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xtts_export_callback.training.exporter import Exporter
    from xtts_export_callback.training.saving import TrainerSaves
    from xtts_export_callback.training.terminate import SaveOnTerminate

    Save = Callable[..., None]

logger = training_logger()


def is_main_process() -> bool:
    """Whether this is the process that saves."""
    from trainer.utils.distributed import get_rank

    return bool(get_rank() == 0)


def place_of(path: Any) -> Path:
    """Return where on this disk the Trainer's writing through fsspec puts a path.

    ``file://`` and ``~`` lead to another folder than `pathlib` takes them for, and since trainer 0.2, which makes a
    `Path` of every ``output_path``, ``file:/`` does so too.

    Returns:
        The path as it is where both agree, or where fsspec does not write to this disk.
    """
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    if not str(path).startswith(("file:", "local:", "~")):
        return Path(path)
    file_system, place = url_to_fs(str(path))
    return Path(place) if isinstance(file_system, LocalFileSystem) else Path(path)


def saves_into(folder: Path) -> bool:
    """Whether the Trainer saves into the folder of this name.

    A URL leads fsspec elsewhere, and so does ``*`` in its older versions. Before the first event,
    `trainer.io.copy_model_files` has written the config to the folder that it really uses.
    """
    return (folder / "config.json").is_file()


def looks_like_pattern(folder: Path) -> bool:
    """Whether the Trainer may miss the files in a folder, because it searches with a glob of the whole path."""
    path = os.path.abspath(folder)  # noqa: PTH100 - as fsspec does: without resolving links
    return glob.escape(path) != path


def wrap_saves(trainer: Any, save: Callable[..., None]) -> None:
    """Call ``save`` in place of the Trainer's saves.

    Args:
        trainer: A Trainer.
        save: Takes ``"checkpoint"`` or ``"best_model"``, the Trainer's own method, and its arguments.
    """
    for kind in ("checkpoint", "best_model"):
        setattr(trainer, f"save_{kind}", partial(save, kind, getattr(trainer, f"save_{kind}")))


@contextmanager
def exchanged_writing(
    trainer: Any, run: Path, *, save: Callable[..., None], make_shortcut: Callable[[Path, Path], None]
) -> Iterator[None]:
    """Within the block the Trainer writes with our functions, and finds the files in its run whatever its name.

    Args:
        trainer: A Trainer.
        run: Its run folder.
        save: Writes a checkpoint: called with the Trainer's own function, the state, the path, and further options.
        make_shortcut: Called with the best model and ``best_model.pth``, in place of a copy.

    Yields:
        Nothing. Afterwards the Trainer's own functions are back. It also uses them if they cannot be replaced.
    """
    with ExitStack() as undo:
        guarded("saves are written as without us", lambda: _exchange_writing(undo, trainer, run, save, make_shortcut))
        yield


def _exchange_writing(
    undo: ExitStack, trainer: Any, run: Path, save: Callable[..., None], make_shortcut: Callable[[Path, Path], None]
) -> None:
    import fsspec
    from trainer import io

    def is_in_run(path: Any) -> bool:
        return place_of(path).parent == run

    def copying(original: Save) -> Save:
        def copy(path1: Any, path2: Any, *args: Any, **options: Any) -> None:
            if is_in_run(path2) and Path(path2).name == SHORTCUT:
                guarded(f"{SHORTCUT} was not renewed", lambda: make_shortcut(place_of(path1), place_of(path2)))
            else:
                original(path1, path2, *args, **options)

        return copy

    def globbing(original: Callable[..., Any]) -> Callable[..., Any]:
        # With brackets in the name of a run, the Trainer's retention would find no files, or those of other runs.
        def find(pattern: Any, *args: Any, **options: Any) -> Any:
            if not is_in_run(pattern):
                return original(pattern, *args, **options)
            return sorted(path.as_posix() for path in run.absolute().glob(Path(pattern).name))

        return find

    file_system = fsspec.get_mapper(str(run)).fs
    _exchange(undo, io, "save_fsspec", lambda original: partial(save, original))
    _exchange(undo, file_system, "copy", copying)
    _exchange(undo, file_system, "glob", globbing)
    # Up to trainer 0.3 it is the dashboard logger that writes the file.
    _exchange(undo, trainer.dashboard_logger, "save_model", lambda original: partial(save, original))


def _exchange(undo: ExitStack, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a function by ``make(function)`` until ``undo`` is closed."""
    original = getattr(owner, name, None)
    if original is None:
        return
    is_own = name in vars(owner)  # otherwise a method of its class, which becomes visible again
    undo.callback(lambda: setattr(owner, name, original) if is_own else vars(owner).pop(name, None))
    setattr(owner, name, make(original))


_RUNS: dict[Path, tuple[Exporter, TrainerSaves, SaveOnTerminate]] = {}


def protect_from_removal(run: Path, exporter: Exporter, saves: TrainerSaves, terminate: SaveOnTerminate) -> None:
    """Stop the Trainer from deleting a run that holds models, and finish all exports first.

    On Ctrl-C and on every exception `trainer.generic_utils.remove_experiment_folder` deletes a run where a glob for
    ``*.pth`` finds nothing, on every rank: also one that holds only exports, or whose name is a pattern. A
    marker file there would change what resume finds, so the function is wrapped. It is also the only thing that the
    Trainer calls when training ends with an exception.
    """
    import trainer.trainer as module

    _RUNS[run.resolve()] = exporter, saves, terminate
    remove = module.remove_experiment_folder
    if getattr(remove, "keeps_models", False):
        return

    def remove_without_models(experiment_path: Any) -> None:
        run = place_of(experiment_path)
        found = _RUNS.pop(run.resolve(), None)
        if found is None:
            remove(experiment_path)
            return
        exporter, saves, terminate = found
        terminate.training_ends()  # the exception may come of the signal: it ends other processes of the training, too
        guarded("exports were not finished", exporter.end)
        guarded("saves may not be whole on the disk", saves.wait)
        folder = exporter.folder
        if guarded("the run was not searched", lambda: not any(run.glob("*.pth")) and not holds_anything(folder)):
            remove(experiment_path)
        else:
            logger.info(" > EXPORT : the run is kept in %s", experiment_path)

    remove_without_models.keeps_models = True  # type: ignore[attr-defined]
    module.remove_experiment_folder = remove_without_models
