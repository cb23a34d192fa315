"""The position in a learning rate schedule: a few numbers in place of optimizer and scheduler state."""

from __future__ import annotations

from typing import Any

RESUME_KEY = "xtts_export"
"""Key in a weights-only checkpoint for ``learning_rates`` and ``schedule`` of each optimizer and scheduler."""

_POSITION = (
    *("last_epoch", "_step_count", "_last_lr"),
    *("T_cur", "T_i"),  # CosineAnnealingWarmRestarts
    *("best", "num_bad_epochs", "cooldown_counter"),  # ReduceLROnPlateau
)
"""The part of a scheduler's state that moves (``torch.optim.lr_scheduler.LRScheduler.step``)."""

_NESTED = "_schedulers"
"""Where ``SequentialLR`` and ``ChainedScheduler`` keep their inner schedulers."""


def position_of(optimizers: Any, schedulers: Any) -> dict[str, Any]:
    """Return the position of ``trainer.optimizer`` and ``trainer.scheduler``: one, a list or a dict of each."""
    return {
        "learning_rates": [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in each(optimizers)],
        "schedule": [_plain_position(vars(unwrapped(scheduler))) for scheduler in each(schedulers)],
    }


def position_in_document(document: dict[str, Any]) -> dict[str, Any]:
    """Return the same position from ``optimizer`` and ``scheduler`` of a full checkpoint."""
    optimizers = _states(document.get("optimizer"), "param_groups")
    rates = [[_number(group.get("lr")) for group in optimizer["param_groups"]] for optimizer in optimizers]
    schedulers = _states(document.get("scheduler"), "last_epoch")
    return {"learning_rates": rates, "schedule": [_plain_position(state) for state in schedulers]}


def restore_position(position: dict[str, Any], optimizers: Any, schedulers: Any) -> list[float]:
    """Bring fresh optimizers and schedulers to a position.

    Args:
        position: From `position_of` or `position_in_document`.
        optimizers: ``trainer.optimizer``.
        schedulers: ``trainer.scheduler``.

    Returns:
        The learning rates set, in the order of the parameter groups.
    """
    rates: list[float] = []
    for optimizer, groups in zip(each(optimizers), position.get("learning_rates", []), strict=False):
        for group, rate in zip(optimizer.param_groups, groups, strict=False):
            if rate is not None:
                group["lr"] = rate
                rates.append(rate)
    for scheduler, state in zip(each(schedulers), position.get("schedule", []), strict=False):
        _restore(unwrapped(scheduler), state)
    return rates


def _restore(scheduler: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        if name == _NESTED:
            for inner, inner_state in zip(getattr(scheduler, _NESTED, []), value, strict=False):
                _restore(inner, inner_state)
        else:
            setattr(scheduler, name, value)


def each(value: Any) -> list[Any]:
    """Return optimizers or schedulers as a list: the Trainer keeps one, a list or a dict, and one may be None."""
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return [item for item in items if item is not None]


def unwrapped(scheduler: Any) -> Any:
    """Return the scheduler itself where accelerate has wrapped it."""
    return getattr(scheduler, "scheduler", scheduler)


def _states(value: Any, key: str) -> list[dict[str, Any]]:
    """Return the state dicts, of which the checkpoint holds one, a list or a dict."""
    if isinstance(value, dict) and key in value:
        return [value]
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return [item for item in items if isinstance(item, dict) and key in item]


def _plain_position(state: dict[str, Any]) -> dict[str, Any]:
    position: dict[str, Any] = {}
    for name in _POSITION:
        value = state.get(name)
        if isinstance(value, (list, tuple)):
            position[name] = [_number(item) for item in value]
        elif value is not None and (number := _number(value)) is not None:
            position[name] = value if type(value) is int else number
    nested = state.get(_NESTED)
    if isinstance(nested, (list, tuple)):  # schedulers, or their states in a checkpoint
        states = [inner if isinstance(inner, dict) else getattr(inner, "__dict__", {}) for inner in nested]
        position[_NESTED] = [_plain_position(inner) for inner in states]
    return position


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):  # an unread tensor: the configured rate stays
        return None
