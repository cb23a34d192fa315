"""Models that speak: the same seed, faults of models, ``evaluate --speech`` and ``speak``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models.command_line import complaint
from tests.models.small_speaker import FAULTS, HEALTHY, write_small_speakers
from xtts_export_callback import verify_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.demo.speech_samples import SENTENCES
from xtts_export_callback.demo.tiny_model import TinyAssets
from xtts_export_callback.evaluation.results import Evaluation, Sentence, read_evaluation
from xtts_export_callback.inference_folder.ownership import not_ours

EVALUATED = ("after-200", "stops-at-once", "loops")


@pytest.fixture(scope="module")
def speakers(tiny_assets: TinyAssets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two healthy models, and one with each fault."""
    folder = tmp_path_factory.mktemp("speakers")
    yield write_small_speakers(tiny_assets, folder)
    shutil.rmtree(folder)


@pytest.mark.integration
class TestSpeaking:
    @pytest.fixture(scope="class")
    def model(self, speakers: list[Path]) -> Any:
        from xtts_export_callback.evaluation.speaking_model import speaking_model

        return speaking_model(speakers[1])

    def test_the_same_seed_gives_the_same_sound_and_another_seed_another(
        self, speakers: list[Path], tiny_assets: TinyAssets
    ) -> None:
        import torch

        from xtts_export_callback.evaluation.speaking import say, voice_of_recording
        from xtts_export_callback.evaluation.speaking_model import speaking_model

        model = speaking_model(speakers[-1])  # the others are too sure of what they say
        voice = voice_of_recording(model, tiny_assets.speaker_wav)
        unknown = Sentence("rain rain rain.", "en")
        before = torch.get_rng_state()
        first, again, other = (say(model, unknown, voice, seed=seed) for seed in (3, 3, 4))
        assert (first.sound == again.sound).all()
        assert first.codes == again.codes != other.codes
        assert torch.equal(torch.get_rng_state(), before)

    def test_codes_are_noted_without_the_stop_token(self, model: Any, tiny_assets: TinyAssets) -> None:
        from xtts_export_callback.evaluation.speaking import say, voice_of_recording

        said = say(model, Sentence(SENTENCES[0], "en"), voice_of_recording(model, tiny_assets.speaker_wav))
        assert said.codes.stopped
        assert model.gpt.stop_audio_token not in said.codes.drawn
        assert len(said.sound) / said.rate == pytest.approx((len(said.codes.drawn) + 1) / 21.5, abs=0.2)

    def test_a_text_that_is_too_long_is_refused(self, model: Any, tiny_assets: TinyAssets) -> None:
        from xtts_export_callback.errors import ConfigError
        from xtts_export_callback.evaluation.speaking import say, voice_of_recording

        with pytest.raises(ConfigError, match="cannot be said"):
            say(model, Sentence("a" * 200, "en"), voice_of_recording(model, tiny_assets.speaker_wav))

    def test_a_forecast_is_made_without_saying_a_sentence_to_its_end(self, model: Any, tiny_assets: TinyAssets) -> None:
        from xtts_export_callback.evaluation.speaking import seconds_needed, voice_of_recording

        voice = voice_of_recording(model, tiny_assets.speaker_wav)
        sentences = [Sentence(text, "en") for text in SENTENCES]
        few, many = (seconds_needed(model, chosen, voice, measured=True) for chosen in (sentences[:1], sentences))
        assert 0 < few < many


@pytest.fixture(scope="module")
def measures() -> None:
    """The packages of the extra `speech`, which an older stack has not."""
    for package in ("pocketsphinx", "distillmos", "silero_vad"):
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def evaluated(
    speakers: list[Path],
    tiny_assets: TinyAssets,
    tmp_path_factory: pytest.TempPathFactory,
    measures: None,
) -> Path:
    """A healthy one and two with faults, each saying six sentences; `tests.models.small_speaker` ranks all."""
    models = [path for path in speakers if path.name in EVALUATED]
    output = tmp_path_factory.mktemp("evaluation")
    (output / "sentences.txt").write_text("\n".join(SENTENCES[:6]))
    arguments = ["--speech", "--sentences", output / "sentences.txt", "--voice", tiny_assets.speaker_wav]
    arguments += ["--output", output, "--device", "cpu"]
    assert main(["evaluate", *map(str, [*models, *arguments])]) == 0
    return output


