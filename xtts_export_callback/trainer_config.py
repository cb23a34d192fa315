"""The config of a training with exports: Coqui's ``GPTTrainerConfig`` and the field ``export``.

A module of its own because the base class comes with ``import TTS``, which takes seconds. Coqpit reads the annotations
of its dataclasses as objects, so their evaluation must not be postponed with a ``__future__`` import.
"""

# ruff: noqa: I002
from dataclasses import dataclass, field
from typing import Any

from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainerConfig

from xtts_export_callback.config import ExportConfig


@dataclass
class XttsExportTrainerConfig(GPTTrainerConfig):  # type: ignore[misc]
    """``GPTTrainerConfig`` with the options of the export.

    ``--coqpit.export.enabled true`` sets them from the command line, and ``config.json`` carries them.

    Args:
        export: What to export, and how.
    """

    export: ExportConfig = field(
        default_factory=ExportConfig, metadata={"help": "Export of inference folders during training"}
    )

    def check_values(self) -> None:
        """Check the fields, the export options among them.

        Coqpit calls this on the outermost config alone after it has parsed JSON or a command line.

        Raises:
            ConfigError: If an export option has a value that it cannot take.
        """
        super().check_values()
        options: Any = self.export
        if not isinstance(options, ExportConfig):  # a plain dict from Python, or null from JSON
            self.export = ExportConfig.new_from_dict(options)
        self.export.check_values()
