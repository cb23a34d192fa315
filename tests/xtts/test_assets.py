"""What goes beside the weights: from where it is taken, what it must be, and what is left out."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.files import vocabulary
from tests.models.small_decoder import ARGS, TOKENS
from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import export_checkpoint, merge_checkpoints
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.inference_folder.folder import WrittenFolder
from xtts_export_callback.training.worker import perform
from xtts_export_callback.verification.model import verify_checkpoint

SPEAKERS, MEL_STATS = "speakers_xtts.pth", "mel_stats.pth"


def voice(seed: float = 1.0) -> dict[str, torch.Tensor]:
    return {"gpt_cond_latent": torch.full((1, 4, 8), seed), "speaker_embedding": torch.full((1, 8, 1), seed)}


def write_vocab(path: Path, last: str = "word", tokens: int = TOKENS) -> Path:
    """A vocabulary that fits, whose last token tells it from others."""
    content = vocabulary(tokens - 1)
    content["model"]["vocab"][last] = tokens - 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def last_token(folder: Path) -> str:
    return list(json.loads((folder / "vocab.json").read_bytes())["model"]["vocab"])[-1]


def write_checkpoint(path: Path, *, vocab: str | None = "beside", **args: Any) -> Path:
    """A checkpoint whose config names files, with a vocabulary beside it or without."""
    state = small_state()
    path = write_small(path, state)
    output = args.pop("output_path", "/nowhere")
    state["config"] |= {"output_path": output}
    state["config"]["model_args"] |= {"tokenizer_file": "", **args}
    torch.save(state, path)
    path.with_name("vocab.json").unlink()
    if vocab is not None:
        write_vocab(path.with_name("vocab.json"), vocab)
    return path


def voices_of(result: WrittenFolder) -> list[str]:
    return list(torch.load(result.path / SPEAKERS, weights_only=True))


class TestWhereFilesAreTakenFrom:
    def test_a_vocabulary_that_the_config_names_is_found(self, tmp_path: Path) -> None:
        named = write_vocab(tmp_path / "base" / "my_vocab.json", "named")
        checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint_1.pth", vocab=None, tokenizer_file=str(named))
        assert last_token(export_checkpoint(checkpoint).path) == "named"

    @pytest.mark.parametrize("name", ["C:\\Users\\Bob\\vocab.json", "vocab.json", "./vocab.json", "base/../vocab.json"])
    def test_the_working_directory_is_no_place_to_look(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        write_vocab(elsewhere / "vocab.json", "wrong")
        write_vocab(elsewhere / "C:\\Users\\Bob\\vocab.json", "wrong")
        (elsewhere / "base").mkdir()
        torch.save({"Wrong": voice()}, elsewhere / SPEAKERS)
        named = dict.fromkeys(("tokenizer_file", "mel_norm_file", "dvae_checkpoint", "xtts_checkpoint"), name)
        checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint_1.pth", vocab="right", **named)
        torch.save({"Right": voice()}, checkpoint.with_name(SPEAKERS))
        monkeypatch.chdir(elsewhere)
        result = export_checkpoint(checkpoint)
        assert last_token(result.path) == "right"
        assert voices_of(result) == ["Right"]

    def test_a_training_finds_what_its_config_names_relative_to_where_it_runs(self, tmp_path: Path) -> None:
        write_vocab(tmp_path / "work" / "base" / "vocab.json", "named")
        torch.save({"Ana": voice()}, tmp_path / "work" / "base" / SPEAKERS)
        checkpoint = write_checkpoint(tmp_path / "r" / "checkpoint_1.pth", vocab=None, tokenizer_file="base/vocab.json")
        job = {"task": "export", "source": str(checkpoint), "known_as": str(checkpoint), "stored": {}}
        done = perform({**job, "target": str(tmp_path / "out"), "trained_in": str(tmp_path / "work")})
        assert done["ok"], done
        assert last_token(tmp_path / "out") == "named"
        assert list(torch.load(tmp_path / "out" / SPEAKERS, weights_only=True)) == ["Ana"]

    @pytest.mark.integration
    def test_a_training_and_its_average_find_a_vocabulary_that_is_named_relative(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The mean of half-precision exports is made of the full checkpoints, whose config names it."""
        from tests.models.light import TEXT_EMBEDDING, light_config, light_layout, light_trainer
        from tests.models.trainings import close_trainer_logs

        monkeypatch.chdir(tmp_path)
        write_vocab(Path("base") / "my_vocab.json", "named", light_layout("few")[TEXT_EMBEDDING][1][0])
        options = {"enabled": True, "dtype": "float16", "average_last": 2}
        fields = {"model_args": {**ARGS, "tokenizer_file": "base/my_vocab.json"}, "save_n_checkpoints": 4}
        config = light_config(tmp_path / "out", options, **fields)
        (tmp_path / "out" / "vocab.json").unlink()
        trainer = light_trainer(config)
        trainer.fit()
        close_trainer_logs()
        run = Path(trainer.output_path)
        exports = {path.name: last_token(path) for path in (run / "inference").iterdir()}
        assert {"checkpoint_2", "checkpoint_4", "average_last_2"} <= exports.keys()
        assert set(exports.values()) == {"named"}

    def test_voices_beside_named_files_are_taken_only_in_a_run_that_lies_where_it_was_trained(
        self, tmp_path: Path
    ) -> None:
        named = write_vocab(tmp_path / "base" / "vocab.json", "named")
        torch.save({"Private": voice()}, named.with_name(SPEAKERS))
        runs = tmp_path / "runs"
        own = write_checkpoint(runs / "r" / "checkpoint_1.pth", tokenizer_file=str(named), output_path=str(runs))
        assert voices_of(export_checkpoint(own)) == ["Private"]
        download = tmp_path / "download" / "r" / "checkpoint_1.pth"
        download.parent.mkdir(parents=True)
        shutil.copy(own, download)
        result = export_checkpoint(download)
        assert not (result.path / SPEAKERS).exists()
        assert result.notes == ()

    @pytest.mark.parametrize("key", ["mel_norm_file", "tokenizer_file", "xtts_checkpoint", "dvae_checkpoint"])
    @pytest.mark.parametrize("form", ["{}", "{}/../private/id_rsa", "/proc/self/environ", "/dev/zero", "/etc/passwd"])
    def test_no_private_file_that_a_config_names_gets_into_an_export(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, form: str
    ) -> None:
        secret = tmp_path / "private" / "id_rsa"
        secret.parent.mkdir()
        secret.write_bytes(b"PRIVATE KEY")
        monkeypatch.setenv("HF_TOKEN", "PRIVATE KEY")
        checkpoint = write_checkpoint(tmp_path / "d" / "checkpoint_1.pth", **{key: form.format(secret)})
        folder = export_checkpoint(checkpoint).path
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "export.json",
            "model.pth",
            "vocab.json",
        ]
        assert not any(b"PRIVATE" in path.read_bytes() or b"root:" in path.read_bytes() for path in folder.iterdir())

    @pytest.mark.parametrize(
        "value", ["~a\0b", "/a\0b", "\0", "~nosuchuser/x", "a" * 5000, "https://host/v.json", 5, []]
    )
    def test_a_name_that_means_nothing_here_is_passed_over(self, tmp_path: Path, value: object) -> None:
        checkpoint = write_checkpoint(tmp_path / "r" / "checkpoint_1.pth", tokenizer_file=value, mel_norm_file=value)
        assert last_token(export_checkpoint(checkpoint).path) == "beside"

    def test_a_vocabulary_that_cannot_be_read_does_not_hide_one_that_fits(self, tmp_path: Path) -> None:
        (tmp_path / "broken.json").write_text('{"model": {"vocab": {"a": 1e999}}}', encoding="utf-8")
        named = str(tmp_path / "broken.json")
        checkpoint = write_checkpoint(tmp_path / "r" / "checkpoint_1.pth", tokenizer_file=named)
        assert last_token(export_checkpoint(checkpoint).path) == "beside"

    def test_all_vocabularies_that_do_not_fit_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "broken.json").write_text("{}", encoding="utf-8")
        named = str(tmp_path / "broken.json")
        checkpoint = write_checkpoint(tmp_path / "r" / "checkpoint_1.pth", tokenizer_file=named)
        write_vocab(checkpoint.with_name("vocab.json"), tokens=TOKENS + 1)
        with pytest.raises(
            ConfigError, match=r"expected a vocab\.json of 6 tokens, found .*broken\.json: model.* has 7"
        ):
            export_checkpoint(checkpoint)


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("code_was_run",)


