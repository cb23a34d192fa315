"""Everything between training XTTS v2 and speaking with it: export, average, merge, inspect, compare and verify.

Importing the package imports neither torch nor TTS; names resolve on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtts_export_callback.comparison.distance import Difference, Trajectory
    from xtts_export_callback.comparison.models import ComparisonReport, compare_checkpoints
    from xtts_export_callback.comparison.trajectory import TrajectoryReport, compare_run
    from xtts_export_callback.errors import (
        CheckpointError,
        ConfigError,
        DamagedError,
        IncompatibleError,
        MissingExtraError,
        OutputExistsError,
        VerificationError,
        XttsExportError,
    )
    from xtts_export_callback.export.export import export_checkpoint
    from xtts_export_callback.inference_folder.folder import WrittenFolder
    from xtts_export_callback.inference_folder.load import load_xtts
    from xtts_export_callback.inspection.checkpoint import CheckpointReport, Share, inspect_checkpoint
    from xtts_export_callback.inspection.run import RunReport, SavedReport, inspect_run
    from xtts_export_callback.merge.average import average_checkpoints
    from xtts_export_callback.merge.merge import merge_checkpoints
    from xtts_export_callback.run.resume import Resume
    from xtts_export_callback.training.callback import ExportCallback, export_callbacks
    from xtts_export_callback.training.config import ExportConfig
    from xtts_export_callback.training.trainer_config import XttsExportTrainerConfig
    from xtts_export_callback.verification.faults import Fault
    from xtts_export_callback.verification.model import VerificationReport, verify_checkpoint
    from xtts_export_callback.verification.run import RunVerification, verify_run
    from xtts_export_callback.xtts.architecture import Architecture

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "CheckpointError",
    "CheckpointReport",
    "ComparisonReport",
    "ConfigError",
    "DamagedError",
    "Difference",
    "ExportCallback",
    "ExportConfig",
    "Fault",
    "IncompatibleError",
    "MissingExtraError",
    "OutputExistsError",
    "Resume",
    "RunReport",
    "RunVerification",
    "SavedReport",
    "Share",
    "Trajectory",
    "TrajectoryReport",
    "VerificationError",
    "VerificationReport",
    "WrittenFolder",
    "XttsExportError",
    "XttsExportTrainerConfig",
    "average_checkpoints",
    "compare_checkpoints",
    "compare_run",
    "export_callbacks",
    "export_checkpoint",
    "inspect_checkpoint",
    "inspect_run",
    "load_xtts",
    "merge_checkpoints",
    "verify_checkpoint",
    "verify_run",
]

# The module of each name, as above; both are held together by a test.
_MODULES = {
    "Architecture": "xtts.architecture",
    "CheckpointError": "errors",
    "CheckpointReport": "inspection.checkpoint",
    "ComparisonReport": "comparison.models",
    "ConfigError": "errors",
    "DamagedError": "errors",
    "Difference": "comparison.distance",
    "ExportCallback": "training.callback",
    "ExportConfig": "training.config",
    "Fault": "verification.faults",
    "IncompatibleError": "errors",
    "MissingExtraError": "errors",
    "OutputExistsError": "errors",
    "Resume": "run.resume",
    "RunReport": "inspection.run",
    "RunVerification": "verification.run",
    "SavedReport": "inspection.run",
    "Share": "inspection.checkpoint",
    "Trajectory": "comparison.distance",
    "TrajectoryReport": "comparison.trajectory",
    "VerificationError": "errors",
    "VerificationReport": "verification.model",
    "WrittenFolder": "inference_folder.folder",
    "XttsExportError": "errors",
    "XttsExportTrainerConfig": "training.trainer_config",
    "average_checkpoints": "merge.average",
    "compare_checkpoints": "comparison.models",
    "compare_run": "comparison.trajectory",
    "export_callbacks": "training.callback",
    "export_checkpoint": "export.export",
    "inspect_checkpoint": "inspection.checkpoint",
    "inspect_run": "inspection.run",
    "load_xtts": "inference_folder.load",
    "merge_checkpoints": "merge.merge",
    "verify_checkpoint": "verification.model",
    "verify_run": "verification.run",
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
