"""Averages the weights over every step while they are trained, not only over the checkpoints.

``torch.optim.swa_utils.AveragedModel`` copies the whole model, the DVAE included, and averages in float32, where the
small steps of an average with a long half-life are lost. Here only what the optimizer changes is summed, in float64:
adding a float32 to it loses nothing for the first 2^29 updates.

The state at each save is written before the save itself (`run.running_mean`), so that a run resumes with it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import open_checkpoint, write_pth
from xtts_export_callback.run.log import training_logger
from xtts_export_callback.run.running_mean import KEY, MEAN, path_of, window_of
from xtts_export_callback.tensors.tensor import ArrayStorage, Storage, Tensor
from xtts_export_callback.training.log import guarded
from xtts_export_callback.training.trainer_state import optimizers_of
from xtts_export_callback.units import human_size
from xtts_export_callback.xtts.components import BY_KEY, component_of
from xtts_export_callback.xtts.state_dict import bare_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from xtts_export_callback.tensors.tensor import Reader
    from xtts_export_callback.training.config import ExportConfig

logger = training_logger()

_SIZE = 8  # bytes of a float64
_ROOM = 1 << 30  # bytes of a GPU that are left to training


class RunningMean:
    """The running mean of one training, on rank 0.

    Methods are for the training thread. They raise no errors: each becomes one line in the training log.
    """

    def __init__(self, run: Path, options: ExportConfig) -> None:
        self._run = run
        self._way = options.running_mean
        self._every = options.running_mean_every
        self._half_life = options.running_mean_half_life
        self._parameters: dict[str, Any] = {}
        self._sums: dict[str, Any] = {}
        self._first = 0
        self._count = 0
        self._updates = 0  # of the optimizer, since the last save
        self._period = 1  # of them between two of ours
        self._decay = 0.0
        self._is_placed = False

    def start(self, trainer: Any) -> None:
        """Watch the optimizer, and take over the state of the checkpoint that the run resumes from."""
        optimizers = optimizers_of(trainer)
        self._parameters = _trained(trainer.model, optimizers)
        accumulated = max(1, int(getattr(trainer, "grad_accum_steps", 1)))
        self._period = max(1, self._every // accumulated)
        self._decay = 0.5 ** (self._period * accumulated / self._half_life)
        self._first = trainer.total_steps_done or getattr(trainer, "restore_step", 0)  # trainer 0.0.36: only in `fit`
        if trainer.args.continue_path and self._first:
            guarded("the running mean was not restored and starts anew", self._restore)
        optimizers[-1].register_step_post_hook(lambda *_: guarded("the running mean lacks a step", self._after_update))

    # Adding

    def _after_update(self) -> None:
        self._updates += 1
        if self._updates % self._period == 0:
            self._add()

    def _add(self) -> None:
        import torch

        if not self._is_placed:
            self._place()
        keeps = self._decay if self._count else 0.0
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                total = self._sums[name]
                value = parameter.detach().to(total.device, total.dtype)  # torch is slow to add two types
                if self._way == MEAN:
                    total.add_(value)
                else:
                    total.lerp_(value, 1 - keeps)
        self._count += 1

    def _place(self) -> None:
        """Choose where the sums lie, once the first step has shown what training itself needs."""
        import torch

        device = next(iter(self._parameters.values())).device
        numel = sum(each.numel() for each in self._parameters.values())
        is_roomy = device.type == "cuda" and torch.cuda.mem_get_info(device)[0] >= _SIZE * numel + _ROOM
        device = device if is_roomy else torch.device("cpu")
        self._sums = {
            name: self._sums[name].to(device)
            if self._sums
            else torch.zeros(each.shape, dtype=torch.float64, device=device)
            for name, each in self._parameters.items()
        }
        self._is_placed = True
        how_often = f"every {self._period} updates" if self._period > 1 else "every update"
        line = " > EXPORT : running %s of %s weights, %s, in %s on %s"
        logger.info(line, self._way, f"{numel:,}", how_often, human_size(_SIZE * numel), device)

    # Saving

    def save(self, kind: str, step: int) -> None:
        """Write the state that belongs to a save which comes next.

        Args:
            kind: ``"checkpoint"``, which ends a window, or ``"best_model"``.
            step: The step of the save.
        """
        guarded(f"the running mean of step {step} was not saved", lambda: self._save(kind, step))

    def _save(self, kind: str, step: int) -> None:
        if not self._updates:
            return  # nothing has changed since the last save
        if not self._count:
            self._add()
        ends = kind == "checkpoint"
        described = {"first": self._first, "last": step, "updates": self._count, "way": self._way, "ends": ends}
        tensors = {
            name: Tensor.contiguous(_Sum(total), "float64", tuple(total.shape)) for name, total in self._sums.items()
        }
        path = path_of(self._run, step)
        path.parent.mkdir(exist_ok=True)
        write_pth(path, {"model": tensors, KEY: {**described, "since_save": self._updates}}, force=True)
        if ends:
            self._begin_window(step)

    def _begin_window(self, step: int) -> None:
        self._updates = 0
        if self._way == MEAN:
            self._first, self._count = step, 0
            for total in self._sums.values():
                total.zero_()

    def _restore(self) -> None:
        import torch

        path = path_of(self._run, self._first)
        if not path.exists():
            logger.warning(" ! EXPORT : no running mean of step %i in %s: it starts anew", self._first, path.parent)
            return
        with open_checkpoint(path) as checkpoint:
            window = window_of(path, checkpoint.document)
            shapes = {name: tuple(each.shape) for name, each in self._parameters.items()}
            if window.way != self._way or {name: one.shape for name, one in checkpoint.tensors.items()} != shapes:
                logger.warning(" ! EXPORT : %s is of another training or another way: it starts anew", path)
                return
            if window.ends and self._way == MEAN:
                return
            sums = {name: torch.from_numpy(tensor.read().copy()) for name, tensor in checkpoint.tensors.items()}
        self._sums, self._count = sums, window.updates
        self._first = window.first
        self._updates = 0 if window.ends else checkpoint.document[KEY]["since_save"]

    # Evaluating

    def evaluate(self, trainer: Any) -> float | None:
        """Return the evaluation loss of the mean, as ``Trainer.eval_epoch`` computes it; None where it is empty.

        Training goes on as without it: with the same weights, and the same random numbers.
        """
        import torch
        from trainer.generic_utils import KeepAverage

        if not self._count or not trainer.eval_loader:
            return None
        average = KeepAverage()
        with self._in_place(trainer.model), torch.random.fork_rng(), torch.no_grad():
            for batch in trainer.eval_loader:
                _, losses = trainer.model.eval_step(trainer.format_batch(batch), trainer.criterion)
                average.update_values({f"avg_{name}": float(value) for name, value in losses.items()})
        return float(average["avg_loss"])

    @contextmanager
    def _in_place(self, model: Any) -> Iterator[None]:
        """Put the mean in place of the weights within the block."""
        import torch

        divisor = self._count if self._way == MEAN else 1
        trained = {name: each.detach().clone() for name, each in self._parameters.items()}
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(self._sums[name] / divisor)
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(trained[name])
            model.train(was_training)


class _Sum(Storage):
    """A tensor of torch as bytes to write; one on a GPU is copied only while it is written."""

    def __init__(self, total: Any) -> None:
        self._total = total
        self.nbytes = total.numel() * _SIZE

    def reader(self) -> Reader:
        """See `Storage.reader`."""
        return ArrayStorage(memoryview(self._total.cpu().reshape(-1).numpy())).reader()


def _trained(model: Any, optimizers: list[Any]) -> dict[str, Any]:
    """Return the inference weights that the optimizers change, by the names that they have in an export."""
    changed = {id(each) for one in optimizers for group in one.param_groups for each in group["params"]}
    named = {bare_name(name): each for name, each in model.named_parameters() if id(each) in changed}
    return {name: each for name, each in named.items() if each.requires_grad and BY_KEY[component_of(name)].speaks}
