"""The page as a file: what it shows, what it says where there is nothing, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.models.command_line import complaint
from tests.models.evaluations import SENTENCES, write_evaluation
from tests.models.small_xtts import write_small
from xtts_export_callback.cli.main import main
from xtts_export_callback.evaluation.page.listening import read_listening
from xtts_export_callback.evaluation.results import Candidate, Evaluation, read_evaluation


def page_of(folder: Path, *arguments: str) -> str:
    assert main(["report", str(folder), *arguments]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_evaluation(tmp_path, seconds=0.4)
    return tmp_path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for step in (1000, 2000, 3000):
        write_small(folder / f"checkpoint_{step}.pth")
    return folder


def test_the_page_shows_verdict_candidates_sentences_and_what_is_missing(folder: Path) -> None:
    page = page_of(folder)
    evaluation = read_evaluation(folder)

    shown = [evaluation.verdict, *SENTENCES[:3], *(one.name for one in evaluation.candidates), *evaluation.not_measured]
    assert [text for text in shown if text not in page] == []


def test_the_page_names_no_address_to_load_from(folder: Path) -> None:
    page = re.sub(r'<script type="text/plain".*?</script>', "", page_of(folder))

    assert re.findall(r"https?:|\bsrc=|@import|url\(", page) == []


def test_every_clip_is_in_the_page_once(folder: Path) -> None:
    page = page_of(folder)

    assert len(re.findall(r'<script type="text/plain" id="s\d-t0-c\d">', page)) == 6 * 3
    assert len(re.findall(r'<button type="button" class="clip"', page)) == 6 * 3 + 1  # and the reference voice


def test_ten_candidates_and_five_sentences_of_noise_take_less_than_30_mb(tmp_path: Path) -> None:
    write_evaluation(tmp_path, candidates=10, sentences=5, seconds=8)

    assert main(["report", str(tmp_path)]) == 0
    assert 10_000_000 < (tmp_path / "report.html").stat().st_size < 30_000_000


def test_what_does_not_fit_is_left_out_a_whole_sentence_at_a_time_and_named(folder: Path) -> None:
    evaluation = read_evaluation(folder)
    whole = read_listening(folder, evaluation)
    size = sum(len(clip.sound.data) for clip in whole.clips)
    part = read_listening(folder, evaluation, most=size - 1)

    assert len(part.groups) == 2
    assert [len(group.clips) for group in part.groups] == [6, 6]
    assert part.notes[0].startswith("1 of 3 sentences and takes did not fit")


@pytest.mark.parametrize("odd", ["</script><script>alert(1)</script>", '" onload="x', "<b>&amp;"])
def test_text_of_others_is_text(folder: Path, odd: str) -> None:
    evaluation = read_evaluation(folder)
    first = dataclasses.replace(evaluation.candidates[0], name=odd, reason=odd)
    dataclasses.replace(evaluation, candidates=[first, *evaluation.candidates[1:]], verdict=odd).write(folder)
    page = page_of(folder)

    assert odd not in page
    blind = json.loads(re.findall(r'id="blind-data">(.*?)</script>', page)[0])
    assert blind["candidates"][0] == odd


def test_where_nothing_was_measured_the_page_says_what_to_do(tmp_path: Path) -> None:
    Evaluation([Candidate("a", "export", [1], 10)]).write(tmp_path)
    page = page_of(tmp_path)

    for text in ("Nothing was measured yet.", "No sound to play.", "No loss was measured.", "No weights to compare."):
        assert text in page
    assert 'id="blind-open"' not in page


def test_a_run_shows_its_losses_layers_and_sizes(run: Path) -> None:
    page = page_of(run)

    assert "As the Trainer noted it in its files." in page
    for name in ("checkpoint_1000", "checkpoint_2000", "checkpoint_3000", "layer 0", "layer 1"):
        assert name in page


def test_a_run_with_its_evaluation_shows_both(run: Path) -> None:
    (run / "evaluation").mkdir()
    write_evaluation(run / "evaluation", seconds=0.4)
    page = page_of(run)

    assert "layer 1" in page
    assert SENTENCES[0] in page


def test_a_run_with_one_checkpoint_says_why_no_layers_are_shown(tmp_path: Path) -> None:
    write_small(tmp_path / "run" / "checkpoint_1000.pth")

    assert "expected 2 to 64 models to compare, found 1" in page_of(tmp_path / "run")


def test_another_output_is_made_and_json_says_where(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "new" / "place"

    assert main(["report", str(folder), "--output", str(output), "--json"]) == 0
    page = output / "report.html"
    assert json.loads(capsys.readouterr().out) == {"version": 1, "page": str(page), "bytes": page.stat().st_size}


def test_a_page_that_exists_is_refused_without_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "report.html").write_text("mine")

    assert "exists already" in complaint(capsys, "report", folder)
    assert (folder / "report.html").read_text() == "mine"
    assert main(["report", str(folder), "--force"]) == 0


def test_a_folder_that_is_neither_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected a run folder or a folder with evaluation.json" in complaint(capsys, "report", tmp_path)


def test_a_clip_that_is_gone_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "old_voice" / "0_0.wav").unlink()

    assert "0_0.wav: cannot be read as sound" in complaint(capsys, "report", folder)
    assert not (folder / "report.html").exists()


def test_a_clip_without_samples_is_named_on_the_page(folder: Path) -> None:
    import soundfile

    soundfile.write(folder / "old_voice" / "0_0.wav", np.zeros(0), 24_000)

    assert "old_voice/0_0.wav of old_voice holds no sound." in page_of(folder)