def cut(path: Path) -> None:
    torch.save({"Ana": voice()}, path)
    path.write_bytes(path.read_bytes()[:-100])


def hostile(path: Path) -> None:
    torch.save({"Ana": voice(), "code": RunsCode()}, path)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"Ana": RunsCode()}))


def flipped(path: Path) -> None:
    torch.save({"Ana": voice(0.7)}, path)
    content = path.read_bytes()
    number = torch.tensor(0.7).numpy().tobytes()
    path.write_bytes(content.replace(number, b"\xff" + number[1:], 1))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def sparse_zip(path: Path) -> None:
    torch.save({"Ana": voice()}, path)
    with path.open("r+b") as file:
        file.truncate(1 << 30)


BROKEN: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "empty": lambda path: path.touch(),
    "pointer of Git LFS": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
    "error page": lambda path: path.write_text("<html>404</html>"),
    "hostile": hostile,
    "plain pickle": plain_pickle,
    "flipped bit": flipped,
    "sparse": sparse,
    "sparse zip": sparse_zip,
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "no voices": lambda path: torch.save({}, path),
    "a list": lambda path: torch.save([voice()], path),
    "half a voice": lambda path: torch.save({"Ana": {"gpt_cond_latent": torch.ones(1, 4, 8)}}, path),
    "lists for latents": lambda path: torch.save({"Ana": {key: [1.0] for key in voice()}}, path),
    "a tensor of 81": lambda path: torch.save(torch.ones(81), path),
    "integers": lambda path: torch.save(torch.ones(80, dtype=torch.int64), path),
}


