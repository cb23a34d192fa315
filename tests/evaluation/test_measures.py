"""The measures on real recordings: right order for every planted fault, and the same numbers each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.planted_sound import FAULTS, versions
from xtts_export_callback.evaluation.measures import Measured, Measures, Reference
from xtts_export_callback.evaluation.recordings import METADATA
from xtts_export_callback.evaluation.sentences import sentences_of_metadata
from xtts_export_callback.evaluation.sound import RATE, read_sound, write_sound
from xtts_export_callback.evaluation.voices import resemblyzer

for package in ("pocketsphinx", "distillmos", "silero_vad"):
    pytest.importorskip(package)

RECORDINGS = Path(__file__).parent / "recordings"
TEXTS = {name: one.text for name, one in sentences_of_metadata(RECORDINGS / METADATA, "en").items()}


@pytest.fixture(scope="module")
def measures() -> Measures:
    return Measures()


@pytest.fixture(scope="module", params=sorted(TEXTS))
def measured(request: pytest.FixtureRequest, measures: Measures) -> dict[str, Measured]:
    """A clip in every version."""
    first, second = (read_sound(RECORDINGS / f"{name}.wav") for name in sorted(TEXTS, key=request.param.__ne__))
    made = versions(first, second, seed=0)
    return {name: measures.measure(sound, TEXTS[request.param], "en") for name, sound in made.items()}


def test_a_clean_clip_has_no_fault_and_a_good_mark(measured: dict[str, Measured]) -> None:
    for name in ("clean", "quieter"):
        assert measured[name].faults == []
        assert measured[name].characters_wrong is not None
        assert measured[name].characters_wrong < 0.25
        assert measured[name].naturalness > 4


@pytest.mark.parametrize("name", ["noise", "chopped"])
def test_noise_and_holes_are_less_natural_and_worse_to_understand(measured: dict[str, Measured], name: str) -> None:
    assert measured[name].naturalness < measured["clean"].naturalness - 1
    assert (measured[name].characters_wrong or 0) > (measured["clean"].characters_wrong or 0) + 0.1


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_sound_is_named_without_codes(measured: dict[str, Measured], name: str) -> None:
    assert FAULTS[name] in measured[name].faults


@pytest.mark.parametrize("name", ["cut", "doubled", "babble"])
def test_what_is_missing_or_added_counts_as_wrong_characters(measured: dict[str, Measured], name: str) -> None:
    assert (measured[name].characters_wrong or 0) > (measured["clean"].characters_wrong or 0) + 0.1


def test_another_speaker_is_less_similar_than_the_same_in_another_clip(measures: Measures) -> None:
    encoder = resemblyzer()
    if encoder is None:
        pytest.skip("resemblyzer is not installed")
    first, second = (read_sound(RECORDINGS / f"{name}.wav") for name in sorted(TEXTS))
    reference = Reference(encoder, encoder(first))
    made = versions(second, first, seed=0)
    similarity = {name: measures.measure(made[name], "", "en", reference=reference).voice or 0 for name in made}
    assert similarity["clean"] > similarity["speaker"] + 0.1
    assert similarity["clean"] > similarity["noise"]


def test_measures_do_not_depend_on_what_was_measured_before(measures: Measures) -> None:
    name = min(TEXTS)
    sound = read_sound(RECORDINGS / f"{name}.wav")
    first = measures.measure(sound, TEXTS[name], "en")
    measures.measure(np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1, TEXTS[name], "en")

    assert measures.measure(sound, TEXTS[name], "en") == first == Measures().measure(sound, TEXTS[name], "en")


@pytest.mark.parametrize(("level", "kind"), [(0.0, "silence"), (0.1, "no speech")])
def test_a_clip_without_speech_is_named(measures: Measures, level: float, kind: str) -> None:
    noise = np.random.default_rng(0).standard_normal(RATE * 2).astype(np.float32) * level

    assert measures.measure(noise, "in being comparatively modern", "en").faults == [kind]


def test_a_clip_of_a_few_samples_is_measured(measures: Measures) -> None:
    assert "cut short" in measures.measure(np.full(10, 0.5, np.float32), "hello there", "en").faults


def test_words_of_a_language_without_recogniser_are_not_measured(measures: Measures) -> None:
    found = measures.measure(np.zeros(RATE, np.float32), "Guten Tag", "de")

    assert (found.characters_wrong, found.heard) == (None, None)
    assert not measures.recognises("de")


def test_loading_the_models_leaves_the_number_of_threads_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    before = torch.get_num_threads()
    Measures().measure(np.zeros(RATE, np.float32), "hello", "en")

    assert torch.get_num_threads() == before
    assert capsys.readouterr() == ("", "")


def test_recordings_of_any_rate_and_channels_are_read(tmp_path: Path) -> None:
    import soundfile

    stereo = np.stack([np.full(48_000, 0.5), np.full(48_000, -0.1)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 48_000)
    sound = read_sound(tmp_path / "a.wav")

    assert sound.shape == (RATE,)
    assert sound[RATE // 2] == pytest.approx(0.2, abs=1e-3)


def test_a_written_clip_is_the_one_that_is_read(tmp_path: Path) -> None:
    sound = np.linspace(-1.2, 1.2, RATE, dtype=np.float32)
    write_sound(tmp_path / "a.wav", sound, RATE)

    assert np.abs(read_sound(tmp_path / "a.wav") - sound.clip(-1, 1)).max() < 1e-4
