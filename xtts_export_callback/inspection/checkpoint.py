"""Report what one checkpoint file holds: `inspect_checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xtts_export_callback.checkpoint.reader import Checkpoint, open_checkpoint
from xtts_export_callback.run.lr_schedule import RESUME_KEY
from xtts_export_callback.tensors.dtypes import BY_NAME, CASTS
from xtts_export_callback.tensors.tensor import Tensor
from xtts_export_callback.xtts.architecture import Architecture, architecture_of
from xtts_export_callback.xtts.components import BY_KEY, COMPONENTS, component_of
from xtts_export_callback.xtts.model_config import model_args
from xtts_export_callback.xtts.state_dict import (
    bare_name,
    check_readable,
    dropped_component,
    has_trainer_prefix,
    prefix_of,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from xtts_export_callback.tensors.tensor import Storage

KINDS = {
    "training": "training checkpoint",
    "export": "inference export",
    "average": "average of checkpoints",
    "merge": "merge of models",
    "official": "official release, or a copy of it",
    "dvae": "DVAE alone, not an XTTS model",
    "other": "tensors of something other than XTTS v2",
    "bare": "bare state_dict",
    "inference": "inference model of unknown origin",
}
_DVAE_PARTS = ("encoder.", "decoder.", "codebook.", "discrete_loss.")  # TTS.tts.layers.xtts.dvae.DiscreteVAE
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Share(NamedTuple):
    """What a component takes in the file.

    Attributes:
        key: A key of `xtts.components.BY_KEY`.
        tensors: Number of tensors; those that share a storage with others count too.
        nbytes: Bytes in the file; those of all components add up to its size.
    """

    key: str
    tensors: int
    nbytes: int


class CheckpointReport(NamedTuple):
    """What a file is and where its bytes are.

    Attributes:
        path: The file.
        nbytes: Its size.
        format: ``"pth"``, ``"safetensors"`` or ``"legacy"``.
        kind: A key of `KINDS`.
        shares: The components in the file, in the order of `xtts.components.COMPONENTS`.
        slim: Bytes of the weights of an inference export, by dtype.
        state: ``step``, ``epoch``, ``train_loss``, ``eval_loss``, ``date``; None where the file does not say.
        dtypes: Bytes of the model's tensors by dtype.
        prefix: Prefix in the names of the inference weights, such as ``"xtts."``; empty for none.
        resumable: Whether the Trainer can resume from the file.
        fresh_moments: Whether it holds weights only, as our callback can save them, so that a resume starts with fresh
            optimizer moments.
        obstacles: Why the Trainer cannot resume from the file.
        architecture: Sizes of the model; None when the file is not an XTTS model.
        provenance: The origin of an export, an average or a merge; None for everything else.
        tensors: The model's tensors by their names in the file.
        computed_losses: Whether the losses are a mean of those of the inputs, as for an average, and not measured.
    """

    path: Path
    nbytes: int
    format: str
    kind: str
    shares: tuple[Share, ...]
    slim: dict[str, int]
    state: dict[str, Any]
    dtypes: dict[str, int]
    prefix: str
    resumable: bool
    fresh_moments: bool
    obstacles: tuple[str, ...]
    architecture: Architecture | None
    provenance: dict[str, Any] | None
    tensors: dict[str, Tensor]
    computed_losses: bool = False

    @property
    def speaking_bytes(self) -> int:
        """Bytes of the inference weights in this file."""
        return sum(share.nbytes for share in self.shares if BY_KEY[share.key].speaks and share.key != "container")

    @property
    def advice(self) -> str:
        """How to train from this file."""
        if self.kind == "dvae":
            return f"set it in a training config: model_args.dvae_checkpoint = {self.path.name}"
        if self.kind == "other":
            return "cannot be used for training: name a checkpoint of XTTS v2"
        if self.resumable:
            moments = "; its optimizer moments start afresh" if self.fresh_moments else ""
            return f"resume with --continue_path RUN, its folder (with config.json){moments}"
        if "int8" in self.dtypes:
            return "speak with it through load_xtts; export it with --dtype float32 for everything else"
        return f"start a new fine-tune from it: model_args.xtts_checkpoint = {self.path.name}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; the tensors are left out."""
        return {
            "path": str(self.path),
            "bytes": self.nbytes,
            "format": self.format,
            "kind": self.kind,
            "components": {
                share.key: {
                    "bytes": share.nbytes,
                    "tensors": share.tensors,
                    "speaks": BY_KEY[share.key].speaks,
                    "purpose": BY_KEY[share.key].purpose,
                }
                for share in self.shares
            },
            "inference_bytes": self.speaking_bytes,
            "slim_bytes": self.slim,
            **self.state,
            "computed_losses": self.computed_losses,
            "dtypes": self.dtypes,
            "prefix": self.prefix,
            "resumable": self.resumable,
            "fresh_moments": self.fresh_moments,
            "obstacles": list(self.obstacles),
            "advice": self.advice,
            "architecture": self.architecture.to_dict() if self.architecture else None,
            "provenance": self.provenance,
        }


