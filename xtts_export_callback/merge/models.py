"""Opens the models of a merge and checks that they fit together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xtts_export_callback.checkpoint import Checkpoint, Tensor, open_checkpoint
from xtts_export_callback.errors import ConfigError, IncompatibleError
from xtts_export_callback.xtts.assets import Assets, find_assets
from xtts_export_callback.xtts.state_dict import TEXT_EMBEDDING, InferenceModel, inference_model
from xtts_export_callback.xtts.vocab import read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from xtts_export_callback.merge.recipe import ModelSource

VOCAB_TENSORS = (TEXT_EMBEDDING, "gpt.text_head.weight", "gpt.text_head.bias")
"""Tensors with one row per text token (``TTS.tts.layers.xtts.gpt.GPT``)."""

_RELEASES = {6153: "v2.0.2", 6681: "v2.0.3"}
_USED_KEYS = ("config", "step", "epoch", "model_loss")
_SHOWN_GROUPS = 16
_HALF = 4  # an element of at least this many bytes has full precision


@dataclass(frozen=True)
class OpenModel:
    """An input, opened.

    Attributes:
        source: Its entry in the recipe.
        checkpoint: The open file.
        inference: Its inference model.
    """

    source: ModelSource
    checkpoint: Checkpoint
    inference: InferenceModel

    @property
    def path(self) -> Path:
        """The file."""
        return self.checkpoint.path

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The inference model, not read."""
        return self.inference.tensors

    @property
    def half_precision(self) -> str:
        """The narrowest type below float32 among its tensors, empty where there is none."""
        if self.checkpoint.is_quantized:
            return "int8"
        found = {tensor.dtype for tensor in self.tensors.values() if tensor.dtype.is_float}
        return min((dtype.name for dtype in found if dtype.itemsize < _HALF), default="")

    def assets(self) -> Assets:
        """Its config, vocabulary and voices; errors as `find_assets`."""
        return find_assets(self.checkpoint, self.tensors, vocab=self.source.vocab, config=self.source.config)


def open_models(sources: Iterable[ModelSource], stack: ExitStack) -> list[OpenModel]:
    """Open every input, without reading a tensor.

    Raises:
        CheckpointError: When one is damaged or not an XTTS model.
    """
    opened = []
    for source in sources:
        # With many checkpoints, what describes the optimizers would take more memory than the merge itself.
        checkpoint = stack.enter_context(open_checkpoint(source.path, keep=_USED_KEYS))
        opened.append(OpenModel(source, checkpoint, inference_model(checkpoint)))
    return opened


def check_compatible(models: Sequence[OpenModel], *, same_rows: bool = True) -> None:
    """Refuse models that differ in keys, shapes or kind of elements, naming all differences of all models at once.

    Args:
        models: Two or more.
        same_rows: Whether the vocabularies must have the same size.

    Raises:
        IncompatibleError: With every difference to the first model and the likely cause.
    """
    first, *others = models
    reports = [report for other in others if (report := _differences(first, other, same_rows=same_rows))]
    if reports:
        msg = f"{first.path} cannot be merged with {'; nor with '.join(reports)}"
        raise IncompatibleError(msg)


def check_same_vocab(models: Sequence[OpenModel], last: OpenModel, assets: Assets) -> None:
    """Refuse models trained with different vocabularies of the same size.

    A vocabulary that cannot be found is assumed to be the same.

    Args:
        models: The inputs.
        last: The one whose vocabulary goes beside the result.
        assets: Its assets.

    Raises:
        IncompatibleError: Naming every model whose vocabulary differs.
    """
    expected = read_vocabulary(assets.vocab, "vocab.json").tokens
    different = []
    for model in models:
        try:
            found = model.assets()
        except ConfigError:
            if model.source.vocab is not None or model.source.config is not None:
                raise  # a file that the user names must be right
            continue
        if found.vocab == assets.vocab:
            continue
        tokens = read_vocabulary(found.vocab, str(model.path)).tokens
        moved = [token for token in tokens if tokens[token] != expected.get(token)]
        if moved:
            different.append(f"{model.path}: {len(moved)} tokens of its vocab.json have a different row or no row")
    if different:
        msg = (
            f"{'; '.join(different)} in that of {last.path}; rows of the text embedding would mix different "
            "tokens; merge with --vocab union or --vocab intersect"
        )
        raise IncompatibleError(msg)


def group_names(names: Iterable[str], most: int = _SHOWN_GROUPS) -> list[str]:
    """Shorten a list of names to ``most`` entries: one per module, with its number of names, where there are more."""
    names = list(names)
    if len(names) <= most:
        return names
    for depth in (5, 4, 3, 2, 1):
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(".".join(name.split(".")[:depth]), []).append(name)
        if len(groups) <= most:
            break
    entries = [found[0] if len(found) == 1 else f"{prefix}.** ({len(found)})" for prefix, found in groups.items()]
    return entries if len(entries) <= most else [*entries[:most], f"{len(entries) - most} more"]


def _differences(first: OpenModel, other: OpenModel, *, same_rows: bool) -> str:
    here, there = first.tensors, other.tensors
    missing = [name for name in here if name not in there]
    extra = [name for name in there if name not in here]
    both = [name for name in here if name in there]
    reshaped = [
        name
        for name in both
        if here[name].shape[_first_compared(name, same_rows=same_rows) :]
        != there[name].shape[_first_compared(name, same_rows=same_rows) :]
    ]
    kinds = [name for name in both if here[name].dtype.is_float != there[name].dtype.is_float]
    parts = []
    if missing:
        parts.append(f"it lacks {', '.join(group_names(missing))}")
    if extra:
        parts.append(f"only it has {', '.join(group_names(extra))}")
    if len(reshaped) > _SHOWN_GROUPS:
        parts.append(f"other shapes of {', '.join(group_names(reshaped))}")
    elif reshaped:
        shapes = [f"{name} is {list(there[name].shape)}, not {list(here[name].shape)}" for name in reshaped]
        parts.append(", ".join(shapes))
    if kinds:
        names = [f"{name} ({there[name].dtype.name}, not {here[name].dtype.name})" for name in kinds[:_SHOWN_GROUPS]]
        parts.append(f"other kinds of {', '.join(names)}")
    return f"{other.path}: {'; '.join(parts)}{_likely_cause(first, other, missing + extra, reshaped)}" if parts else ""


def _first_compared(name: str, *, same_rows: bool) -> int:
    return 0 if same_rows or name not in VOCAB_TENSORS else 1


def _likely_cause(first: OpenModel, other: OpenModel, unshared: list[str], reshaped: list[str]) -> str:
    causes = []
    rows = [model.tensors[TEXT_EMBEDDING].shape[0] for model in (other, first)]
    if set(reshaped) & set(VOCAB_TENSORS):
        names = [_RELEASES.get(row, "an extended or custom vocabulary") for row in rows]
        tokens = f"vocabularies of {rows[0]} tokens, {names[0]}, and {rows[1]} tokens, {names[1]}"
        causes.append(f"{tokens}; merge them with --vocab union or --vocab intersect")
    if any(name.startswith("gpt.gpt.h.") for name in unshared):
        causes.append("another number of GPT layers")
    if any(name.startswith("gpt.conditioning_perceiver.") for name in unshared):
        causes.append("one with a perceiver (XTTS v2) and one without")
    if set(reshaped) - set(VOCAB_TENSORS):
        causes.append("another model size")
    return f" ({'; '.join(causes)})" if causes else ""
