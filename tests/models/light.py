"""A light model with the names of a real XTTS fine-tune, under the real Trainer: trainings of seconds, or of full size.

What trains is a quadratic, so that every step changes every weight of the GPT and the order of the data matters.
"""

# ruff: noqa: I002 - Coqpit reads the annotations of its dataclasses as objects
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from trainer import Trainer, TrainerArgs, TrainerConfig, TrainerModel
from trainer.logging import DummyLogger

from tests.benchmarks.files import SMALL_ARGS, TEXT_EMBEDDING, TRAINER_CONFIG, layout, vocabulary
from tests.models.small_decoder import LAYERS
from xtts_export_callback import export_callbacks
from xtts_export_callback.training.config import ExportConfig

_CLIPS = 8
_DEEPER = re.compile(r"xtts\.gpt\.gpt\.h\.(?![01]\.)")


@dataclass
class LightConfig(TrainerConfig):
    """What the Trainer and the export read of a fine-tune's config."""

    model: str = "xtts"
    model_args: dict[str, Any] = field(default_factory=dict)
    export: ExportConfig = field(default_factory=ExportConfig)
    scale: str = "few"


class LightModel(TrainerModel):
    """Parameters and buffers by the layout of a checkpoint; only the GPT's are trained, as `GPTTrainer` does it."""

    def __init__(self, scale: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, (dtype, shape) in light_layout(scale).items():
            *path, last = name.split(".")
            module: torch.nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, torch.nn.Module())
                module = module._modules[part]  # type: ignore[assignment]
            if dtype == "int64":
                module.register_buffer(last, torch.zeros(shape, dtype=torch.int64))
                continue
            value = torch.empty(shape).uniform_(-0.1, 0.1, generator=generator)
            module.register_parameter(last, torch.nn.Parameter(value, requires_grad=name.startswith("xtts.gpt.")))

    def forward(self, x: Any) -> Any:
        return x

    def train_step(self, batch: dict[str, Any], criterion: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        target = batch["x"].mean()
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        loss = sum(((parameter - target) ** 2).mean() for parameter in trained) / len(trained)
        return {"x": target}, {"loss": loss}

    def eval_step(self, batch: dict[str, Any], criterion: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.train_step({"x": torch.zeros(1)}, criterion)

    def get_data_loader(self, config: Any, *args: Any, is_eval: bool = False, **kwargs: Any) -> Any:
        data = [{"x": torch.tensor([math.sin(number)])} for number in range(1 if is_eval else _CLIPS)]
        return torch.utils.data.DataLoader(data, batch_size=config.batch_size, shuffle=not is_eval)

    def get_criterion(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def get_optimizer(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=1e-3)

    def get_scheduler(self, optimizer: Any) -> Any:
        first = optimizer[0] if isinstance(optimizer, list) else optimizer
        return torch.optim.lr_scheduler.MultiStepLR(first, milestones=[3, 6, 9], gamma=0.5)


def light_layout(scale: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The layout of a checkpoint: ``full``, ``small``, or ``few``: the small one with 2 layers in place of 30."""
    names = layout("small" if scale == "few" else scale)
    return {name: found for name, found in names.items() if scale != "few" or not _DEEPER.match(name)}


def light_args(scale: str) -> dict[str, Any]:
    """The ``model_args`` that describe the model."""
    if scale == "full":
        return dict(json.loads(TRAINER_CONFIG.read_text(encoding="utf-8"))["model_args"])
    return {**SMALL_ARGS, "gpt_layers": LAYERS} if scale == "few" else SMALL_ARGS


def light_config(output: Path, export: dict[str, Any] | None = None, **fields: Any) -> LightConfig:
    """A config whose epochs have 4 steps.

    Args:
        output: Folder for the run folders.
        export: Options of `ExportConfig`.
        **fields: Fields of `LightConfig`.
    """
    scale = fields.get("scale", "few")
    output.mkdir(parents=True, exist_ok=True)
    vocab = output / "vocab.json"
    tokens = light_layout(scale)[TEXT_EMBEDDING][1][0]
    vocab.write_text(json.dumps(vocabulary(tokens)), encoding="utf-8")
    defaults = {
        "output_path": str(output),
        "run_name": "light",
        "model_args": {**light_args(scale), "tokenizer_file": str(vocab)},
        "batch_size": 2,
        "epochs": 2,
        "save_step": 2,
        "save_n_checkpoints": 2,
        "scheduler_after_epoch": False,
        "print_step": 1000,
    }
    return LightConfig(**{**defaults, "export": ExportConfig(**(export or {})), **fields})


def light_trainer(config: LightConfig, callbacks: Any = None, *, dashboard: Any = None, **trainer_args: Any) -> Trainer:
    """The real Trainer on the light model, with the callbacks that the config asks for."""
    return Trainer(
        TrainerArgs(**trainer_args),
        config,
        output_path=config.output_path,
        model=LightModel(config.scale),
        dashboard_logger=dashboard or DummyLogger(),
        parse_command_line_args=False,
        callbacks=export_callbacks(config, callbacks),
    )


def light_run(output: Path, export: dict[str, Any] | None = None, *, run: Path | None = None, **fields: Any) -> Path:
    """Train to the end, or continue a run to the end, and return the run folder."""
    config = light_config(output, export, **fields)
    trainer = light_trainer(config, continue_path=str(run) if run else "")
    trainer.fit()
    return Path(trainer.output_path)
