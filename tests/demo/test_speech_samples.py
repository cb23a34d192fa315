"""The generated data set: the layout of LJSpeech, the same bytes every time, and sound that is like speech."""

from __future__ import annotations

import hashlib
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_export_callback.demo.speech_samples import SAMPLE_RATE, SENTENCES, synthesize_sentence, write_speech_dataset
from xtts_export_callback.demo.tiny_model import TinyAssets, tiny_vocabulary


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = fingerprint(write_speech_dataset(tmp_path / "a", clips=3))
    assert first == fingerprint(write_speech_dataset(tmp_path / "b", clips=3))


def test_another_seed_gives_other_recordings_of_the_same_sentences(tmp_path: Path) -> None:
    first = fingerprint(write_speech_dataset(tmp_path / "a", clips=2))
    second = fingerprint(write_speech_dataset(tmp_path / "b", clips=2, seed=1))
    assert [name for name in first if first[name] == second[name]] == ["metadata.csv"]


def test_more_clips_than_sentences_are_all_different(tmp_path: Path) -> None:
    recordings = fingerprint(write_speech_dataset(tmp_path, clips=len(SENTENCES) + 2))
    assert len(set(recordings.values())) == len(recordings) == len(SENTENCES) + 3


def test_metadata_names_every_recording_with_its_sentence(tmp_path: Path) -> None:
    write_speech_dataset(tmp_path, clips=4)
    rows = [line.split("|") for line in (tmp_path / "metadata.csv").read_text(encoding="utf-8").splitlines()]
    assert [row[2] for row in rows] == list(SENTENCES[:4])
    assert sorted(f"{row[0]}.wav" for row in rows) == sorted(path.name for path in (tmp_path / "wavs").iterdir())


def test_recordings_are_16_bit_mono_at_the_rate_of_xtts_and_long_enough_to_train_on(tmp_path: Path) -> None:
    write_speech_dataset(tmp_path, clips=len(SENTENCES))
    for path in (tmp_path / "wavs").iterdir():
        with wave.open(str(path)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (SAMPLE_RATE, 1, 2)
            # XTTSDataset.load_item refuses less than half a second.
            assert 1.0 < file.getnframes() / SAMPLE_RATE < 5.0


@pytest.mark.parametrize(("vowel", "first_formant"), [("a", 730), ("e", 530), ("i", 270)])
def test_a_vowel_is_loudest_near_its_first_formant(vowel: str, first_formant: int) -> None:
    sound = synthesize_sentence(vowel * 5)
    spectrum = np.abs(np.fft.rfft(sound))
    frequencies = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    strongest = frequencies[np.argmax(spectrum * frequencies)]  # undoes the fall of the glottal pulse
    assert abs(strongest - first_formant) < 150


def test_s_is_noise_of_high_frequency() -> None:
    sound = synthesize_sentence("s")
    power = np.abs(np.fft.rfft(sound)) ** 2
    frequencies = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    assert power[frequencies > 3000].sum() > 0.95 * power.sum()


@given(text=st.text(min_size=1, max_size=20), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=50)
def test_any_text_gives_finite_sound_within_full_scale(text: str, seed: int) -> None:
    sound = synthesize_sentence(text, seed=seed)
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() <= 1.0


def test_vocabulary_numbers_are_dense_and_merges_lead_to_tokens() -> None:
    model = tiny_vocabulary()["model"]
    assert sorted(model["vocab"].values()) == list(range(len(model["vocab"])))
    assert {merge.replace(" ", "") for merge in model["merges"]} <= set(model["vocab"])


@pytest.mark.integration
def test_the_real_tokenizer_reads_every_sentence_without_unknown_or_stop_tokens(tiny_assets: TinyAssets) -> None:
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

    tokenizer = VoiceBpeTokenizer(str(tiny_assets.vocab))
    for sentence in SENTENCES:
        tokens = tokenizer.encode(sentence, "en")
        assert not {tokenizer.tokenizer.token_to_id(token) for token in ("[STOP]", "[UNK]")} & set(tokens)
        assert tokenizer.decode(tokens) == f"[en]{sentence}"


@pytest.mark.integration
def test_generating_the_files_leaves_the_random_numbers_of_the_caller_alone(tmp_path: Path) -> None:
    import torch

    from xtts_export_callback.demo.tiny_model import write_tiny_assets

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    write_tiny_assets(tmp_path, clips=1)
    assert torch.equal(torch.rand(3), expected)
    (tmp_path / "dvae.pth").unlink()
