"""A training that exports nothing says so, and what it writes is found by a search for EXPORT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.trainings import REPOSITORY, lines_logged_by
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.training import presence
from xtts_export_callback.training.callback import ExportCallback, export_callbacks
from xtts_export_callback.training.config import ExportConfig


class Config:
    """A config without exports, as `GPTTrainerConfig` is one."""


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_seen", set())


@pytest.mark.parametrize("make", [ExportCallback, export_callbacks])
def test_a_config_without_exports_is_refused_with_the_one_to_use(make: Callable[[Any], Any]) -> None:
    with pytest.raises(ConfigError, match=r"Config has no field export.*use XttsExportTrainerConfig"):
        make(Config())


@pytest.mark.usefixtures("nobody")
def test_a_missing_callback_is_noticed_at_the_start_and_at_every_save() -> None:
    with lines_logged_by("trainer.xtts_export") as lines:
        presence.warn_if_missing("trainer.io", "copy_model_files")
        presence.warn_if_missing("trainer.io", "save_model")
        presence.warn_if_missing("my_script", "main")
    assert len(lines) == 2
    assert all("the callback is missing; pass callbacks=export_callbacks(config)" in line for line in lines)


@pytest.mark.usefixtures("nobody")
def test_a_callback_that_is_there_is_not_missed() -> None:
    ExportCallback(ExportConfig(enabled=True))
    with lines_logged_by("trainer.xtts_export") as lines:
        presence.warn_if_missing("trainer.io", "copy_model_files")
        presence.note("started")
        presence.warn_if_missing("trainer.io", "save_model")
    assert lines == []


@pytest.mark.integration
@pytest.mark.usefixtures("nobody")
def test_the_trainer_reads_the_config_where_it_is_expected_to(tiny_config: Callable[..., Any]) -> None:
    from trainer.io import copy_model_files

    config = tiny_config(export=ExportConfig(enabled=True))
    Path(config.output_path).mkdir(parents=True)
    with lines_logged_by("trainer.xtts_export") as lines:
        config.to_dict()
        copy_model_files(config, config.output_path, {})
    assert [line for line in lines if "the callback is missing" in line] == lines
    assert len(lines) == 1


def test_a_training_with_exports_off_says_so(light: Callable[..., Path], log: list[str]) -> None:
    run = light({"enabled": False}, epochs=1)
    assert [line for line in log if "off, nothing is exported" in line] == log
    assert len(log) == 1
    assert not (run / "inference").exists()


def test_every_line_of_a_training_is_found_by_a_search_for_export(light: Callable[..., Path], log: list[str]) -> None:
    light({"enabled": True, "keep_last": 1, "average_last": 2, "keep_optimizer_for": 1}, epochs=3)
    assert [line for line in log if not line.startswith((" > EXPORT : ", " ! EXPORT : "))] == []


def test_no_line_in_the_source_lacks_the_word() -> None:
    package = REPOSITORY / "xtts_export_callback"
    sources = [*(package / "training").glob("*.py"), *(package / "run").glob("*.py"), package / "train_gpt_xtts.py"]
    lines = [line.strip() for path in sources for line in path.read_text("utf-8").splitlines()]
    said = [line for line in lines if '" > ' in line or '" ! ' in line]
    assert said
    assert [line for line in said if "EXPORT : " not in line] == []


def test_the_average_of_one_checkpoint_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"average_last is 1, allowed: 0 for off, or .* 2 or more"):
        ExportConfig(average_last=1).check_values()
