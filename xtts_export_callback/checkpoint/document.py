"""Split what a checkpoint holds into its state_dict and the rest, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.numbers import number_of, numpy_number
from xtts_export_callback.checkpoint.placeholders import Global, Opaque, describe
from xtts_export_callback.checkpoint.quantized import CONFIG, QUANTIZED_MODEL
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.tensors.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MAX_DEPTH = 64
_MAX_NODES = 200_000  # a full-size training checkpoint has 10 thousand
_MOST_TEXT = 128 << 20  # characters, with every repetition counted
_MOST_NODES = 5_000_000  # half a gigabyte of values
_MAX_NAME = 1000
_MAX_REPETITION, _SMALL = 16, 1 << 30
_PAIR = 2
_SHOWN_PARTS = 16


def split(path: Path, nbytes: int, root: Any) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """Separate the state_dict from the rest of a file.

    Args:
        path: The file, for messages.
        nbytes: Its size.
        root: Its contents.

    Returns:
        The state_dict, the rest of the file as plain values, and the other entries of the state_dict, each described in
        a few words: the extra state of a module, a tensor of another kind.

    Raises:
        CheckpointError: When there is no state_dict, it holds no plain tensor, or the file exceeds a limit of this
            module.
    """
    if isinstance(root, Tensor):
        msg = f"{path}: expected a dict with a state_dict, found one tensor, as mel_stats.pth holds; name a checkpoint"
        raise CheckpointError(msg)
    if not isinstance(root, dict):
        msg = f"{path}: expected a dict with a state_dict, found {describe(root)}; only plain tensors are read"
        raise CheckpointError(msg)
    key = "model" if "model" in root or QUANTIZED_MODEL not in root else QUANTIZED_MODEL
    is_bare = key not in root
    model = root if is_bare else root[key]
    if not isinstance(model, dict):
        msg = f"{path}: {key!r} should be a state_dict, found {describe(model)}; only plain tensors in a dict are read"
        raise CheckpointError(msg)
    if is_bare and "optimizer" in root:
        msg = f"{path}: holds optimizer state and no 'model'; name the checkpoint that has the weights"
        raise CheckpointError(msg)
    if is_bare and any(isinstance(item, dict) and "gpt_cond_latent" in item for item in root.values()):
        msg = f"{path}: holds voices of speakers, as speakers_xtts.pth does, and no model; name a checkpoint"
        raise CheckpointError(msg)
    tensors: dict[str, Tensor] = {}
    others: dict[str, str] = {}
    for name, tensor in model.items():
        if not isinstance(name, str):
            msg = f"{path}: {describe(name)} is not the name of a tensor; use another checkpoint"
            raise CheckpointError(msg)
        if isinstance(tensor, Tensor):
            tensors[name] = tensor
        else:
            others[name] = describe(tensor)
    check_names(path, others)
    if others and not tensors:
        msg = f"{path}: {no_plain_tensor(*next(iter(others.items())))}"
        raise CheckpointError(msg)
    check_tensors(path, nbytes, tensors)
    rest = {} if is_bare else {name: value for name, value in root.items() if name != key}
    if key == QUANTIZED_MODEL:
        rest.setdefault(CONFIG, {})
    return tensors, with_numbers(to_plain(path, nbytes, rest)), others


def no_plain_tensor(name: str, found: str) -> str:
    """Say that a weight is something else than a plain tensor, and what to do."""
    return f"{name}: expected a plain tensor, found {found}; save it again as a plain tensor"


def check_tensors(path: Path, nbytes: int, tensors: dict[str, Tensor]) -> None:
    """Refuse a state_dict that is empty, has names that no module has, or is many times larger than the file.

    Args:
        path: The file, for messages.
        nbytes: Its size.
        tensors: The state_dict.

    Raises:
        CheckpointError: In each of these cases.
    """
    if not tensors:
        msg = f"{path}: the state_dict is empty; use a file that holds a model"
        raise CheckpointError(msg)
    check_names(path, tensors)
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > _MAX_REPETITION * nbytes + _SMALL:
        msg = f"{path}: {nbytes} bytes that expand to {total}; the file is hostile, use another checkpoint"
        raise CheckpointError(msg)


def check_names(path: Path, names: Iterable[str]) -> None:
    """Refuse names that no module has.

    Raises:
        CheckpointError: For the first such name.
    """
    for name in names:
        if len(name) > _MAX_NAME or not name.isprintable():
            msg = f"{path}: {describe(name)} is not the name of a tensor; use another checkpoint"
            raise CheckpointError(msg)


def to_plain(path: Path, nbytes: int, value: dict[str, Any]) -> dict[str, Any]:
    """Convert what a file holds beside the state_dict to plain values.

    Args:
        path: The file, for messages.
        nbytes: Its size, which limits the number of values in it.
        value: A dict of values that the unpickler built.

    Returns:
        Dicts, lists, strings, numbers, booleans, None and `Tensor`. An object becomes the dict of its fields, any other
        value a few words about it.

    Raises:
        CheckpointError: When it is nested or repeated far more than in any real file.
    """
    plain: dict[str, Any] = _Plain(path, max(_MAX_NODES, min(nbytes // 2, _MOST_NODES))).convert(value, 0)
    return plain


def with_numbers(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with step, epoch and losses as numbers, even where the file holds tensors of one element."""
    losses = document.get("model_loss")
    found: dict[str, Any] = {
        key: number_of(document[key]) for key in ("step", "epoch", "model_loss") if key in document
    }
    if isinstance(losses, dict):
        found["model_loss"] = {key: number_of(value) for key, value in losses.items()}
    return {**document, **found}


class _Plain:
    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._most = most
        self._nodes = 0
        self._text = 0

    def convert(self, value: Any, depth: int) -> Any:
        self._nodes += 1
        if isinstance(value, str):
            self._text += len(value)
        elif isinstance(value, dict):
            self._text += sum(len(key) for key in value if isinstance(key, str))
        if depth > _MAX_DEPTH or self._nodes > self._most or self._text > _MOST_TEXT:
            msg = f"{self._path}: its contents are nested or repeated too often; the file is hostile"
            raise CheckpointError(msg)
        if value is None or isinstance(value, (str, int, float, Tensor)):
            return value
        if isinstance(value, dict):
            return {_key(key): self.convert(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.convert(item, depth + 1) for item in value]
        if isinstance(value, Opaque):
            return self._object(value, depth)
        return describe(value)

    def _object(self, value: Opaque, depth: int) -> Any:
        """Convert an object, such as the XttsConfig in the official release, to the dict of its fields."""
        number = numpy_number(value)
        if number is not None:
            return number
        if isinstance(value.state, dict):
            return self.convert(value.state, depth + 1)
        if value.items and all(isinstance(item, tuple) and len(item) == _PAIR for item in value.items):
            return {_key(key): self.convert(item, depth + 1) for key, item in value.items}
        name = str(value.callee) if isinstance(value.callee, Global) else describe(value.callee)
        return [name, *(self.convert(part, depth + 1) for part in value.items or value.args)]


def _key(key: Any) -> Any:
    if key is None or isinstance(key, (str, int, float)):
        return key
    is_short = isinstance(key, tuple) and len(key) <= _SHOWN_PARTS
    return f"({', '.join(map(describe, key))})" if is_short else describe(key)
