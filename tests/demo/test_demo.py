"""The demo: everything it promises, from nothing."""

from __future__ import annotations

import logging
import os
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Demo
from xtts_export_callback.demo.demo import _free_folder, _Highlights, run_demo
from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.units import human_size


@pytest.mark.integration
class TestDemo:
    def test_it_trains_exports_and_averages(self, demo: Demo) -> None:
        assert sorted(path.name for path in demo.run.glob("*.pth")) == [
            "best_model.pth",
            "best_model_30.pth",
            "checkpoint_24.pth",
        ]
        assert sorted(path.name for path in (demo.run / "inference").iterdir()) == [
            "average_last_3",
            "best_model_30",
            "checkpoint_16",
            "checkpoint_24",
            "checkpoint_8",
        ]

    def test_the_average_is_made_of_all_three_checkpoints(self, demo: Demo) -> None:
        provenance = read_provenance(demo.run / "inference" / "average_last_3")
        assert provenance is not None
        assert [source["step"] for source in provenance["sources"]] == [8, 16, 24]

    def test_the_average_has_spoken(self, demo: Demo) -> None:
        with wave.open(str(demo.output / "speech.wav")) as file:
            assert file.getframerate() == 24000
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        assert len(samples) > 0.2 * 24000
        assert np.abs(samples).max() > 100

    def test_the_table_has_every_file_with_its_size(self, demo: Demo) -> None:
        rows = {cells[0]: cells[1] for line in demo.printed.splitlines() if len(cells := table_cells(line)) == 3}
        average = demo.run / "inference" / "average_last_3"
        files = [*demo.run.glob("*.pth"), *average.iterdir(), demo.output / "speech.wav"]
        assert {path.name: rows.get(path.name) for path in files} == {
            path.name: human_size(path.stat().st_size) for path in files
        }
        for folder in (demo.run / "inference").iterdir():
            nbytes = sum(path.stat().st_size for path in folder.iterdir())
            assert rows[f"inference/{folder.name}/"] == human_size(nbytes)

    def test_it_shows_progress_and_none_of_the_chatter(self, demo: Demo) -> None:
        export = Path("inference", "checkpoint_8")
        for line in ("epoch 1 of 6", "epoch 6 of 6", "CHECKPOINT : checkpoint_8.pth", f"EXPORT : {export} "):
            assert line in demo.printed
        for chatter in ("current_lr", "GLOBAL_STEP", "Warning", "[transformers]"):
            assert chatter not in demo.printed

    def test_the_log_of_the_trainer_is_complete_and_its_terminal_output_restored(self, demo: Demo) -> None:
        assert "GLOBAL_STEP: 29" in next(demo.run.glob("trainer_0_log.txt")).read_text(encoding="utf-8")
        handlers = {type(handler) for handler in logging.getLogger("trainer").handlers}
        assert logging.StreamHandler in handlers
        assert not handlers & {logging.FileHandler, _Highlights}


def table_cells(line: str) -> list[str]:
    """Split a row of the printed table."""
    return [cell.strip() for cell in line.strip("│\n").split("│")]


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="exists already; remove it or choose another folder with --output"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("running", ["a process that has ended", "this one"])
def test_the_folder_of_an_interrupted_demo_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: str
) -> None:
    folder = tmp_path / "demo"
    (folder / "data").mkdir(parents=True)
    pid = os.getpid() if running == "this one" else 2**22 + 1
    (folder / "demo-is-running").write_text(str(pid), encoding="ascii")
    if running == "this one":
        with pytest.raises(OutputExistsError, match="exists already"):
            _free_folder(folder)
    else:
        assert _free_folder(folder) == folder.resolve()
        assert not folder.exists()


def test_the_folder_of_an_interrupted_demo_with_a_file_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "demo-is-running").write_text(str(2**22 + 1), encoding="ascii")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(OutputExistsError, match="exists already"):
        _free_folder(tmp_path)


def test_a_full_disk_is_named_before_anything_is_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match=r"1\.00 GB free, expected 2\.50 GB"):
        run_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []
