"""Which type each tensor of a model is stored in: one type for all, and rules for parts.

``int8`` means the large matrices (see `xtts.matrices`) in int8 with a scale for each output, and the rest in float16:
norms, biases, embeddings and heads are few and small, and the vocoder's weight norms amplify the error of their inputs.
A rule may put any matrix into int8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.quantized import scale_name
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.tensors.cast import cast
from xtts_export_callback.tensors.dtypes import CASTS
from xtts_export_callback.tensors.quantize import Dequantized, quantize
from xtts_export_callback.tensors.sparse import Sparse, relative_loss, sparsify
from xtts_export_callback.units import human_size
from xtts_export_callback.xtts.matrices import is_large_matrix, is_layer_matrix, output_dimension
from xtts_export_callback.xtts.patterns import matches, suggestion
from xtts_export_callback.xtts.state_dict import TEXT_EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from xtts_export_callback.tensors.tensor import Tensor

INT8 = "int8"
TYPES = (*CASTS, INT8)
"""The types that an inference model can be stored in."""

_BESIDE_INT8 = "float16"


def types_of(
    tensors: Mapping[str, Tensor], dtype: str | None, precision: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Choose a type for each floating-point tensor; nothing is read.

    Args:
        tensors: The inference model by bare names.
        dtype: One of `TYPES`, for all that no rule matches; None for the type that each tensor is stored in.
        precision: Types by pattern or alias, as in merging (`xtts.patterns`); the first that matches a tensor counts.
            Under ``int8``, vectors become float16.

    Returns:
        One of `TYPES`, or with None any type, by name. Integers are not in it.

    Raises:
        ConfigError: For an unknown type, a pattern that matches nothing or one that is never reached.

    Example:
        >>> types_of(model, "int8", {"decoder": "float32"})["gpt.gpt.h.0.attn.c_attn.weight"]  # doctest: +SKIP
        'int8'
    """
    rules = precision or {}
    asked = {"dtype": dtype, **{f"precision {pattern}": value for pattern, value in rules.items()}}
    for what, value in asked.items():
        if value not in TYPES and not (value is None and what == "dtype"):
            msg = f"{what}: {value!r:.80}: expected one of {', '.join(TYPES)}"
            raise ConfigError(msg)
    reached = dict.fromkeys(rules, False)
    result = {}
    for name, tensor in tensors.items():
        rule = next((pattern for pattern in rules if matches(pattern, name)), None)
        if rule is not None:
            reached[rule] = True
        if tensor.dtype.is_float:
            chosen = rules[rule] if rule is not None else dtype or _own_type(tensor)
            result[name] = _type_of(name, tensor, chosen, by_rule=rule is not None or dtype is None)
    for pattern, was_reached in reached.items():
        if not was_reached:
            never = any(matches(pattern, name) for name in tensors)
            why = "earlier patterns match all that it matches" if never else "matches no tensor"
            msg = f"precision {pattern!r:.80}: {why}{'' if never else suggestion(pattern[:200], tensors)}"
            raise ConfigError(msg)
    return result


def _own_type(tensor: Tensor) -> str:
    return INT8 if isinstance(tensor.storage, Dequantized) else tensor.dtype.name


def _type_of(name: str, tensor: Tensor, dtype: str, *, by_rule: bool) -> str:
    if dtype != INT8:
        return dtype
    is_matrix = sum(size > 1 for size in tensor.shape) > 1
    quantized = is_matrix if by_rule else is_large_matrix(name, tensor.shape)
    return INT8 if quantized else _BESIDE_INT8


def store(tensors: Mapping[str, Tensor], types: Mapping[str, str]) -> dict[str, Tensor]:
    """Return a model as it is stored: cast, and quantized weights with their scales beside them; nothing is read.

    Args:
        tensors: The inference model.
        types: From `types_of`.
    """
    by_type = {dtype: {name: tensors[name] for name, its in types.items() if its == dtype} for dtype in CASTS}
    cast_ones = {name: tensor for dtype, some in by_type.items() for name, tensor in cast(some, dtype).items()}
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if types.get(name) == INT8:
            stored[name], stored[scale_name(name)] = quantize(name, tensor, output_dimension(name))
        else:
            stored[name] = cast_ones.get(name, tensor)
    return stored


def storage_options(
    types: Mapping[str, str], dtype: str | None, precision: Mapping[str, str] | None, sparsity: float = 0.0
) -> dict[str, Any]:
    """Return how a model is stored, as its provenance states it.

    Returns:
        ``dtype``: what was asked for, else that of the text embedding, or int8 where a tensor has that;
        ``precision`` and ``sparsity`` where they were asked for.
    """
    stated = dtype or (INT8 if INT8 in types.values() else types[TEXT_EMBEDDING])
    extra: dict[str, Any] = {"precision": dict(precision)} if precision else {}
    return {"dtype": stated, **extra, **({"sparsity": sparsity} if sparsity else {})}


def sparsified(tensors: Mapping[str, Tensor], sparsity: float) -> tuple[dict[str, Tensor], list[Sparse]]:
    """Make the smallest weights of each large matrix of the GPT's layers zero; nothing is read.

    Args:
        tensors: The inference model.
        sparsity: The share of each matrix, 0 to below 1.

    Returns:
        The model, and the matrices that it changes.

    Raises:
        ConfigError: For another share.
    """
    if not 0 <= sparsity < 1:
        msg = f"sparsity {sparsity}: expected a share from 0 to below 1, such as 0.3"
        raise ConfigError(msg)
    if not sparsity:
        return dict(tensors), []
    result = {name: sparsify(tensor, sparsity) if is_layer_matrix(name) else tensor for name, tensor in tensors.items()}
    return result, [tensor.storage for tensor in result.values() if isinstance(tensor.storage, Sparse)]


def sparsity_note(weights: Sequence[Path], sparse: Sequence[Sparse]) -> str:
    """Say what zeros cost and what they buy; reads the files of weights once."""
    from xtts_export_callback.files.compressed import gzip_bytes

    loss, size = relative_loss(sparse), human_size(sum(map(gzip_bytes, weights)))
    return (
        f"zeros changed the GPT's matrices by {loss:.2%}; the file is as large as before and speaks no faster, "
        f"compressed it takes {size} (gzip)"
    )


def parse_precision(rules: Iterable[str]) -> dict[str, str]:
    """Read rules as they stand on a command line.

    Args:
        rules: Each ``PATTERN=TYPE``.

    Raises:
        ConfigError: When one is not.
    """
    found: dict[str, str] = {}
    for rule in rules:
        pattern, equals, dtype = rule.rpartition("=")
        if not equals or not pattern or pattern in found or dtype not in TYPES:
            msg = f"precision {rule!r:.80}: expected PATTERN=TYPE, each pattern once, with a type of {', '.join(TYPES)}"
            raise ConfigError(msg)
        found[pattern] = dtype
    return found


def computed_type(stored: str) -> str:
    """Return the type in which a merge computes a tensor that is stored in a type, so that it is rounded once."""
    return "float32" if stored == INT8 else stored
