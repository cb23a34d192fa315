"""Defines the configs of a training with exports: ``GPTTrainerConfig`` with the field ``export``, and our recipe's.

It is a module of its own because the base class needs ``import TTS``, which takes seconds. Coqpit reads the annotations
of its dataclasses as objects, so their evaluation must not be postponed with a ``__future__`` import.
"""

# ruff: noqa: I002
from dataclasses import dataclass, field
from typing import Any

from coqpit import Coqpit
from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainerConfig

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.training.config import ExportConfig
from xtts_export_callback.training.presence import calling_function, warn_if_missing

try:  # up to coqui-tts 0.24 the class with `dvae_sample_rate` is this one
    from TTS.tts.layers.xtts.trainer.gpt_trainer import XttsAudioConfig
except ImportError:
    from TTS.tts.configs.xtts_config import XttsAudioConfig


@dataclass
class XttsExportTrainerConfig(GPTTrainerConfig):  # type: ignore[misc]
    """``GPTTrainerConfig`` with the options of the export.

    ``--coqpit.export.enabled true`` sets them from the command line, and ``config.json`` carries them.

    Up to coqui-tts 0.25 ``GPTTrainerConfig`` itself has the settings of inference in ``model_args`` and ``audio``, and
    scripts replace them by those of training. Here they are those of training in every version.

    Args:
        model_args: Settings of the model and its training.
        audio: Sample rates.
        export: What to export, and how.
    """

    model_args: GPTArgs = field(default_factory=GPTArgs)
    audio: XttsAudioConfig = field(default_factory=XttsAudioConfig)
    export: ExportConfig = field(
        default_factory=ExportConfig, metadata={"help": "Export of inference folders during training"}
    )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; where the Trainer asks for them, say if the callback is missing."""
        if getattr(self.export, "enabled", False):
            warn_if_missing(*calling_function())
        return super().to_dict()  # type: ignore[no-any-return] # Coqpit has no types

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


@dataclass
class RecipeTrainerArgs(Coqpit):  # type: ignore[misc]
    """The ``TrainerArgs`` that the stock recipe passes to the Trainer, beside the config.

    The Trainer's own ``TrainerArgs`` are not part of a run's ``config.json``, and a resumed run would fall back to no
    gradient accumulation.

    Raises:
        ConfigError: If ``grad_accum_steps`` is less than 1.
    """

    grad_accum_steps: int = field(
        default=1, metadata={"help": "Batches whose gradients make one optimizer step. Defaults to 1"}
    )
    start_with_eval: bool = field(
        default=False, metadata={"help": "Evaluate before the first training epoch. Defaults to False"}
    )
    skip_train_epoch: bool = field(default=False, metadata={"help": "Evaluate only. Defaults to False"})

    def check_values(self) -> None:
        """Refuse values that the Trainer cannot work with.

        Raises:
            ConfigError: If ``grad_accum_steps`` is less than 1.
        """
        if self.grad_accum_steps < 1:
            msg = f"trainer_args.grad_accum_steps is {self.grad_accum_steps!r}, allowed: a whole number, 1 or more"
            raise ConfigError(msg)


@dataclass
class RecipeConfig(XttsExportTrainerConfig):
    """The JSON of ``xtts-export train``: the whole training.

    Args:
        trainer_args: Arguments for the Trainer that are not in its config.
    """

    trainer_args: RecipeTrainerArgs = field(
        default_factory=RecipeTrainerArgs, metadata={"help": "Arguments for the Trainer beside its config"}
    )

    def check_values(self) -> None:
        """Check the fields, the export options and the Trainer's arguments among them.

        Raises:
            ConfigError: If one of these has a value that it cannot take.
        """
        super().check_values()
        self.trainer_args.check_values()
