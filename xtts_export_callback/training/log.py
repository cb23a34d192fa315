"""Turns an error of ours into one line of the training log, so that training goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import XttsExportError
from xtts_export_callback.run.log import training_logger

if TYPE_CHECKING:
    from collections.abc import Callable

logger = training_logger()


def guarded(failure: str, action: Callable[[], Any]) -> Any:
    """Run ``action``. An error becomes one line in the log, and training goes on."""
    try:
        return action()
    except Exception as error:
        log_failure(failure, error)
    return None


def log_failure(failure: str, error: Exception) -> None:
    """Log in one line what failed and why."""
    what = str(error) if isinstance(error, XttsExportError) else f"{type(error).__name__}: {error}"
    logger.error(" ! EXPORT : %s: %s", failure, " ".join(what.split()))
