"""Check that ``Xtts.load_checkpoint(strict=True)`` loads tensors with a config, before a model counts as verified.

Only names and shapes matter. ``torch.nn.Module.load_state_dict`` copies elements of any type and fills a parameter
without dimensions from a vector. A batch norm may lack its counter
(``torch.nn.modules.batchnorm._NormBase._load_from_state_dict``, for a state_dict without version metadata, as we write
it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.xtts import expected_shapes
from xtts_export_callback.xtts.architecture import architecture_of
from xtts_export_callback.xtts.model_config import model_args
from xtts_export_callback.xtts.state_dict import TEXT_EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xtts_export_callback.tensors.tensor import Tensor

_COUNTER = ".num_batches_tracked"
_CONV = "hifigan_decoder.waveform_decoder.conv_pre.weight"
_VOICE = "hifigan_decoder.waveform_decoder.cond_layer.weight"
_EACH = "hifigan_decoder.waveform_decoder.conds.0.weight"
_HEADS = ("gpt.text_head.weight", "gpt.text_head.bias")


class Differences(NamedTuple):
    """How tensors differ from those that a config asks for.

    Attributes:
        missing: Names that the model needs and the tensors lack.
        extra: Names that are not part of the model.
        reshaped: Names with another shape, and the shape that the config asks for.
    """

    missing: list[str]
    extra: list[str]
    reshaped: dict[str, tuple[int, ...]]


def differences(tensors: Mapping[str, Tensor], args: dict[str, Any], text_tokens: int) -> Differences:
    """Compare tensors with what a config asks for.

    Args:
        tensors: The inference model by bare names.
        args: ``config["model_args"]``.
        text_tokens: Tokens of the vocabulary.

    Raises:
        ValueError: When no model can be built from ``args``.
    """
    expected = expected_shapes.expected_tensors(args, text_tokens)
    return Differences(
        [name for name in expected if name not in tensors and not name.endswith(_COUNTER)],
        [name for name in tensors if name not in expected],
        {
            name: expected[name]
            for name, tensor in tensors.items()
            if name in expected and not _fits(tensor.shape, expected[name])
        },
    )


def check_loadable(tensors: Mapping[str, Tensor], config: dict[str, Any], origin: str) -> None:
    """Refuse a model that Coqui would not load.

    Args:
        tensors: The inference model by bare names.
        config: The ``config.json`` that goes beside it.
        origin: Name of the model in errors: the file that it comes from.

    Raises:
        CheckpointError: Names a tensor, what was expected and found, and what to do.
    """
    args = model_args(config)
    try:
        found = differences(tensors, args, tensors[TEXT_EMBEDDING].shape[0])
    except ValueError as error:
        msg = f"{origin}: XTTS cannot be built from its config: {error}; {_NAME_CONFIG}"
        raise CheckpointError(msg) from error
    problems = [
        *(f"{name} is {list(tensors[name].shape)}, the config asks for {list(shape)}"
          for name, shape in found.reshaped.items()),
        *(f"{name} is missing" for name in found.missing),
        *(f"{name} is not part of the model that the config describes" for name in found.extra),
    ]  # fmt: skip
    if not problems:
        return
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    msg = f"{origin}: XTTS cannot load it: {problems[0]}{more}; {_remedy(tensors, args, found)}"
    raise CheckpointError(msg)


_NAME_CONFIG = "name the config.json of its own run (--config, or config in a recipe)"


def guessed_args(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Derive ``model_args`` from the shapes of a model."""
    sizes = [_second(tensors.get(name)) for name in (_CONV, _VOICE)]
    return expected_shapes.args_from_shapes(
        architecture_of(tensors), sizes[0] or 1024, sizes[1] or 512, each=_EACH in tensors
    )


def _remedy(tensors: Mapping[str, Tensor], args: dict[str, Any], found: Differences) -> str:
    """Say what to do; the config belongs to another model if one derived from the shapes explains every problem."""
    if found.reshaped and set(found.reshaped) <= set(_HEADS):
        return "extend the text head together with the text embedding"
    guessed = guessed_args(tensors)
    stated = {**expected_shapes.DEFAULTS, **args}
    fields = [
        f"model_args.{key} is {stated.get(key)}, its tensors have {value}"
        for key, value in guessed.items()
        if value is not None and value != stated.get(key)
    ]
    try:
        better = differences(tensors, {**args, **guessed, "gpt_n_heads": 1}, tensors[TEXT_EMBEDDING].shape[0])
        explains = not any(better)
    except ValueError:
        explains = False
    if fields and explains:
        return f"the config belongs to another XTTS: {', '.join(fields)}; {_NAME_CONFIG}"
    return "the file is incomplete or changed, use another checkpoint"


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return shape == expected or (not expected and len(shape) == 1 and shape[0] > 0)


def _second(tensor: Tensor | None) -> int:
    return tensor.shape[1] if tensor is not None and len(tensor.shape) > 1 else 0
