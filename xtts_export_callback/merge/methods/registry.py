"""Every method of merging by its name, with its paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.merge.methods.model_stock import ModelStock
from xtts_export_callback.merge.methods.slerp import Slerp
from xtts_export_callback.merge.methods.ties import Ties
from xtts_export_callback.merge.methods.weighted_sums import Interpolate, Linear, TaskArithmetic

if TYPE_CHECKING:
    from xtts_export_callback.merge.methods.settings import Method

PAPERS: dict[type[Method], str] = {
    Linear: "Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018 (along one run); "
    "Wortsman et al., Model soups, 2022 (several fine-tunes)",
    Slerp: "Shoemake, Animating Rotation with Quaternion Curves, SIGGRAPH 1985",
    TaskArithmetic: "Ilharco et al., Editing Models with Task Arithmetic, 2022",
    Ties: "Yadav et al., TIES-Merging: Resolving Interference When Merging Models, 2023",
    Interpolate: "Wortsman et al., Robust fine-tuning of zero-shot models (WiSE-FT), 2021",
    ModelStock: "Jang et al., Model Stock: All we need is just a few fine-tuned models, 2024",
}

METHODS: dict[str, type[Method]] = {method.method: method for method in PAPERS}
WITH_BASE = tuple(name for name, method in METHODS.items() if method.needs_base)


def methods_using(option: str) -> tuple[str, ...]:
    """Names of the methods that use ``normalize``, ``scale`` or ``density``."""
    return tuple(name for name, method in METHODS.items() if option in method.options)
