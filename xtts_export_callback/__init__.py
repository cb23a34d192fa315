"""Everything between training XTTS v2 and speaking with it: export, average, merge, inspect, compare and verify.

Importing the package imports neither torch nor TTS; names resolve on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtts_export_callback.comparison.models import compare_checkpoints
    from xtts_export_callback.evaluation.evaluate import evaluate_checkpoints
    from xtts_export_callback.export.export import export_checkpoint
    from xtts_export_callback.inference_folder.load import load_xtts
    from xtts_export_callback.inspection.checkpoint import inspect_checkpoint
    from xtts_export_callback.merge.average import average_checkpoints
    from xtts_export_callback.merge.merge import merge_checkpoints
    from xtts_export_callback.training.callback import ExportCallback, export_callbacks
    from xtts_export_callback.training.config import ExportConfig
    from xtts_export_callback.training.trainer_config import XttsExportTrainerConfig

__version__ = "0.1.0"

__all__ = [
    "ExportCallback",
    "ExportConfig",
    "XttsExportTrainerConfig",
    "average_checkpoints",
    "compare_checkpoints",
    "evaluate_checkpoints",
    "export_callbacks",
    "export_checkpoint",
    "inspect_checkpoint",
    "load_xtts",
    "merge_checkpoints",
]

_MODULES = {
    "ExportCallback": "training.callback",
    "ExportConfig": "training.config",
    "XttsExportTrainerConfig": "training.trainer_config",
    "average_checkpoints": "merge.average",
    "compare_checkpoints": "comparison.models",
    "evaluate_checkpoints": "evaluation.evaluate",
    "export_callbacks": "training.callback",
    "export_checkpoint": "export.export",
    "inspect_checkpoint": "inspection.checkpoint",
    "load_xtts": "inference_folder.load",
    "merge_checkpoints": "merge.merge",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        if _MODULES[name].startswith("training."):
            from xtts_export_callback.extras import require

            require("train", name)
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
