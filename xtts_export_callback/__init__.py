"""Everything between training XTTS v2 and speaking with it: export, average, merge, inspect and verify checkpoints.

Importing the package imports neither torch nor TTS; names resolve on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtts_export_callback.average import average_checkpoints
    from xtts_export_callback.callback import ExportCallback, export_callbacks
    from xtts_export_callback.comparison.report import compare_checkpoints
    from xtts_export_callback.config import ExportConfig
    from xtts_export_callback.export import export_checkpoint
    from xtts_export_callback.inspection.report import inspect_checkpoint
    from xtts_export_callback.load import load_xtts
    from xtts_export_callback.merge import merge_checkpoints
    from xtts_export_callback.trainer_config import XttsExportTrainerConfig

__version__ = "0.1.0"

__all__ = [
    "ExportCallback",
    "ExportConfig",
    "XttsExportTrainerConfig",
    "average_checkpoints",
    "compare_checkpoints",
    "export_callbacks",
    "export_checkpoint",
    "inspect_checkpoint",
    "load_xtts",
    "merge_checkpoints",
]

_MODULES = {
    "ExportCallback": "callback",
    "ExportConfig": "config",
    "XttsExportTrainerConfig": "trainer_config",
    "average_checkpoints": "average",
    "compare_checkpoints": "comparison.report",
    "export_callbacks": "callback",
    "export_checkpoint": "export",
    "inspect_checkpoint": "inspection.report",
    "load_xtts": "load",
    "merge_checkpoints": "merge",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
