"""Weights of a mean that emulate a falling learning rate: WSM, arXiv 2507.17634.

Tian et al., "WSM: Decay-Free Learning Rate Schedule via Checkpoint Merging for LLM Pre-training", 2025: in a mean of
checkpoints 0 to k with the weights c, the updates that led to checkpoint i count by w[i] = c[i] + ... + c[k]. So that
these fall like a learning rate, c[0] = 1 - w[1], c[i] = w[i] - w[i + 1] and c[k] = w[k].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.merge.methods.weighted_sums import Linear

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda time: 1.0 - time,
    "cosine": lambda time: (1.0 + math.cos(math.pi * time)) / 2.0,
    "1-sqrt": lambda time: 1.0 - math.sqrt(time),
}
"""Learning rates that fall from 1, at time 0, to 0, at time 1."""


def decay_weights(decay: str, count: int) -> tuple[float, ...]:
    """Return the weights of checkpoints at equal distances, oldest first.

    The learning rate falls over the checkpoints and reaches 0 one distance after the last, so that each has a weight:
    w[i] is the rate at i / count. ``"linear"`` gives equal weights, the plain mean.

    Args:
        decay: A name in `DECAYS`.
        count: How many checkpoints.

    Returns:
        The weights; their sum is 1.

    Raises:
        ConfigError: For an unknown name.
    """
    if decay not in DECAYS:
        msg = f"decay {decay!r:.40}: expected one of {', '.join(DECAYS)}"
        raise ConfigError(msg)
    rates = [DECAYS[decay](index / count) for index in range(count)] + [0.0]
    return tuple(rate - following for rate, following in pairwise(rates))


@dataclass(frozen=True)
class Decayed(Linear):
    """A mean with the weights of `decay_weights`.

    Attributes:
        decay: The name of the decay.
    """

    decay: str = "linear"

    def describe(self, names: Sequence[str]) -> str:
        """See `Method.describe`."""
        return f"{super().describe(names)}, as if the learning rate had fallen to 0 ({self.decay})"

    def to_dict(self) -> dict[str, Any]:
        """See `Method.to_dict`."""
        return {**super().to_dict(), "decay": self.decay}