@pytest.mark.integration
class TestEvaluated:
    @pytest.fixture
    def found(self, evaluated: Path) -> Evaluation:
        return read_evaluation(evaluated)

    def test_planted_faults_are_last_and_named(self, found: Evaluation) -> None:
        ranks = {one.name: one.rank or 99 for one in found.candidates}
        assert ranks["after-200"] == 1
        assert sorted(ranks) == sorted(EVALUATED)
        for one in found.candidates:
            if one.name in FAULTS:
                assert one.speech is not None
                assert (one.rank or 0) > 1
                assert one.speech.faults.kinds[FAULTS[one.name]] >= 5

    def test_every_clip_is_kept_and_measured(self, found: Evaluation, evaluated: Path) -> None:
        assert len(found.sentences) == 6
        assert (evaluated / (found.voice or "")).is_file()
        for one in found.candidates:
            assert [sample.sentence for sample in one.samples] == list(range(6))
            for sample in one.samples:
                assert (evaluated / sample.wav).is_file()
                assert None not in (sample.characters_wrong, sample.voice, sample.naturalness)

    def test_the_same_command_measures_nothing_again(
        self, speakers: list[Path], evaluated: Path, tiny_assets: TinyAssets
    ) -> None:
        before = {path: path.stat().st_mtime_ns for path in evaluated.rglob("*.wav") if path.name != "reference.wav"}
        arguments = ["--speech", "--sentences", evaluated / "sentences.txt", "--voice", tiny_assets.speaker_wav]
        models = [path for path in speakers if path.name in EVALUATED]
        assert main(["evaluate", *map(str, [*models, *arguments, "--output", evaluated])]) == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before

    def test_other_sentences_are_refused_for_the_same_output(
        self, speakers: list[Path], evaluated: Path, tiny_assets: TinyAssets, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--speech", "--seeds", 2, "--sentences", evaluated / "sentences.txt"]
        arguments += ["--voice", tiny_assets.speaker_wav, "--output", evaluated]
        assert "is of other sentences, seeds" in complaint(capsys, "evaluate", speakers[0], *map(str, arguments))

    @pytest.mark.usefixtures("measures")
    def test_the_greedy_soup_can_be_chosen_by_the_speech(
        self, speakers: list[Path], tiny_assets: TinyAssets, tmp_path: Path
    ) -> None:
        sentences = tmp_path / "two.txt"
        sentences.write_text("\n".join(SENTENCES[:2]))
        healthy = [str(path) for path in speakers if path.name in HEALTHY]
        options = ["--speech", "--sentences", sentences, "--voice", tiny_assets.speaker_wav, "--device", "cpu"]
        output = tmp_path / "evaluation"

        assert (
            main(["evaluate", *healthy, "--greedy", "--by", "faults", "--output", str(output), *map(str, options)]) == 0
        )

        found = read_evaluation(output)
        (soup,) = [one for one in found.candidates if one.name == "greedy_soup"]
        faults = {one.name: one.speech.faults.kinds for one in found.candidates if one.speech is not None}
        assert faults["greedy_soup"] == faults["after-150"] == faults["after-200"]  # the voices hum: no speech
        assert {one.name: one.rank for one in found.candidates} == dict.fromkeys([*HEALTHY, "greedy_soup"], 1)
        assert all((output / sample.wav).is_file() for sample in soup.samples)
        assert verify_checkpoint(output / "greedy_soup").is_fine
        assert not_ours(output / "greedy_soup") == []


@pytest.mark.integration
class TestSpeak:
    def test_every_model_speaks_and_the_same_seed_gives_the_same_file(
        self, speakers: list[Path], tiny_assets: TinyAssets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        models = list(map(str, speakers[1:3]))
        for output in ("one", "two"):
            arguments = ["--text", "rain rain rain.", "--voice", str(tiny_assets.speaker_wav), "--seed", "5"]
            assert main(["speak", *models, *arguments, "--output", str(tmp_path / output)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"{tmp_path / 'one' / 'after-200.wav'}: ")
        assert lines[1].endswith("(no stop token)")
        for name in ("after-200.wav", "never-stops.wav"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    def test_a_full_checkpoint_speaks_as_its_export_does(
        self, speakers: list[Path], tiny_assets: TinyAssets, tmp_path: Path
    ) -> None:
        import torch

        document = torch.load(str(speakers[0] / "model.pth"), weights_only=True)
        full = tmp_path / "full"
        shutil.copytree(speakers[0], full, ignore=shutil.ignore_patterns("model.pth"))
        document["model"] = {f"xtts.{name}": tensor for name, tensor in document["model"].items()}
        torch.save(document, full / "checkpoint_5.pth")
        for path in (speakers[0], full / "checkpoint_5.pth"):
            arguments = ["--text", SENTENCES[1], "--voice", str(tiny_assets.speaker_wav), "--output", str(tmp_path)]
            assert main(["speak", str(path), *arguments]) == 0
        assert (tmp_path / "after-150.wav").read_bytes() == (tmp_path / "checkpoint_5.wav").read_bytes()
        shutil.rmtree(full)

    def test_a_voice_of_the_speakers_file_is_used(
        self, speakers: list[Path], tiny_assets: TinyAssets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import torch

        from xtts_export_callback.evaluation.speaking_model import speaking_model

        model = tmp_path / "model"
        shutil.copytree(speakers[1], model)
        latents = speaking_model(speakers[1]).get_conditioning_latents(str(tiny_assets.speaker_wav))
        voice = dict(zip(("gpt_cond_latent", "speaker_embedding"), latents, strict=True))
        torch.save({"Claribel Dervla": voice}, model / "speakers_xtts.pth")
        arguments = ["speak", model, "--text", SENTENCES[2], "--output", tmp_path]
        assert main([*map(str, arguments), "--speaker", "Claribel Dervla", "--json"]) == 0
        (wav,) = json.loads(capsys.readouterr().out)["wavs"]
        assert Path(wav["wav"]).is_file()
        assert "no such voice (found: Claribel Dervla)" in complaint(
            capsys, *arguments, "--speaker", "nobody", "--force"
        )
        shutil.rmtree(model)

    def test_a_wav_that_exists_is_not_replaced(
        self, speakers: list[Path], tiny_assets: TinyAssets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "after-150.wav").write_text("mine")
        arguments = ["--text", "hello.", "--voice", tiny_assets.speaker_wav, "--output", tmp_path]
        assert "after-150.wav: exists already" in complaint(capsys, "speak", speakers[0], *arguments)
        assert (tmp_path / "after-150.wav").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speak", "model.pth", "--text", "hello", "--voice", "nowhere.wav"], "nowhere.wav, which is no file"),
        (["evaluate", "model.pth", "--speech"], "--speech: expected --output DIR"),
        (["evaluate"], "expected runs or models"),
    ],
)
def test_bad_input_is_named_in_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert message in complaint(capsys, *arguments)
