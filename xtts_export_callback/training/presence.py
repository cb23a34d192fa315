"""Says when a training would export nothing although its config turns the export on.

The Trainer calls no method of a config but ``to_dict``: at its start to copy it to the run, before any callback is
called, and at every save (`trainer.io.copy_model_files`, `trainer.io.save_model`). So that is where a training without
the callback can be noticed.
"""

from __future__ import annotations

import sys

from xtts_export_callback.run.log import training_logger

_START = "copy_model_files"
_HOW = "pass callbacks=export_callbacks(config) to the Trainer"
_seen: set[str] = set()


def note(event: str) -> None:
    """Note that a callback was ``"made"`` or has ``"started"``."""
    _seen.add(event)


def warn_if_missing(caller: str, function: str) -> None:
    """Log a line if the Trainer reads a config whose export is on, and there is no callback.

    Args:
        caller: Name of the module that calls ``to_dict``.
        function: Name of the function that does.
    """
    if caller != "trainer.io" or ("made" if function == _START else "started") in _seen:
        return
    line = " ! EXPORT : nothing is exported: export.enabled is true, but the callback is missing; %s"
    training_logger().warning(line, _HOW)


def calling_function(depth: int = 2) -> tuple[str, str]:
    """Return module and name of the function that has called the caller of this one."""
    frame = sys._getframe(depth)
    return str(frame.f_globals.get("__name__")), frame.f_code.co_name
