"""Finds out why a save of the Trainer failed: the disk, Ctrl-C, or an error that is not ours to handle."""

from __future__ import annotations

import errno

from xtts_export_callback.errors import XttsExportError

WHAT_TO_DO = (
    "Free space there, or resume the run with a smaller save_n_checkpoints, export.checkpoint_state weights "
    "(a third of the size), export.link_best_model true or export.max_disk_gb"
)


class SaveError(XttsExportError):
    """A save of the Trainer failed and left nothing behind.

    Attributes:
        needed: Bytes that the file would have taken.
        is_full: Whether it failed for lack of space.
    """

    def __init__(self, message: str, *, needed: int, is_full: bool) -> None:
        super().__init__(message)
        self.needed = needed
        self.is_full = is_full


def save_error(error: BaseException, handled: BaseException | None, *, name: str, needed: int) -> BaseException:
    """Choose the error to raise in place of one from the Trainer's writing.

    Args:
        error: The error that was raised.
        handled: The exception that was already being handled, such as the Ctrl-C that causes a last save.
        name: The file that was to be saved.
        needed: Bytes that it would have taken.

    Returns:
        A Ctrl-C that came meanwhile, which torch's writer reports as a half-written file; a `SaveError` for an error of
        the system; ``error`` itself for everything else.
    """
    causes = _causes(error, handled)
    interrupt = next((cause for cause in causes if not isinstance(cause, Exception)), None)
    if interrupt is not None:
        return interrupt
    cause = _write_error(causes) if isinstance(error, (OSError, RuntimeError)) else None
    if cause is None:
        return error
    is_full = cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return SaveError(f"{name} was not saved: {cause.strerror or cause}", needed=needed, is_full=is_full)


def _causes(error: BaseException, handled: BaseException | None) -> list[BaseException]:
    """An error and its causes, up to the one that was already being handled."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause is not handled and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


def _write_error(causes: list[BaseException]) -> OSError | None:
    """The error of the system behind an error of torch's writer, which may hide it; None if there is none."""
    found = next((cause for cause in causes if isinstance(cause, OSError)), None)
    if found is None and any(words in str(causes[0]) for words in ("PytorchStreamWriter", "inline_container")):
        return OSError(errno.EIO, "writing failed")
    return found
