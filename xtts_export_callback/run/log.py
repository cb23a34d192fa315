"""The log of a run, which the Trainer prints and keeps in ``trainer_0_log.txt``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.files.printable import printable

if TYPE_CHECKING:
    import logging


def training_logger() -> logging.Logger:
    """Return the log of a training, which shows every record of ours as one printable line."""
    import logging  # commands do not need it

    logger = logging.getLogger("trainer.xtts_export")
    logger.addFilter(_make_printable)  # a second call does not add it again
    return logger


def _make_printable(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    return True
