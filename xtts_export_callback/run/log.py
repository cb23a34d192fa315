"""The log of a run: what the Trainer prints and keeps in ``trainer_0_log.txt``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.files.printable import printable

if TYPE_CHECKING:
    import logging


def training_logger() -> logging.Logger:
    """The log of a training, to which every record of ours goes as one printable line."""
    import logging  # commands do without

    logger = logging.getLogger("trainer.xtts_export")
    logger.addFilter(_make_printable)  # once, however often it is asked for
    return logger


def _make_printable(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    return True