class TestCompanions:
    @pytest.mark.parametrize("name", [SPEAKERS, MEL_STATS])
    @pytest.mark.parametrize("kind", BROKEN)
    def test_what_cannot_be_used_is_left_out_with_a_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint_1.pth")
        BROKEN[kind](checkpoint.with_name(name))
        assert main(["export", str(checkpoint)]) == 0
        _, note = capsys.readouterr().out.splitlines()
        assert note.startswith(f"  {name} was left out: ")
        folder = checkpoint.parent / "inference" / "checkpoint_1"
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "export.json",
            "model.pth",
            "vocab.json",
        ]
        assert not (tmp_path / "code_was_run").exists()

    @pytest.mark.parametrize("name", [SPEAKERS, MEL_STATS])
    @pytest.mark.parametrize("kind", BROKEN)
    def test_verify_finds_what_coqui_could_not_use(self, tmp_path: Path, kind: str, name: str) -> None:
        folder = export_checkpoint(write_checkpoint(tmp_path / "run" / "checkpoint_1.pth")).path
        BROKEN[kind](folder / name)
        report = verify_checkpoint(folder)
        assert [fault.check for fault in report.faults] == ["companions"]

    @pytest.mark.parametrize("kind", [cut, flipped, sparse])
    def test_the_next_place_is_tried(self, tmp_path: Path, kind: Callable[[Path], None]) -> None:
        checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint_1.pth")
        kind(checkpoint.with_name(SPEAKERS))
        torch.save({"Above": voice()}, tmp_path / SPEAKERS)
        assert voices_of(export_checkpoint(checkpoint)) == ["Above"]

    def test_voices_are_written_in_the_order_in_which_coqui_unpacks_them(self, tmp_path: Path) -> None:
        checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint_1.pth")
        latents = voice()
        turned = {key: latents[key] for key in reversed(latents)} | {"source": "/home/alice"}
        torch.save({"Ana": turned}, checkpoint.with_name(SPEAKERS))
        written = torch.load(export_checkpoint(checkpoint).path / SPEAKERS, weights_only=True)
        assert list(written["Ana"]) == ["gpt_cond_latent", "speaker_embedding"]
        assert torch.equal(written["Ana"]["gpt_cond_latent"], latents["gpt_cond_latent"])

    def test_verify_finds_voices_whose_parts_coqui_would_swap(self, tmp_path: Path) -> None:
        folder = export_checkpoint(write_checkpoint(tmp_path / "run" / "checkpoint_1.pth")).path
        torch.save({"Ana": dict(reversed(voice().items()))}, folder / SPEAKERS)
        (fault,) = verify_checkpoint(folder).faults
        assert "expected only gpt_cond_latent and speaker_embedding for 'Ana', in this order" in fault.message

    def test_voices_named_by_a_path_are_left_out_with_a_line(self, tmp_path: Path) -> None:
        checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint_1.pth")
        names = ["Ana Florência", "O'Neill, J. (calm)", "日本", "/home/alice/voice.wav", "C:\\x"]
        torch.save({name: voice() for name in names}, checkpoint.with_name(SPEAKERS))
        result = export_checkpoint(checkpoint)
        assert voices_of(result) == names[:3]
        assert "2 of 5 voices were left out" in result.notes[0]

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
    def test_files_of_both_formats_of_torch_are_read(self, tmp_path: Path, zipped: bool) -> None:
        checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint_1.pth")
        torch.save({"Ana": voice(3.0)}, checkpoint.with_name(SPEAKERS), _use_new_zipfile_serialization=zipped)
        torch.save(torch.ones(80), checkpoint.with_name(MEL_STATS), _use_new_zipfile_serialization=zipped)
        result = export_checkpoint(checkpoint)
        assert result.notes == ()
        assert torch.equal(torch.load(result.path / MEL_STATS, weights_only=True), torch.ones(80))
        assert voices_of(result) == ["Ana"]
        assert verify_checkpoint(result.path).faults == ()

    def test_many_voices_are_never_in_memory_at_once(self, tmp_path: Path) -> None:
        checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint_1.pth")
        many = {f"Voice {n}": {**voice(), "gpt_cond_latent": torch.ones(1, 32, 1024)} for n in range(600)}
        torch.save(many, checkpoint.with_name(SPEAKERS))
        size = checkpoint.with_name(SPEAKERS).stat().st_size
        del many
        tracemalloc.start()
        try:
            assert export_checkpoint(checkpoint).notes == ()
            assert tracemalloc.get_traced_memory()[1] < size / 2
        finally:
            tracemalloc.stop()

    def test_a_merge_for_training_takes_the_statistics_of_the_model_where_the_file_is_broken(
        self, tmp_path: Path
    ) -> None:
        paths = [write_checkpoint(tmp_path / name / f"checkpoint_{name}.pth") for name in ("1", "2")]
        cut(paths[1].with_name(MEL_STATS))
        recipe = {"models": [str(path) for path in paths]}
        result = merge_checkpoints(recipe, tmp_path / "m", for_training=True)
        assert torch.load(result.path / MEL_STATS, weights_only=True).shape == (80,)
        assert "mel_stats.pth was left out" in result.notes[0]


@pytest.mark.integration
def test_coqui_reads_the_voices_that_are_written(tmp_path: Path) -> None:
    from TTS.tts.layers.xtts.xtts_manager import SpeakerManager

    checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint_1.pth")
    torch.save({"Ana": voice(2.0), "Ben": voice(3.0)}, checkpoint.with_name(SPEAKERS))
    manager = SpeakerManager(export_checkpoint(checkpoint).path / SPEAKERS)
    assert list(manager.speakers) == ["Ana", "Ben"]
    latent, embedding = manager.speakers["Ben"].values()
    assert torch.equal(latent, voice(3.0)["gpt_cond_latent"])
    assert torch.equal(embedding, voice(3.0)["speaker_embedding"])
