"""The way that a run's weights took: from checkpoint to checkpoint, and away from where it began."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import Checkpoint, open_checkpoint
from xtts_export_callback.comparison.measure import THREADS, dot, values_of
from xtts_export_callback.comparison.parts import part_of
from xtts_export_callback.comparison.report import bare_tensors, config_of
from xtts_export_callback.errors import CheckpointError, ConfigError, IncompatibleError
from xtts_export_callback.inspection.architecture import model_args
from xtts_export_callback.runs import DEFAULT_FOLDER, find_checkpoints, find_exports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from xtts_export_callback.checkpoint.tensor import Tensor

_ELEMENTS = 1 << 16
_MAX_STOPS = 64


@dataclass
class _Sums:
    """Over some elements: of the start's squares, and at each stop of the squares of both distances and more."""

    square_start: float
    square_step: list[float]
    square_away: list[float]
    turn: list[float]

    @classmethod
    def zero(cls, stops: int) -> _Sums:
        return cls(0.0, [0.0] * stops, [0.0] * stops, [0.0] * stops)

    def add(self, other: _Sums) -> None:
        self.square_start += other.square_start
        for mine, more in (
            (self.square_step, other.square_step),
            (self.square_away, other.square_away),
            (self.turn, other.turn),
        ):
            mine[:] = [x + y for x, y in zip(mine, more, strict=True)]


@dataclass(frozen=True)
class Way:
    """How far a group of weights went.

    Attributes:
        step: Distance of each stop from the one before, relative to the start's norm; 0 for the first.
        away: Distance of each stop from the start, relative to its norm.
        turn: Cosine between the step to each stop and the one before it: 1 straight on, -1 back; None where there
            is no step before it or one of both is zero.
    """

    step: tuple[float, ...]
    away: tuple[float, ...]
    turn: tuple[float | None, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"step": list(self.step), "away": list(self.away), "turn": list(self.turn)}


@dataclass(frozen=True)
class RunWayReport:
    """The way of a run.

    Attributes:
        run: The folder.
        start: What the distances are from: the base model, or the first checkpoint.
        stops: Names of the checkpoints, the start first.
        steps: Their training steps; None for a base.
        gpt: The way of the GPT as a whole.
        parts: That of each part of the model, layers of the GPT included, by title.
        layers: That of each layer of the GPT, by number.
    """

    run: Path
    start: str
    stops: tuple[str, ...]
    steps: tuple[int | None, ...]
    gpt: Way
    parts: dict[str, Way]
    layers: dict[int, Way]

    @property
    def differ(self) -> bool:
        """Whether anything moved at all."""
        return any(any(way.step) for way in self.parts.values())

    @property
    def sentence(self) -> str:
        """What happened, in plain words."""
        if not self.differ:
            return f"nothing moved over {len(self.stops)} checkpoints: all weights have equal values"
        still = [title for title, way in self.parts.items() if not any(way.step)]
        away, walked = self.gpt.away[-1], math.fsum(self.gpt.step)
        text = (
            f"from {self.start} to {self.stops[-1]} the GPT moved by {away * 100:.2g} %, on a way of "
            f"{walked * 100:.2g} % in {len(self.stops) - 1} steps"
        )
        unmoved = ", ".join(title for title in still if not title.startswith("layer "))
        return f"{text}; did not move: {unmoved}" if unmoved else text

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "run": str(self.run),
            "start": self.start,
            "differ": self.differ,
            "summary": self.sentence,
            "stops": list(self.stops),
            "steps": list(self.steps),
            "gpt": self.gpt.to_dict(),
            "parts": {title: way.to_dict() for title, way in self.parts.items()},
        }


def compare_run(run: Path, base: Path | None = None, *, progress: Callable[[int], None] | None = None) -> RunWayReport:
    """Follow the weights along the checkpoints of a run, reading each file once.

    Args:
        run: A run folder; an export in float32 stands for its checkpoint, being the same bits in a third of the size.
        base: The model that the run started from. By default the one that its config names, if it is still there,
            else the first checkpoint.
        progress: Called with the number of bytes done since the last call, over all files, from any thread.

    Returns:
        The report.

    Raises:
        CheckpointError: When a file cannot be read or is damaged.
        ConfigError: When there are fewer than two models to compare.
        IncompatibleError: When their tensors differ in names or shapes.
    """
    stops = stops_of(run)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_checkpoint(path)) for _, _, path in stops]
        names = [name for name, _, _ in stops]
        steps: list[int | None] = [step for _, step, _ in stops]
        models = [bare_tensors(checkpoint) for checkpoint in opened]
        start = _open_base(base, opened, models)
        if start is not None:
            stack.enter_context(start)
            models.insert(0, bare_tensors(start))
            names.insert(0, f"the base {start.path.name}" if base is None else str(base))
            steps.insert(0, None)
        if len(models) < 2 or len(models) > _MAX_STOPS:
            msg = f"{run}: expected 2 to {_MAX_STOPS} models to compare, found {len(models)}; name two models instead"
            raise ConfigError(msg)
        common = _common(run, names, models)
        sums = _measure(common, models, progress)
    return _report(run, names, steps, sums)


