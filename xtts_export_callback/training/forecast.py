"""Forecasts the disk space of a run before it starts, in one line of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from xtts_export_callback.files.disk import free_bytes
from xtts_export_callback.run.log import training_logger
from xtts_export_callback.training.hooks import place_of
from xtts_export_callback.training.trainer_state import optimizers_of
from xtts_export_callback.units import human_size
from xtts_export_callback.xtts.components import BY_KEY, component_of
from xtts_export_callback.xtts.state_dict import bare_name

if TYPE_CHECKING:
    from xtts_export_callback.training.config import ExportConfig

_FEW = 3
_MOMENTS = 2  # of AdamW, each as large as the weights
_SHARES = {"float32": 1.0, "float16": 0.5, "bfloat16": 0.5, "int8": 0.28}  # of an export's size in float32


class Run(NamedTuple):
    """What the disk space of a run depends on, beside the options of the export.

    Attributes:
        epochs: Epochs.
        steps: Batches per epoch.
        save_step: Steps between two checkpoints.
        keeps: Checkpoints that the Trainer keeps; 0 or less for all.
        keeps_all_best: Whether it keeps every best model.
        full: Bytes of a full checkpoint.
        moments: Bytes of the optimizer state in it.
        slim: Bytes of an export.
    """

    epochs: int
    steps: int
    save_step: int
    keeps: int
    keeps_all_best: bool
    full: int
    moments: int
    slim: int

    @property
    def checkpoints(self) -> int:
        """How many checkpoints are saved."""
        return self.epochs * self.steps // self.save_step if self.save_step > 0 else 0


def exports(run: Run, options: ExportConfig, *, keep_last: int | None = None) -> int:
    """Return how many exports there are at most, the average and the recommended model included.

    Args:
        run: The run.
        options: Those of the export.
        keep_last: In place of that in the options.
    """
    last = options.keep_last if keep_last is None else keep_last
    kept = min(run.checkpoints, max(last, options.average_last)) if last else run.checkpoints
    best = (run.epochs if run.keeps_all_best else 1) if options.export_best else 0
    means = min(run.checkpoints, options.keep_last or run.checkpoints) if options.running_mean != "off" else 0
    return kept + best + means + (options.average_last > 1 and run.checkpoints > 1) + options.recommend


def export_bytes(run: Run, options: ExportConfig, count: int) -> int:
    """Return the bytes of that many exports."""
    nbytes = round(run.slim * count * _SHARES[options.dtype])
    return min(nbytes, int(options.max_disk_gb * 1e9)) if options.max_disk_gb else nbytes


def own_bytes(run: Run, options: ExportConfig) -> int:
    """Return the bytes of the Trainer's own files, and of the sums of a running mean beside them."""
    weights = run.full - run.moments
    kept = min(run.checkpoints, run.keeps) if run.keeps > 0 else run.checkpoints
    full = min(kept, options.keep_optimizer_for) if options.keep_optimizer_for else kept
    full = 0 if options.checkpoint_state == "weights" else full
    best = (run.epochs if run.keeps_all_best else 1) + (not options.link_best_model)
    each = weights if options.best_model_state == "weights" else run.full
    sums = (kept + 1) * run.moments if options.running_mean != "off" else 0  # float64: as large as two moments
    return full * run.full + (kept - full) * weights + best * each + sums


def line_of(run: Run, options: ExportConfig) -> str:
    """Return the forecast in one line."""
    count = exports(run, options)
    text = f"{_count(run.epochs, 'epoch')} of {_count(run.steps, 'step')}: about {_count(count, 'export')}"
    text += f", {human_size(export_bytes(run, options, count))}"
    fewer = exports(run, options, keep_last=_FEW)
    if not options.keep_last and fewer < count:
        text += f" (keep_last {_FEW} would take {human_size(export_bytes(run, options, fewer))})"
    return f"{text}, beside {human_size(own_bytes(run, options))} of the Trainer's own files"


def log_forecast(trainer: Any, options: ExportConfig) -> None:
    """Log what a run will take, as a warning where the disk has less."""
    run = _run_of(trainer)
    if run is None:
        return
    free = free_bytes(place_of(trainer.output_path))
    needed = own_bytes(run, options) + export_bytes(run, options, exports(run, options))
    line = f"{line_of(run, options)}; {human_size(free)} free"
    if free < needed:
        training_logger().warning(" ! EXPORT : %s, which is too little", line)
    else:
        training_logger().info(" > EXPORT : %s", line)


def _run_of(trainer: Any) -> Run | None:
    config, samples = trainer.config, trainer.train_samples
    if not samples or not config.batch_size:
        return None
    state = trainer.model.state_dict()
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in state.items()}
    slim = sum(size for name, size in sizes.items() if BY_KEY[component_of(bare_name(name))].speaks)
    groups = [group for optimizer in optimizers_of(trainer) for group in optimizer.param_groups]
    trained = sum(each.numel() * each.element_size() for group in groups for each in group["params"])
    return Run(
        epochs=config.epochs,
        steps=max(1, -(-len(samples) // (config.batch_size * max(1, getattr(trainer, "num_gpus", 1))))),
        save_step=config.save_step if getattr(config, "save_checkpoints", True) else 0,
        keeps=config.save_n_checkpoints or 0,
        keeps_all_best=bool(config.save_all_best),
        full=sum(sizes.values()) + _MOMENTS * trained,
        moments=_MOMENTS * trained,
        slim=slim,
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"