def inspect_checkpoint(path: str | os.PathLike[str]) -> CheckpointReport:
    """Report what a checkpoint is and where its bytes are, from its directory and structure alone.

    Args:
        path: A Trainer checkpoint, an inference folder, a bare or official ``model.pth``, or a ``.safetensors``.

    Returns:
        The report. No tensor is read for it.

    Raises:
        CheckpointError: When the file does not exist, is damaged or hostile, or is not a checkpoint.

    Example:
        >>> report = inspect_checkpoint("run/checkpoint_1000.pth")
        >>> {share.key: share.nbytes for share in report.shares}["gpt"]
        1753681724
    """
    with open_checkpoint(path) as checkpoint:
        return report_on(checkpoint)


def report_on(checkpoint: Checkpoint) -> CheckpointReport:
    """Report on an open checkpoint; see `inspect_checkpoint`."""
    check_readable(checkpoint)
    bare = {bare_name(name): tensor for name, tensor in checkpoint.tensors.items()}
    speaking = {name: tensor for name, tensor in bare.items() if BY_KEY[component_of(name)].speaks}
    config = checkpoint.document.get("config")
    kind = _kind(checkpoint)
    obstacles = resume_obstacles(checkpoint)
    return CheckpointReport(
        path=checkpoint.path,
        nbytes=checkpoint.nbytes,
        format=checkpoint.format,
        kind=kind,
        shares=_shares(checkpoint),
        slim={name: _packed_bytes(speaking, BY_NAME[name].itemsize) for name in CASTS} if speaking else {},
        state=_state(checkpoint.document),
        dtypes=_dtypes(checkpoint.stored),
        prefix=_prefix(checkpoint.tensors),
        resumable=not obstacles,
        fresh_moments=holds_weights_only(checkpoint),
        obstacles=obstacles,
        architecture=architecture_of(speaking, config) if "gpt.text_embedding.weight" in speaking else None,
        provenance=_provenance(checkpoint),
        tensors=dict(checkpoint.stored),
        computed_losses=_are_computed(checkpoint.document),
    )


def holds_weights_only(checkpoint: Checkpoint) -> bool:
    """Whether a file has our resume position in place of optimizer state: a resume works, with fresh moments."""
    return RESUME_KEY in checkpoint.document and not checkpoint.document.get("optimizer")


def resume_obstacles(checkpoint: Checkpoint) -> tuple[str, ...]:
    """List why ``Trainer.restore_model`` would fail on a file or, worse, silently load nothing.

    Returns:
        Reasons; empty when training can be resumed.
    """
    found = []
    if not has_trainer_prefix(checkpoint):
        found.append("its names lack the prefix xtts., so the Trainer would restore none of its tensors")
    if not checkpoint.document.get("optimizer") and not holds_weights_only(checkpoint):
        found.append("it holds no optimizer state")
    missing = [key for key in ("step", "epoch") if not isinstance(checkpoint.document.get(key), int)]
    if missing:
        found.append(f"it has no {' and no '.join(missing)}")
    return tuple(found)