def stops_of(run: Path) -> list[tuple[str, int, Path]]:
    """Name, step and file of every checkpoint of a run, one a step, oldest first."""
    best: dict[int, tuple[str, int, Path]] = {}
    for saved in (*find_checkpoints(run), *find_exports(run / DEFAULT_FOLDER)):
        is_export = saved.path.is_dir()
        if saved.step in best and (is_export and not _is_float32(saved.path)):
            continue
        name = best[saved.step][0] if saved.step in best else saved.name
        best[saved.step] = (name, saved.step, saved.path)
    return [best[step] for step in sorted(best)]


def _is_float32(folder: Path) -> bool:
    from xtts_export_callback.folder import read_provenance

    return (read_provenance(folder) or {}).get("dtype") == "float32"


def _open_base(base: Path | None, opened: list[Checkpoint], models: list[dict[str, Tensor]]) -> Checkpoint | None:
    """The model that training started from; one that is only guessed must fit, or it is left out."""
    if base is not None:
        return open_checkpoint(base)
    for checkpoint in opened:
        named = model_args(config_of(checkpoint)).get("xtts_checkpoint")
        if isinstance(named, str) and named and Path(named).is_file():
            try:
                found = open_checkpoint(named)
            except CheckpointError:
                return None
            if _speaking(bare_tensors(found)) == _speaking(models[0]):
                return found
            found.close()
            return None
    return None


def _speaking(model: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    speaking = ("gpt", "hifigan", "speaker_encoder", "mel_stats")
    return {name: tensor.shape for name, tensor in model.items() if part_of(name).component in speaking}


def _common(run: Path, names: list[str], models: list[dict[str, Tensor]]) -> list[str]:
    shapes = _speaking(models[0])
    for name, model in zip(names[1:], models[1:], strict=True):
        other = _speaking(model)
        if other != shapes:
            differing = sorted(key for key in {*shapes, *other} if shapes.get(key) != other.get(key))
            msg = (
                f"{run}: {name} differs from {names[0]} in {len(differing)} tensors, {differing[0]} first; compare the "
                "two by themselves to see how"
            )
            raise IncompatibleError(msg)
    return [name for name in shapes if models[0][name].dtype.is_float]


def _measure(
    common: list[str], models: list[dict[str, Tensor]], progress: Callable[[int], None] | None
) -> dict[str, _Sums]:
    stop = threading.Event()

    def work(name: str) -> _Sums:
        if stop.is_set():
            return _Sums.zero(len(models))
        return _follow([model[name] for model in models], progress)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="xtts-export") as pool:
        try:
            return dict(zip(common, pool.map(work, common), strict=True))
        except BaseException:
            stop.set()
            raise


def _follow(tensors: list[Tensor], progress: Callable[[int], None] | None) -> _Sums:
    """Sums along one tensor's way, with at most four blocks in float64 at a time."""
    import numpy as np

    sums = _Sums.zero(len(tensors))
    readers = [tensor.packed().reader() for tensor in tensors]
    for offset in range(0, tensors[0].numel, _ELEMENTS):
        count = min(_ELEMENTS, tensors[0].numel - offset)
        start: npt.NDArray[np.float64] | None = None
        previous: npt.NDArray[np.float64] | None = None
        last_step: npt.NDArray[np.float64] | None = None
        for index, (tensor, fill) in enumerate(zip(tensors, readers, strict=True)):
            buffer = np.empty(count * tensor.dtype.itemsize, np.uint8)
            fill(memoryview(buffer.data))
            values = np.nan_to_num(values_of(buffer, tensor.dtype), copy=False, nan=0.0, posinf=0.0, neginf=0.0)
            if start is None or previous is None:
                start = previous = values
                sums.square_start += dot(values, values)
            else:
                step = values - previous
                sums.square_step[index] += dot(step, step)
                if last_step is not None:
                    sums.turn[index] += dot(step, last_step)
                away = values - start
                sums.square_away[index] += dot(away, away)
                previous, last_step = values, step
            if progress is not None:
                progress(len(buffer))
    return sums


def _report(run: Path, names: list[str], steps: list[int | None], sums: dict[str, _Sums]) -> RunWayReport:
    groups: dict[str, _Sums] = {}
    layers: dict[int, _Sums] = {}
    gpt = _Sums.zero(len(names))
    for name, found in sums.items():
        part = part_of(name)
        groups.setdefault(part.title, _Sums.zero(len(names))).add(found)
        if part.component == "gpt":
            gpt.add(found)
        if part.layer is not None:
            layers.setdefault(part.layer, _Sums.zero(len(names))).add(found)
    return RunWayReport(
        run=run,
        start=names[0],
        stops=tuple(names),
        steps=tuple(steps),
        gpt=_way(gpt),
        parts={title: _way(found) for title, found in groups.items()},
        layers={layer: _way(layers[layer]) for layer in sorted(layers)},
    )


def _way(sums: _Sums) -> Way:
    turns: list[float | None] = []
    for index, product in enumerate(sums.turn):
        size = math.sqrt(sums.square_step[index]) * math.sqrt(sums.square_step[index - 1]) if index > 1 else 0.0
        turns.append(max(-1.0, min(1.0, product / size)) if size else None)
    size = math.sqrt(sums.square_start)

    def relative(square: float) -> float:
        return math.sqrt(square) / size if size else (0.0 if square == 0 else math.inf)

    return Way(tuple(map(relative, sums.square_step)), tuple(map(relative, sums.square_away)), tuple(turns))
