"""Find the models to evaluate, and put the weights of one after another into a single model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xtts_export_callback.checkpoint.fingerprint import fingerprint
from xtts_export_callback.checkpoint.reader import MODEL_NAMES, open_checkpoint
from xtts_export_callback.errors import IncompatibleError
from xtts_export_callback.evaluation.results import Candidate
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.run.checkpoints import (
    exports_folder,
    find_checkpoints,
    find_exports,
    is_run,
    refuse_folder_of_exports,
)
from xtts_export_callback.tensors.cast import cast
from xtts_export_callback.xtts.state_dict import TEXT_EMBEDDING, dropped_component, inference_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from xtts_export_callback.checkpoint.reader import Checkpoint
    from xtts_export_callback.tensors.tensor import Tensor

_USED_KEYS = ("step", "export")


class Source(NamedTuple):
    """A model to evaluate.

    Attributes:
        path: The file, or the inference folder.
        candidate: Its description, nothing measured yet.
        twins: Names of others that were named and have the same weights.
    """

    path: Path
    candidate: Candidate
    twins: Sequence[str] = ()


def find_candidates(paths: Iterable[Path], *, folder: str | None = None) -> list[Source]:
    """Find the models that paths name, each once, without reading weights where the files have checksums.

    Args:
        paths: Runs, checkpoints, inference folders and files of weights. A run stands for all of its checkpoints and
            exports; of a checkpoint and its export, the more precise one is taken, and of equal weights the first.
        folder: Name of the folder of exports in a run; by default the one that the run's config names.

    Returns:
        The models. Where names meet, the name of the folder that each lies in is put in front.

    Raises:
        CheckpointError: When a path is not an XTTS model.
        ConfigError: When a path is a folder of exports.
    """
    found: dict[str | None, tuple[Path, Candidate]] = {}
    twins: dict[str | None, list[str]] = {}
    for path in paths:
        refuse_folder_of_exports(path)
        for name, model in _of_run(path, folder) if is_run(path) else [(_name(path), path)]:
            candidate = _describe(model, name)
            _, first = found.setdefault(candidate.fingerprint, (model, candidate))
            if name != first.name:
                twins.setdefault(candidate.fingerprint, []).append(name)
    named = _with_unique_names(list(found.values()))
    return [Source(path, candidate, twins.get(candidate.fingerprint, ())) for path, candidate in named]


def _of_run(run: Path, name: str | None) -> list[tuple[str, Path]]:
    folder = run / (name or exports_folder(run))
    exports = find_exports(folder)
    precise = [saved for saved in exports if (read_provenance(saved.path) or {}).get("dtype") == "float32"]
    # A later one replaces an earlier one of the same name: the file of an export is a third of the checkpoint's.
    saved = {one.name: one for one in (*exports, *find_checkpoints(run), *precise)}
    merges = [entry for entry in sorted(folder.iterdir()) if _is_model(entry)] if folder.is_dir() else []
    return [
        *((one.name, one.path) for one in sorted(saved.values())),
        *((path.name, path) for path in merges if path.name not in saved),
    ]


def _is_model(folder: Path) -> bool:
    return not folder.name.startswith(".") and any((folder / name).is_file() for name in MODEL_NAMES)


def _name(path: Path) -> str:
    place = path.resolve() if path.name in {"", ".", ".."} else path
    is_plain = place.is_dir() or place.name not in MODEL_NAMES
    return (place.stem if place.is_file() else place.name) if is_plain else place.absolute().parent.name


def _with_unique_names(found: Sequence[tuple[Path, Candidate]]) -> list[tuple[Path, Candidate]]:
    from dataclasses import replace

    names = [candidate.name for _, candidate in found]
    parents = [_parent(path).name for path, _ in found]
    times = Counter(names)
    unique: list[str] = []
    for name, parent in zip(names, parents, strict=True):
        fuller = f"{parent}-{name}" if times[name] > 1 and parent else name
        repeats = sum(other == fuller or other.startswith(f"{fuller}-again") for other in unique)
        unique.append(f"{fuller}-again{repeats}" if repeats else fuller)
    return [(path, replace(candidate, name=name)) for (path, candidate), name in zip(found, unique, strict=True)]


def _parent(path: Path) -> Path:
    """The folder that tells a model from one of the same name: the run rather than its folder of exports."""
    folder = path.absolute().parent
    if path.name in MODEL_NAMES:
        folder = folder.parent
    return folder.parent if is_run(folder.parent) and folder.name == exports_folder(folder.parent) else folder


def _describe(path: Path, name: str) -> Candidate:
    with open_checkpoint(path, keep=_USED_KEYS) as checkpoint:
        kind, steps = _origin(checkpoint)
        weights = inference_model(checkpoint).tensors
        return Candidate(name, kind, steps, checkpoint.nbytes, fingerprint(weights))


def _origin(checkpoint: Checkpoint) -> tuple[str, list[int]]:
    """What a model is, and the steps of the checkpoints that it comes from."""
    provenance: Any = checkpoint.document.get("export") or read_provenance(checkpoint.path.parent) or {}
    if isinstance(provenance, dict) and isinstance(chosen := provenance.get("recommended"), dict):
        provenance = {**provenance, **{key: chosen[key] for key in ("kind", "sources") if chosen.get(key)}}
    kind = provenance.get("kind") if isinstance(provenance, dict) else None
    if kind not in ("export", "average", "merge"):
        return "checkpoint", [step for step in [checkpoint.document.get("step")] if type(step) is int]
    sources = provenance.get("sources")
    steps = [source.get("step") for source in sources if isinstance(source, dict)] if isinstance(sources, list) else []
    return kind, [step for step in steps if type(step) is int]


def swap_weights(model: torch.nn.Module, path: Path) -> None:
    """Replace the weights of a model by those of a file, tensor by tensor, so that there is never a second model.

    Args:
        model: An ``Xtts`` on any device. Modules that share its weights, such as those of
            ``init_gpt_for_inference``, have the new ones too.
        path: Checkpoint, inference folder or file of weights, of any floating-point type.

    Raises:
        CheckpointError: When the file is damaged or not an XTTS model.
        IncompatibleError: When it has other tensors than the model.
    """
    with open_checkpoint(path, keep=()) as checkpoint:
        swap_tensors(model, inference_model(checkpoint).tensors, checkpoint.path)


def swap_tensors(model: torch.nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Do the same as `swap_weights` with tensors that have not been read, such as those of a planned merge.

    Args:
        model: An ``Xtts`` on any device.
        tensors: An inference model.
        where: What to call it in errors.
    """
    import torch

    expected = {name: value for name, value in model.state_dict().items() if dropped_component(name) is None}
    check_fits({name: tuple(value.shape) for name, value in expected.items()}, tensors, where)
    single = cast(tensors, "float32")
    with torch.no_grad():
        for name, target in expected.items():
            target.copy_(torch.from_numpy(single[name].read().copy()))


def check_fits(expected: dict[str, tuple[int, ...]], tensors: dict[str, Tensor], where: Path) -> None:
    """Refuse a model that has other tensors than the one to evaluate with.

    Args:
        expected: Shapes by name.
        tensors: An inference model.
        where: What to call it in errors.

    Raises:
        IncompatibleError: With the first difference and the likely cause.
    """
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found == expected:
        return
    rows = [shapes[TEXT_EMBEDDING][0] for shapes in (found, expected)]
    if rows[0] != rows[1]:
        msg = (
            f"{where}: a vocabulary of {rows[0]} tokens, expected the {rows[1]} of the run's vocab.json; "
            "evaluate it with the config.json of its own run"
        )
        raise IncompatibleError(msg)
    name = min(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    shapes = [f"{list(shapes[name])}" if name in shapes else "nothing" for shapes in (expected, found)]
    msg = (
        f"{where}: {name}: expected {shapes[0]}, found {shapes[1]}: another model than the config.json "
        "describes; evaluate it with the config.json of its own run"
    )
    raise IncompatibleError(msg)
