"""How a run's weights moved between checkpoints: `compare_run`."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import Checkpoint, open_checkpoint
from xtts_export_callback.comparison.distance import Trajectory, trajectories
from xtts_export_callback.comparison.models import bare_tensors
from xtts_export_callback.comparison.summary import count, percent, places_of
from xtts_export_callback.errors import CheckpointError, ConfigError, IncompatibleError
from xtts_export_callback.files.paths import as_path
from xtts_export_callback.run.checkpoints import exports_folder, find_checkpoints, find_exports
from xtts_export_callback.xtts.model_config import known_config, local_path, model_args
from xtts_export_callback.xtts.parts import part_of
from xtts_export_callback.xtts.state_dict import inference_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xtts_export_callback.tensors.tensor import Tensor

_MAX_STOPS = 64
_FEW = 3


@dataclass(frozen=True)
class TrajectoryReport:
    """How the weights of a run moved.

    Attributes:
        run: The folder.
        start: The model that distances are measured from: the base model, or the first checkpoint.
        stops: Names of the checkpoints, the start first.
        steps: Their training steps; None for a base.
        gpt: The trajectory of the GPT as a whole.
        parts: That of each part of the model, layers of the GPT included, by title.
        layers: That of each layer of the GPT, by number.
    """

    run: Path
    start: str
    stops: tuple[str, ...]
    steps: tuple[int | None, ...]
    gpt: Trajectory
    parts: dict[str, Trajectory]
    layers: dict[int, Trajectory]

    @property
    def differ(self) -> bool:
        """Whether anything moved at all."""
        return any(found.moved for found in self.parts.values())

    @property
    def nonfinite(self) -> tuple[int, ...]:
        """How many values of the model are NaN or infinite at each stop."""
        return tuple(map(sum, zip(*(found.nonfinite for found in self.parts.values()), strict=True)))

    @property
    def sentence(self) -> str:
        """The result in plain words."""
        return "; ".join([self._moved(), *self._broken()])

    def _moved(self) -> str:
        if not self.differ:
            return f"nothing moved over {len(self.stops)} checkpoints: all weights have equal values"
        away, walked = self.gpt.away[-1], math.fsum(self.gpt.step)
        steps = count(len(self.stops) - 1, "step")
        text = f"from {self.start} to {self.stops[-1]} "
        if math.isnan(away):
            text += f"the distance of the GPT is not measurable after {steps}"
        elif math.isfinite(walked):
            text += f"the GPT moved by {percent(away)}, on a trajectory of {percent(walked)} in {steps}"
        else:
            text += f"the GPT moved by {percent(away)} in {steps}"
        still = ", ".join(
            title for title, found in self.parts.items() if not found.moved and not title.startswith("layer ")
        )
        return f"{text}; did not move: {still}" if still else text

    def _broken(self) -> list[str]:
        """Say which checkpoints hold NaN or infinity, and where: the training has diverged."""
        broken = [index for index, number in enumerate(self.nonfinite) if number]
        clauses = []
        for index in broken[:_FEW]:
            layers = [layer for layer, found in self.layers.items() if found.nonfinite[index]]
            titles = [title for title, found in self.parts.items() if found.nonfinite[index]]
            where = places_of(layers, (title for title in titles if not title.startswith("layer ")))
            number = self.nonfinite[index]
            verb = "is" if number == 1 else "are"
            clauses.append(
                f"{self.stops[index]} holds {count(number, 'value')} that {verb} NaN or infinite, in {where}"
            )
        more = len(broken) - _FEW
        return (
            [*clauses, f"so {'does' if more == 1 else 'do'} {count(more, 'later checkpoint')}"] if more > 0 else clauses
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "run": str(self.run),
            "start": self.start,
            "differ": self.differ,
            "summary": self.sentence,
            "stops": list(self.stops),
            "steps": list(self.steps),
            "nonfinite": list(self.nonfinite),
            "gpt": self.gpt.to_dict(),
            "parts": {title: found.to_dict() for title, found in self.parts.items()},
        }


def compare_run(
    run: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> TrajectoryReport:
    """Measure how the weights moved between the checkpoints of a run, reading each file once.

    Args:
        run: A run folder; an export in float32 is read for its checkpoint: the same bits in a third of the size.
        base: The model that the run started from. By default the one that its config names, if that exists,
            otherwise the first checkpoint.
        progress: Called with the number of bytes done since the last call, over all files, from any thread.

    Returns:
        The report.

    Raises:
        CheckpointError: When a file cannot be read or is damaged.
        ConfigError: When there are fewer than two models to compare.
        IncompatibleError: When their tensors differ in names or shapes.
    """
    run = as_path(run)
    stops = stops_of(run)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_checkpoint(path)) for _, _, path in stops]
        names = [name for name, _, _ in stops]
        steps: list[int | None] = [step for _, step, _ in stops]
        models = [bare_tensors(checkpoint) for checkpoint in opened]
        start = _open_base(None if base is None else as_path(base), opened, models)
        if start is not None:
            stack.enter_context(start)
            models.insert(0, bare_tensors(start))
            names.insert(0, f"the base {start.path.name}" if base is None else str(base))
            steps.insert(0, None)
        if len(models) < 2 or len(models) > _MAX_STOPS:
            msg = f"{run}: expected 2 to {_MAX_STOPS} models to compare, found {len(models)}; name two models instead"
            raise ConfigError(msg)
        common = _common(run, names, models)
        found = trajectories(models, common, None if progress is None else lambda _, nbytes: progress(nbytes))
    return _report(run, names, steps, found)


def stops_of(run: Path) -> list[tuple[str, int, Path]]:
    """Name, step and file of every checkpoint of a run, one per step, oldest first."""
    best: dict[int, tuple[str, int, Path]] = {}
    for saved in (*find_checkpoints(run), *find_exports(run / exports_folder(run))):
        is_export = saved.path.is_dir()
        if saved.step in best and (is_export and not _is_float32(saved.path)):
            continue
        name = best[saved.step][0] if saved.step in best else saved.name
        best[saved.step] = (name, saved.step, saved.path)
    return [best[step] for step in sorted(best)]


def bytes_to_read(run: Path) -> int:
    """Return the bytes that `compare_run` reads of a run's checkpoints, for progress.

    Raises:
        CheckpointError: When a file cannot be read.
    """
    nbytes = 0
    for _, _, path in stops_of(run):
        with open_checkpoint(path) as checkpoint:
            nbytes += sum(tensor.nbytes for tensor in inference_model(checkpoint).tensors.values())
    return nbytes


def _is_float32(folder: Path) -> bool:
    from xtts_export_callback.inference_folder.provenance import read_provenance

    return (read_provenance(folder) or {}).get("dtype") == "float32"


def _open_base(base: Path | None, opened: list[Checkpoint], models: list[dict[str, Tensor]]) -> Checkpoint | None:
    """Open the model that training started from; one that only the config names is left out if it does not fit."""
    if base is not None:
        return open_checkpoint(base)
    for checkpoint in opened:
        named = local_path(model_args(known_config(checkpoint)).get("xtts_checkpoint"))
        if named is not None and os.path.isfile(named):  # noqa: PTH113 - False without permission to look
            try:
                found = open_checkpoint(named)
            except CheckpointError:
                return None
            if _inference_shapes(bare_tensors(found)) == _inference_shapes(models[0]):
                return found
            found.close()
            return None
    return None


def _inference_shapes(model: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    components = ("gpt", "hifigan", "speaker_encoder", "mel_stats")
    return {name: tensor.shape for name, tensor in model.items() if part_of(name).component in components}


def _common(run: Path, names: list[str], models: list[dict[str, Tensor]]) -> list[str]:
    shapes = _inference_shapes(models[0])
    for name, model in zip(names[1:], models[1:], strict=True):
        other = _inference_shapes(model)
        if other != shapes:
            differing = sorted(key for key in {*shapes, *other} if shapes.get(key) != other.get(key))
            msg = (
                f"{run}: {name} differs from {names[0]} in {len(differing)} tensors, {differing[0]} first; compare "
                "only these two to see how"
            )
            raise IncompatibleError(msg)
    return [name for name in shapes if models[0][name].dtype.is_float]


def _report(run: Path, names: list[str], steps: list[int | None], found: dict[str, Trajectory]) -> TrajectoryReport:
    groups: dict[str, Trajectory] = {}
    layers: dict[int, Trajectory] = {}
    gpt = Trajectory.empty(len(names))
    for name, trajectory in found.items():
        part = part_of(name)
        groups.setdefault(part.title, Trajectory.empty(len(names))).add(trajectory)
        if part.component == "gpt":
            gpt.add(trajectory)
        if part.layer is not None:
            layers.setdefault(part.layer, Trajectory.empty(len(names))).add(trajectory)
    return TrajectoryReport(
        run=run,
        start=names[0],
        stops=tuple(names),
        steps=tuple(steps),
        gpt=gpt,
        parts=groups,
        layers=dict(sorted(layers.items())),
    )
