"""The disk space of a run, forecast before it starts."""

from __future__ import annotations

import pytest

from xtts_export_callback.training.config import ExportConfig
from xtts_export_callback.training.forecast import Run, export_bytes, exports, line_of, own_bytes

FULL, MOMENTS, SLIM = 5_576_650_782, 3_507_363_448, 1_857_209_972
RUN = Run(epochs=12, steps=1000, save_step=2000, keeps=1, keeps_all_best=True, full=FULL, moments=MOMENTS, slim=SLIM)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 6 + 12),
        ({"keep_last": 3}, 3 + 12),
        ({"keep_last": 3, "average_last": 5}, 5 + 12 + 1),
        ({"export_best": False}, 6),
        ({"keep_last": 100}, 6 + 12),
        ({"running_mean": "mean", "keep_last": 3}, 3 + 12 + 3),
    ],
)
def test_exports_are_counted_as_they_will_be_kept(options: dict[str, int], expected: int) -> None:
    assert exports(RUN, ExportConfig(**options)) == expected
    assert exports(RUN._replace(keeps_all_best=False), ExportConfig(**options)) == (
        expected if "export_best" in options else expected - 11
    )


def test_smaller_types_and_a_budget_take_less() -> None:
    assert export_bytes(RUN, ExportConfig(dtype="bfloat16"), 4) == 2 * SLIM
    assert export_bytes(RUN, ExportConfig(dtype="int8"), 100) == 28 * SLIM
    assert export_bytes(RUN, ExportConfig(max_disk_gb=2.0), 4) == 2_000_000_000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 3 * FULL),
        ({"link_best_model": True}, 2 * FULL),
        ({"checkpoint_state": "weights"}, 3 * FULL - MOMENTS),
        ({"best_model_state": "weights"}, 3 * FULL - 2 * MOMENTS),
        ({"running_mean": "mean"}, 3 * FULL + 2 * MOMENTS),
    ],
)
def test_the_trainer_s_files_are_those_of_the_options(options: dict[str, object], expected: int) -> None:
    assert own_bytes(RUN._replace(keeps_all_best=False), ExportConfig(**options)) == expected


def test_the_line_says_what_fewer_would_take() -> None:
    line = line_of(RUN._replace(keeps_all_best=False), ExportConfig(average_last=5))
    assert line.startswith("12 epochs of 1,000 steps: about 8 exports, 14.86 GB (keep_last 3 would take 13.00 GB)")
    assert line.endswith("beside 16.73 GB of the Trainer's own files")
    assert "keep_last" not in line_of(RUN, ExportConfig(keep_last=2))


def test_a_run_that_saves_no_checkpoints_has_none() -> None:
    assert exports(RUN._replace(save_step=0, keeps_all_best=False), ExportConfig(average_last=3)) == 1
