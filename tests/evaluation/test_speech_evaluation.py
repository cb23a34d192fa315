"""What candidates say, and with whose voice, by default and by choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xtts_export_callback import SpeechOptions
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.results import Sentence
from xtts_export_callback.evaluation.speech_evaluation import plan_speech

VOICE = Path(__file__).parent / "recordings" / "LJ001-0002.wav"
SPLIT = [{"text": f"number {index}.", "language": "en", "audio_file": str(VOICE)} for index in range(12)]

for package in ("pocketsphinx", "distillmos", "silero_vad"):
    pytest.importorskip(package)


def config(folder: Path, sentences: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"test_sentences": sentences}))
    return path


def test_the_test_sentences_of_the_run_are_said_with_their_voice(tmp_path: Path) -> None:
    said = [{"text": "Guten Tag.", "speaker_wav": [str(VOICE)], "language": "de"}]
    plan = plan_speech(SpeechOptions(seeds=3), config(tmp_path, said), SPLIT)

    assert (plan.sentences, plan.voice, plan.clips) == ([Sentence("Guten Tag.", "de")], VOICE, 3)


@pytest.mark.parametrize("sentences", [[], None, ["plain text"]])
def test_without_test_sentences_ten_texts_of_the_split_are_said_with_its_first_voice(
    tmp_path: Path, sentences: Any
) -> None:
    plan = plan_speech(SpeechOptions(), config(tmp_path, sentences), SPLIT)

    assert plan.sentences == [Sentence(f"number {index}.", "en") for index in range(10)]
    assert plan.voice == VOICE


def test_sentences_and_voice_that_are_named_come_first(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("hello.")
    said = [{"text": "Guten Tag.", "speaker_wav": "nowhere.wav", "language": "de"}]
    plan = plan_speech(SpeechOptions(tmp_path / "mine.txt", VOICE, "fr"), config(tmp_path, said))

    assert (plan.sentences, plan.voice) == ([Sentence("hello.", "fr")], VOICE)


@pytest.mark.parametrize(
    ("options", "samples", "message"),
    [
        (SpeechOptions(), [], "no test sentences and no evaluation split; name --sentences"),
        (SpeechOptions(voice=Path("nowhere.wav")), SPLIT, "expected the recording of a voice, found nowhere.wav"),
        (SpeechOptions(seeds=0), SPLIT, "--seeds 0: expected at least 1"),
        (SpeechOptions(Path("nowhere.txt")), SPLIT, "nowhere.txt: cannot be read"),
    ],
)
def test_what_is_missing_is_named(options: SpeechOptions, samples: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_speech(options, None, samples)
