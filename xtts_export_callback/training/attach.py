"""Switches the callback on in every Trainer of a program that knows nothing of us, as ``xtts-export run`` starts it."""

from __future__ import annotations

import json
import os
from functools import wraps
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.run.log import training_logger
from xtts_export_callback.training.log import log_failure
from xtts_export_callback.training.presence import note

if TYPE_CHECKING:
    from types import ModuleType

VARIABLE = "XTTS_EXPORT_RUN"
"""Environment variable with the options as JSON, for all processes that the program starts."""

_told: set[str] = set()


def switch_on(module: ModuleType) -> None:
    """Have every Trainer made from now on export what it saves.

    Args:
        module: `trainer.callbacks`, or another module of that name, which is left alone.
    """
    holder: Any = getattr(module, "TrainerCallback", None)
    if holder is None:
        return
    note("made")
    on_init_start = holder.on_init_start

    @wraps(on_init_start)
    def with_ours(self: Any, trainer: Any) -> None:
        on_init_start(self, trainer)
        try:
            attach(trainer, self)
        except ConfigError:
            raise
        except Exception as error:
            log_failure("training goes on without exports", error)

    holder.on_init_start = with_ours


def attach(trainer: Any, callbacks: Any) -> None:
    """Add the callback to a Trainer, unless it has one already or trains another model.

    The options stay out of the config where that has no field for them, so that the ``config.json`` is the one that
    the program would write without us.

    Args:
        trainer: A Trainer whose callbacks for ``on_init_start`` have been called.
        callbacks: Its `trainer.callbacks.TrainerCallback`.

    Raises:
        ConfigError: As `ExportCallback.on_init_start`.
    """
    from xtts_export_callback.training.callback import ExportCallback
    from xtts_export_callback.training.config import ExportConfig
    from xtts_export_callback.training.hooks import is_main_process

    if hasattr(trainer, "export_callback"):
        return
    model = type(trainer.model)
    if not any(base.__name__ == "GPTTrainer" for base in model.__mro__):  # also a program's own copy of the class
        if is_main_process() and model.__name__ not in _told:
            _told.add(model.__name__)
            training_logger().info(" > EXPORT : %s is not the GPT of XTTS: trained without exports", model.__name__)
        return
    options = ExportConfig(**json.loads(os.environ[VARIABLE]))
    own = getattr(trainer.config, "export", None)
    if own is not None and not own.enabled:
        trainer.config.export = options
    callback = ExportCallback(options)
    for event, call in callback.as_callbacks().items():
        getattr(callbacks, f"callbacks_{event}").insert(0, call)
    callback.on_init_start(trainer)
