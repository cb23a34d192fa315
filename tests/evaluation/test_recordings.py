"""``evaluate --wavs``: which recordings are found, what is refused, and that planted faults lose."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.evaluation.planted_sound import FAULTS, HEALTHY, write_versions
from tests.models.command_line import complaint
from xtts_export_callback.cli.main import main
from xtts_export_callback.evaluation.recordings import find_recordings
from xtts_export_callback.evaluation.results import Candidate, read_evaluation
from xtts_export_callback.evaluation.voices import resemblyzer

RECORDINGS = Path(__file__).parent / "recordings"

for package in ("pocketsphinx", "distillmos", "silero_vad"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three takes of two recordings, of two healthy candidates and three with a fault each."""
    there = {*HEALTHY, "noise", "cut", "doubled", *(["speaker"] if resemblyzer() else [])}
    return write_versions(
        RECORDINGS, tmp_path_factory.mktemp("planted") / "wavs", seed=0, names=there.__contains__, takes=3
    )


@pytest.fixture(scope="module")
def evaluated(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their evaluation, by the command line."""
    output = tmp_path_factory.mktemp("evaluation")
    voice = RECORDINGS / "LJ001-0002.wav"
    assert main(["evaluate", "--wavs", str(planted), "--voice", str(voice), "--output", str(output)]) == 0
    return output


def mean_errors(candidate: Candidate) -> float:
    assert candidate.speech is not None
    assert candidate.speech.characters_wrong is not None
    return candidate.speech.characters_wrong.mean


def test_planted_faults_come_after_the_healthy_and_are_named(evaluated: Path) -> None:
    found = {one.name: one for one in read_evaluation(evaluated).candidates}
    ranks = {name: one.rank or 99 for name, one in found.items()}

    assert max(ranks[name] for name in HEALTHY) < min(rank for name, rank in ranks.items() if name not in HEALTHY)
    for name in ("cut", "doubled"):
        speech = found[name].speech
        assert speech is not None
        assert speech.faults.kinds.get(FAULTS[name], 0) >= 5
        assert "more faults" in (found[name].reason or "") or ranks[name] > ranks["noise"]
    assert mean_errors(found["noise"]) > mean_errors(found["clean"]) + 0.2
    if resemblyzer():
        assert "less of the voice" in (found["speaker"].reason or "")


def test_recordings_outside_the_evaluation_are_copied_into_it(evaluated: Path, planted: Path) -> None:
    found = read_evaluation(evaluated)

    assert found.voice == "reference.wav"
    for one in found.candidates:
        assert one.kind == "recordings"
        for sample in one.samples:
            take = planted / one.name / f"LJ001-000{(2, 8)[sample.sentence]}_{sample.seed}.wav"
            assert (evaluated / sample.wav).read_bytes() == take.read_bytes()


def test_recordings_inside_the_evaluation_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(RECORDINGS / "LJ001-0008.wav", tmp_path / "a" / "LJ001-0008.wav")
    shutil.copy(RECORDINGS / "metadata.csv", tmp_path)
    assert main(["evaluate", "--wavs", str(tmp_path), "--output", str(tmp_path), "--json"]) == 0

    assert read_evaluation(tmp_path).candidates[0].samples[0].wav == "a/LJ001-0008.wav"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "evaluation.json", "metadata.csv"]


def test_without_a_voice_to_compare_with_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(RECORDINGS / "LJ001-0008.wav", tmp_path / "a" / "0.wav")
    (tmp_path / "texts.txt").write_text("fr|has never been surpassed.\n")
    arguments = ["evaluate", "--wavs", tmp_path, "--sentences", tmp_path / "texts.txt", "--json"]
    assert main([str(argument) for argument in arguments]) == 0

    assert json.loads(capsys.readouterr().out)["not_measured"] == [
        "characters wrong in fr: no recogniser knows it; name a faster-whisper model with --asr",
        "similarity to a voice: no reference was named; name one with --voice",
    ]


def test_names_of_files_may_be_numbers_of_sentences(tmp_path: Path) -> None:
    for name in ("a/0_0.wav", "a/0_1.wav", "a/1.wav", "b/0_0.wav", "b/0_1.wav", "b/1.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "texts.txt").write_text("# comment\n\none.\nde|zwei.\n")
    found = find_recordings(tmp_path, sentences=tmp_path / "texts.txt")

    assert [(one.text, one.language) for one in found.sentences] == [("one.", "en"), ("zwei.", "de")]
    assert [one[:2] for one in found.by_candidate["b"]] == [(0, 0), (0, 1), (1, 0)]


class TestRefused:
    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ([], "expected a folder with wav or flac files for each candidate, found none"),
            (["a/0.wav", "b/1.wav"], "has no 1.wav, which another candidate has"),
            (["a/0.wav", "a/0_0.wav"], "has two recordings of one sentence and seed"),
            (["a/hello.wav"], "belongs to none of the 2 texts"),
        ],
    )
    def test_recordings_that_cannot_be_compared(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], files: list[str], message: str
    ) -> None:
        for name in files:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "texts.txt").write_text("one.\ntwo.\n")

        assert message in complaint(capsys, "evaluate", "--wavs", tmp_path, "--sentences", tmp_path / "texts.txt")

    def test_a_folder_without_texts(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "has no metadata.csv with the texts" in complaint(capsys, "evaluate", "--wavs", tmp_path)

    def test_a_file_that_is_no_recording(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "LJ001-0002.wav").write_text("no sound")
        shutil.copy(RECORDINGS / "metadata.csv", tmp_path)

        assert "LJ001-0002.wav: cannot be read as a recording" in complaint(capsys, "evaluate", "--wavs", tmp_path)

    def test_models_and_recordings_at_once(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--wavs measures recordings alone" in complaint(capsys, "evaluate", "model.pth", "--wavs", tmp_path)

    def test_a_recogniser_that_is_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(RECORDINGS, tmp_path / "wavs" / "a")
        shutil.copy(RECORDINGS / "metadata.csv", tmp_path / "wavs")
        line = complaint(capsys, "evaluate", "--wavs", tmp_path / "wavs", "--asr", tmp_path / "nowhere")

        assert "--asr" in line

    def test_an_output_with_files_of_the_user(
        self, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "clean").mkdir()
        (tmp_path / "clean" / "0_0.wav").write_text("mine")
        line = complaint(capsys, "evaluate", "--wavs", planted, "--output", tmp_path)

        assert "0_0.wav: exists already and is not of an evaluation" in line
        assert (tmp_path / "clean" / "0_0.wav").read_text() == "mine"

    def test_an_evaluation_that_exists(
        self, evaluated: Path, planted: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "exists already" in complaint(capsys, "evaluate", "--wavs", planted, "--output", evaluated)