def _kind(checkpoint: Checkpoint) -> str:
    document = checkpoint.document
    provenance = _provenance(checkpoint)
    if provenance is not None:
        kind = provenance["kind"]
        return kind if kind in KINDS else "inference"
    if all(name.startswith(_DVAE_PARTS) for name in checkpoint.tensors):
        return "dvae"
    if not any(BY_KEY[component_of(bare_name(name))].speaks for name in checkpoint.tensors):
        return "other"
    if document.get("optimizer") or has_trainer_prefix(checkpoint):
        return "training"
    if any(name.startswith("TTS.") for name in checkpoint.names):  # its config is a pickled XttsConfig
        return "official"
    return "inference" if model_args(document.get("config")) else "bare"


def _provenance(checkpoint: Checkpoint) -> dict[str, Any] | None:
    inside = checkpoint.document.get("export")
    return inside if isinstance(inside, dict) and isinstance(inside.get("kind"), str) else None


def _state(document: dict[str, Any]) -> dict[str, Any]:
    losses = document.get("model_loss")
    losses = losses if isinstance(losses, dict) else {"eval_loss": losses}
    state = {key: document.get(key) for key in ("step", "epoch", "date")}
    state |= {key: losses.get(key) for key in ("train_loss", "eval_loss")}
    return {key: value if isinstance(value, (int, float, str)) else None for key, value in state.items()}


def _are_computed(document: dict[str, Any]) -> bool:
    losses = document.get("model_loss")
    return isinstance(losses, dict) and losses.get("computed") is True


def _shares(checkpoint: Checkpoint) -> tuple[Share, ...]:
    """Count every storage once, for the first tensor that uses it; the rest of the file is the container."""
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    seen: set[int] = set()

    def count(key: str, storage: Storage) -> None:
        counts[key] = counts.get(key, 0) + 1
        sizes.setdefault(key, 0)
        if id(storage) not in seen:
            seen.add(id(storage))
            sizes[key] += storage.nbytes

    for name, tensor in checkpoint.stored.items():
        count(component_of(bare_name(name)), tensor.storage)
    for key, tensor in _state_tensors(checkpoint.document, "training_state"):
        count(key, tensor.storage)
    counts["container"] = 0
    sizes["container"] = checkpoint.nbytes - sum(sizes.values())
    order = [component.key for component in COMPONENTS]
    return tuple(Share(key, counts[key], sizes[key]) for key in order if key in counts)


def _state_tensors(value: Any, key: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors outside the model, each with the component it belongs to."""
    if isinstance(value, Tensor):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _state_tensors(item, name if name in _MOMENTS else key)
    elif isinstance(value, list):
        for item in value:
            yield from _state_tensors(item, key)


def _packed_bytes(tensors: dict[str, Tensor], itemsize: int) -> int:
    """Return the bytes of the weights in a file of their own; tied tensors and equal ones count once."""
    unique = {_content_key(tensor): tensor for tensor in tensors.values()}
    return sum(
        tensor.numel * (itemsize if tensor.dtype.is_float else tensor.dtype.itemsize) for tensor in unique.values()
    )


def _content_key(tensor: Tensor) -> tuple[Any, ...]:
    """Return what tensors have in common that an export stores once (`tensors.shared_storage`); reads nothing."""
    storage = tensor.storage
    if storage.crc32 is None or tensor.nbytes != storage.nbytes or not tensor.is_contiguous:
        return tensor.view_key
    return tensor.dtype.name, tensor.shape, storage.crc32


def _dtypes(tensors: dict[str, Tensor]) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in tensors.values():
        found[tensor.dtype.name] = found.get(tensor.dtype.name, 0) + tensor.nbytes
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _prefix(tensors: dict[str, Tensor]) -> str:
    for name in tensors:
        if dropped_component(bare_name(name)) is None:
            return prefix_of(name)
    return ""
