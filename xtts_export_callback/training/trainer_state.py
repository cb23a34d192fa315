"""Measures the state that the Trainer saves, and reduces it to weights."""

from __future__ import annotations

import pickle
from contextlib import suppress
from typing import Any

from xtts_export_callback.run.lr_schedule import RESUME_KEY, each, position_of


def weights_only(state: dict[str, Any], trainer: Any) -> dict[str, Any]:
    """Remove optimizer, scheduler and scaler from a state; the Trainer restores the rest without error.

    Args:
        state: What `trainer.io.save_model` gathers.
        trainer: Gives the position in the schedule, a few numbers that are kept.

    Returns:
        The same keys, and `lr_schedule.RESUME_KEY`. An empty list of optimizer states restores nothing, quietly;
        trainer 0.4 would fail with None.
    """
    nothing: Any = {} if isinstance(trainer.optimizer, dict) else []
    position = position_of(trainer.optimizer, trainer.scheduler)
    return {**state, "optimizer": nothing, "scheduler": [], "scaler": None, RESUME_KEY: position}


def optimizers_of(trainer: Any) -> list[Any]:
    """Return the optimizers of a Trainer, which has one, several or named ones; accelerate wraps each."""
    return [getattr(one, "optimizer", one) for one in each(trainer.optimizer)]


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a state, each storage once: the size of the file, up to some kilobytes.

    A tensor may have several storages or be made of other tensors (sparse, nested, those of quantized optimizers), and
    torch alone knows how it saves each kind. So the state is pickled as `torch.save` does it, but to nowhere.

    Args:
        state: Anything. What cannot be saved is not counted.
    """
    counter = _counter()
    with suppress(Exception):  # the save itself raises the error
        counter.dump(state)
    return sum(counter.sizes.values())


def _counter() -> Any:
    import torch

    class Nowhere:
        write = staticmethod(len)

    class Counter(pickle.Pickler):
        def __init__(self) -> None:
            super().__init__(Nowhere(), protocol=2)
            self.sizes: dict[int, int] = {}

        def persistent_id(self, value: Any) -> str | None:
            """Keep storages out of the pickle, as `torch.save` does."""
            storage = value._untyped_storage if isinstance(value, torch.storage.TypedStorage) else value
            if not isinstance(storage, torch.UntypedStorage):
                return None
            self.sizes[storage.data_ptr()] = storage.nbytes()
            return "storage"

    return Counter()
