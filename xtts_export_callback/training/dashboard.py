"""Shows the time and disk space of exports in the Trainer's dashboard logger, TensorBoard by default."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from xtts_export_callback.training.config import ExportConfig

SCALARS = ("seconds", "megabytes", "training_waited_seconds")


class _Point(NamedTuple):
    step: int
    scalars: dict[str, float]


class Dashboard:
    """Collects numbers from any thread and logs them on the training thread: few loggers accept other threads."""

    def __init__(self, trainer: Any) -> None:
        self._logger = trainer.dashboard_logger
        self._points: deque[_Point] = deque()

    def show_options(self, options: ExportConfig) -> None:
        """Add a card with the options; in TensorBoard also to its page of hyper-parameters."""
        values = options.to_dict()
        rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
        self._logger.add_text("xtts-export", f"| option | value |\n|---|---|\n{rows}", 0)
        writer = getattr(self._logger, "writer", None)
        if writer is not None and hasattr(writer, "file_writer"):
            # `SummaryWriter.add_hparams` would write values into a folder of their own.
            from torch.utils.tensorboard.summary import hparams

            card = {f"export.{name}": value for name, value in values.items()}
            summaries: Any = hparams  # without types
            for summary in summaries(card, {f"Export/{name}": 0.0 for name in SCALARS}):
                writer.file_writer.add_summary(summary)

    def note(self, step: int, seconds: float, nbytes: int, waited: float) -> None:
        """Note one export."""
        self._points.append(_Point(step, dict(zip(SCALARS, (seconds, nbytes / 1e6, waited), strict=True))))

    def note_loss(self, step: int, loss: float) -> None:
        """Note the evaluation loss of the running mean."""
        self._points.append(_Point(step, {"running_mean_eval_loss": loss}))

    def note_disk(self, step: int, used: float, stock: float) -> None:
        """Note the disk space of the run and that of the stock recipe, in bytes."""
        self._points.append(_Point(step, {"disk_gigabytes": used / 1e9, "stock_disk_gigabytes": stock / 1e9}))

    def hand_over(self) -> None:
        """Pass the noted numbers to the logger. Call this on the training thread."""
        while self._points:
            point = self._points.popleft()
            self._logger.add_scalars("Export", point.scalars, point.step)
