"""Which type each tensor of a model is stored in: one type for all, and rules for parts.

``int8`` means the large matrices (see `xtts.matrices`) in int8 with a scale for each output, and the rest in float16:
norms, biases, embeddings and heads are few and small, and the vocoder's weight norms amplify the error of their inputs.
A rule may put any matrix into int8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.checkpoint.quantized import scale_name
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.tensors.cast import cast
from xtts_export_callback.tensors.dtypes import CASTS
from xtts_export_callback.tensors.quantize import quantize
from xtts_export_callback.xtts.matrices import is_large_matrix, output_dimension
from xtts_export_callback.xtts.patterns import matches, suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xtts_export_callback.tensors.tensor import Tensor

INT8 = "int8"
TYPES = (*CASTS, INT8)
"""The types that an inference model can be stored in."""

_BESIDE_INT8 = "float16"


def types_of(tensors: Mapping[str, Tensor], dtype: str, precision: Mapping[str, str] | None = None) -> dict[str, str]:
    """Choose a type for each floating-point tensor; nothing is read.

    Args:
        tensors: The inference model by bare names.
        dtype: One of `TYPES`, for all that no rule matches.
        precision: Types by pattern or alias, as in merging (`xtts.patterns`); the first that matches a tensor counts.
            Under ``int8``, vectors become float16.

    Returns:
        One of `TYPES` by name. Integers are not in it.

    Raises:
        ConfigError: For an unknown type, a pattern that matches nothing or one that is never reached.

    Example:
        >>> types_of(model, "int8", {"decoder": "float32"})["gpt.gpt.h.0.attn.c_attn.weight"]  # doctest: +SKIP
        'int8'
    """
    rules = precision or {}
    for what, value in {"dtype": dtype, **{f"precision {pattern}": value for pattern, value in rules.items()}}.items():
        if value not in TYPES:
            msg = f"{what}: {value!r:.80}: expected one of {', '.join(TYPES)}"
            raise ConfigError(msg)
    reached = dict.fromkeys(rules, False)
    result = {}
    for name, tensor in tensors.items():
        rule = next((pattern for pattern in rules if matches(pattern, name)), None)
        if rule is not None:
            reached[rule] = True
        if tensor.dtype.is_float:
            result[name] = _type_of(name, tensor, dtype if rule is None else rules[rule], by_rule=rule is not None)
    for pattern, was_reached in reached.items():
        if not was_reached:
            never = any(matches(pattern, name) for name in tensors)
            why = "earlier patterns match all that it matches" if never else "matches no tensor"
            msg = f"precision {pattern!r:.80}: {why}{'' if never else suggestion(pattern[:200], tensors)}"
            raise ConfigError(msg)
    return result


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


def computed_type(stored: str) -> str:
    """Return the type in which a merge computes a tensor that is stored in a type, so that it is rounded once."""
    return "float32" if stored == INT8 else stored
