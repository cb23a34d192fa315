"""A training that knows nothing of us: a light model under the real Trainer, named and configured as Coqui does it."""

# ruff: noqa: I002 - Coqpit reads the annotations of its dataclasses as objects
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trainer import Trainer, TrainerArgs, TrainerConfig
from trainer.logging import DummyLogger

from tests.models.light import LightModel, light_config


@dataclass
class StockConfig(TrainerConfig):
    """What the Trainer and the export read of a fine-tune's config; it has no field ``export``."""

    model: str = "xtts"
    model_args: dict[str, Any] = field(default_factory=dict)


class GPTTrainer(LightModel):
    """By its name the model that Coqui trains for XTTS."""


class Vits(LightModel):
    """By its name another model."""


def stock_trainer(
    output: Path,
    *,
    model: type[LightModel] = GPTTrainer,
    callbacks: dict[str, Callable[[Any], None]] | None = None,
    args: Any = None,
    **values: Any,
) -> Any:
    """The real Trainer, as a script makes it that does not know us.

    Args:
        output: Folder for the run folders.
        model: Class of the model.
        callbacks: The script's own.
        args: ``TrainerArgs``.
        **values: Fields of the config.
    """
    light = light_config(output, **values)
    names = [each.name for each in fields(StockConfig)]
    return Trainer(
        args or TrainerArgs(),
        StockConfig(**{name: getattr(light, name) for name in names}),
        output_path=str(output),
        model=model("few"),
        dashboard_logger=DummyLogger(),
        parse_command_line_args=False,
        callbacks=callbacks or {},
    )


def let_gloo_in() -> None:
    """Have the Trainer's own distributed training run on a CPU.

    It asks CUDA for the number of devices, asserts CUDA before it joins the other processes, and names a GPU when it
    wraps the model. These three functions are replaced, nothing else.
    """
    import torch.distributed
    import trainer.trainer as module
    from torch.nn.parallel import DistributedDataParallel

    processes = len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))
    set_up: Any = module.setup_torch_training_env

    def join(rank: int, num_gpus: int, group_name: str, backend: str, url: str) -> None:
        torch.distributed.init_process_group(backend, init_method=url, world_size=num_gpus, rank=rank)

    module.setup_torch_training_env = lambda *args, **options: (set_up(*args, **options)[0], processes)
    module.init_distributed = join
    module.DDP_th = lambda model, **_: DistributedDataParallel(model)
