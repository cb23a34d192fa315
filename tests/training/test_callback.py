"""The callback under the real Trainer with a real GPTTrainer."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.trainings import close_trainer_logs, make_trainer, speak_briefly, train
from xtts_export_callback import ExportCallback, ExportConfig, export_callbacks, export_checkpoint
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.demo.tiny_model import TinyAssets, tiny_trainer_config
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.training import worker
from xtts_export_callback.training.exporter import Exporter
from xtts_export_callback.training.worker_client import Helper, HelperError

pytestmark = pytest.mark.integration

ON = {"enabled": True}


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture(scope="module")
def run(tiny_assets: TinyAssets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A finished run with "checkpoint_7" in its path: saves at steps 2, 4, 6 and 8, the last two kept."""
    output = tmp_path_factory.mktemp("with") / "my_checkpoint_7"
    export = ExportConfig(**ON, average_last=3)
    config = tiny_trainer_config(
        tiny_assets, output, epochs=2, save_step=2, save_n_checkpoints=2, save_best_after=0, export=export
    )
    trainer = train(config, export_callbacks(config))
    yield trainer
    close_trainer_logs()


def test_the_log_forecasts_the_disk_space_of_the_run(run: Any) -> None:
    text = (run.output_path / "trainer_0_log.txt").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if "of the Trainer's own files" in line]
    assert " > EXPORT : 2 epochs of " in line


def trainer_files(run: Path) -> list[str]:
    return sorted(entry.name for entry in run.glob("*.pth"))


def test_the_trainer_keeps_and_resumes_from_the_same_files_as_without_us(
    run: Any, tiny_assets: TinyAssets, tmp_path: Path
) -> None:
    from trainer.io import get_last_checkpoint

    output = tmp_path / "my_checkpoint_7"
    config = tiny_trainer_config(tiny_assets, output, epochs=2, save_step=2, save_n_checkpoints=2, save_best_after=0)
    without = train(config)
    assert trainer_files(run.output_path) == trainer_files(without.output_path)
    assert {"checkpoint_6.pth", "checkpoint_8.pth"} <= set(trainer_files(run.output_path))
    with_us = [Path(path).name for path in get_last_checkpoint(str(run.output_path))]
    assert with_us == [Path(path).name for path in get_last_checkpoint(str(without.output_path))]


def test_every_save_leaves_a_folder_and_the_end_an_average(run: Any) -> None:
    best = [name for name in names(run.output_path / "inference") if name.startswith("best_model")]
    assert names(run.output_path / "inference") == sorted(
        ["average_last_3", "checkpoint_2", "checkpoint_4", "checkpoint_6", "checkpoint_8", *best]
    )
    assert [f"{name}.pth" for name in best] == [
        name for name in trainer_files(run.output_path) if name.startswith("best_model_")
    ]


def test_every_tensor_of_an_export_is_bit_identical_to_the_checkpoint(run: Any) -> None:
    import torch

    full = torch.load(run.output_path / "checkpoint_8.pth", weights_only=True)["model"]
    slim = torch.load(run.output_path / "inference/checkpoint_8/model.pth", weights_only=True)["model"]
    expected = {
        name.removeprefix("xtts."): tensor
        for name, tensor in full.items()
        if not name.startswith(("dvae.", "torch_mel_spectrogram"))
    }
    assert list(slim) == list(expected)
    for name, tensor in slim.items():
        assert tensor.dtype == expected[name].dtype
        assert (
            torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8))
            if tensor.dim()
            else (tensor == expected[name])
        )


def test_the_export_speaks_like_the_training_model(run: Any, tiny_assets: TinyAssets) -> None:
    import torch
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    from xtts_export_callback import load_xtts

    reference = str(sorted((tiny_assets.dataset / "wavs").glob("*.wav"))[0])

    def speak(model: Any) -> Any:
        torch.manual_seed(1)
        latent, embedding = model.get_conditioning_latents(audio_path=reference)
        return model.inference("hello there.", "en", latent, embedding)["wav"]

    newest = run.output_path / "inference" / "checkpoint_8"
    training_model = load_full(run, "checkpoint_8.pth")
    expected = speak(training_model)
    assert np.array_equal(speak(load_xtts(newest)), expected)

    config = XttsConfig()
    config.load_json(newest / "config.json")
    strict = Xtts(config)
    strict.load_checkpoint(config, checkpoint_dir=newest, strict=True)
    assert np.array_equal(speak(strict), expected)


def load_full(run: Any, name: str) -> Any:
    """The training model itself, with the weights of one of its checkpoints."""
    import torch

    model = run.model
    model.load_state_dict(torch.load(run.output_path / name, weights_only=True)["model"])
    model.eval()
    model.xtts.gpt.init_gpt_for_inference(kv_cache=True, use_deepspeed=False)
    model.xtts.gpt.eval()
    return model.xtts


def test_tts_takes_the_folder(run: Any, tiny_assets: TinyAssets) -> None:
    from TTS.api import TTS

    folder = run.output_path / "inference" / "average_last_3"
    tts = TTS(model_path=str(folder), config_path=str(folder / "config.json"), progress_bar=False)
    reference = str(sorted((tiny_assets.dataset / "wavs").glob("*.wav"))[0])
    wav = np.asarray(tts.tts("hello there.", speaker_wav=reference, language="en"))
    assert wav.size > 1000
    assert np.isfinite(wav).all()


def test_tts_speaks_with_the_voices_that_come_along(run: Any, tiny_assets: TinyAssets, tmp_path: Path) -> None:
    """Whatever order their parts have in the file that lies near: Coqui unpacks them by position."""
    import torch
    from TTS.api import TTS

    from xtts_export_callback import load_xtts

    reference = str(sorted((tiny_assets.dataset / "wavs").glob("*.wav"))[0])
    model = load_xtts(run.output_path / "inference" / "checkpoint_8")
    latent, embedding = model.get_conditioning_latents(audio_path=reference)
    speakers = run.output_path / "speakers_xtts.pth"
    voice = {"speaker_embedding": embedding, "gpt_cond_latent": latent}
    torch.save({"Ana": voice, "Ben": voice}, speakers)  # TTS 0.22 takes a model with one voice for one without
    try:
        folder = export_checkpoint(run.output_path / "checkpoint_8.pth", tmp_path / "model").path
    finally:
        speakers.unlink()
    tts = TTS(model_path=str(folder), config_path=str(folder / "config.json"), progress_bar=False)
    assert list(tts.synthesizer.tts_model.speaker_manager.speakers) == ["Ana", "Ben"]
    wav = np.asarray(tts.tts("hello there.", speaker="Ana", language="en"))
    assert wav.size > 1000
    assert np.isfinite(wav).all()


def test_the_average_is_the_mean_in_float64_rounded_once(run: Any) -> None:
    folder = run.output_path / "inference"
    with (
        open_checkpoint(folder / "checkpoint_4") as a,
        open_checkpoint(folder / "checkpoint_6") as b,
        open_checkpoint(folder / "checkpoint_8") as c,
        open_checkpoint(folder / "average_last_3") as mean,
    ):
        for name, tensor in mean.tensors.items():
            inputs = [checkpoint.tensors[name].read() for checkpoint in (a, b, c)]
            if tensor.dtype.is_float:
                total = sum(array.astype(np.float64) for array in inputs)
                assert np.array_equal(tensor.read(), (total / 3).astype(np.float32)), name
            else:
                assert np.array_equal(tensor.read(), inputs[-1]), name


def test_no_local_path_stays_in_what_is_exported(run: Any, tiny_assets: TinyAssets) -> None:
    folder = run.output_path / "inference" / "checkpoint_8"
    with open_checkpoint(folder) as checkpoint:
        inside = json.dumps(checkpoint.document)
    for text in (inside, (folder / "config.json").read_text(), (folder / "export.json").read_text()):
        assert str(run.output_path.parent.parent) not in text
        assert str(tiny_assets.dataset.parent) not in text


def test_provenance_names_source_step_and_what_was_dropped(run: Any) -> None:
    provenance = read_provenance(run.output_path / "inference" / "checkpoint_8")
    assert provenance is not None
    (source,) = provenance["sources"]
    with open_checkpoint(run.output_path / "checkpoint_8.pth") as checkpoint:
        assert source["fingerprint"] == checkpoint.fingerprint()
    assert (source["name"], source["step"], source["epoch"]) == ("checkpoint_8.pth", 8, 1)
    assert set(provenance["dropped"]) == {
        "dvae",
        "torch_mel_spectrogram_dvae",
        "torch_mel_spectrogram_style_encoder",
    }


def test_exporting_the_run_again_finds_everything_done(run: Any) -> None:
    for name in ("checkpoint_6", "checkpoint_8"):
        assert not export_checkpoint(run.output_path / f"{name}.pth").written


FAULTS: dict[str, Callable[[pytest.MonkeyPatch, Path], None]] = {}


def fault(function: Callable[[pytest.MonkeyPatch, Path], None]) -> Callable[[pytest.MonkeyPatch, Path], None]:
    FAULTS[function.__name__] = function
    return function


def fail_at(monkeypatch: pytest.MonkeyPatch, method: str, call: int, error: OSError) -> None:
    original = getattr(RandomFile, method)
    calls = iter(range(1_000_000))

    def failing(self: RandomFile, *args: Any) -> Any:
        if next(calls) == call:
            raise error
        return original(self, *args)

    monkeypatch.setattr(RandomFile, method, failing)


@fault
def no_space_for_the_first_record(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    fail_at(monkeypatch, "copy_range_from", 0, OSError(errno.ENOSPC, "No space left on device"))


@fault
def no_space_in_the_middle(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    fail_at(monkeypatch, "copy_range_from", 300, OSError(errno.ENOSPC, "No space left on device"))


@fault
def no_space_for_the_directory(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    fail_at(monkeypatch, "write_at", 300, OSError(errno.ENOSPC, "No space left on device"))


@fault
def the_sync_fails(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    fail_at(monkeypatch, "sync", 0, OSError(errno.EIO, "Input/output error"))


@fault
def reading_back_fails(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    from xtts_export_callback.checkpoint import writer

    def differs(*args: Any) -> None:
        from xtts_export_callback.errors import VerificationError

        message = "record data/1: read back with another checksum"
        raise VerificationError(message)

    monkeypatch.setattr(writer, "_verify_job", differs)


@fault
def the_rename_fails(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    from xtts_export_callback.files import atomic

    def refuse(temporary: Path, path: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(atomic, "_move_into_place", refuse)


@fault
def the_source_is_broken(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    newest = max(run.glob("checkpoint_*.pth"), key=lambda path: path.stat().st_mtime_ns)
    with newest.open("r+b") as file:
        file.truncate(newest.stat().st_size // 2)


@fault
def the_source_is_gone(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    max(run.glob("checkpoint_*.pth"), key=lambda path: path.stat().st_mtime_ns).unlink()


def perform_in_this_process(self: Helper, task: str, **arguments: Any) -> dict[str, Any]:
    """What the helper process does, where a test can make it fail."""
    answer = worker.perform({"task": task, **arguments})
    if not answer["ok"]:
        raise HelperError(answer["error"])
    return answer


def test_a_failing_export_leaves_training_the_older_exports_and_the_disk_alone(
    tiny_config: Callable[..., Any], log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One save of a run for each fault; the first and the last go well."""
    saves = len(FAULTS) + 2
    config = tiny_config(epochs=-(-saves // 5) + 1, save_step=1, save_n_checkpoints=2, export=ExportConfig(**ON))
    original = Exporter.export
    faults = iter(FAULTS.values())
    failed_at: list[int] = []

    def export_with_fault(self: Exporter, saved: Any, **options: Any) -> None:
        inject = next(faults, None) if names(self.folder) else None
        with pytest.MonkeyPatch.context() as patches:
            if inject is not None:
                failed_at.append(saved.step)
                inject(patches, saved.path.parent)
            original(self, saved, **options)
            self.wait()
        assert (f"checkpoint_{saved.step}" in names(self.folder)) == (inject is None)

    monkeypatch.setattr(Exporter, "export", export_with_fault)
    monkeypatch.setattr(Helper, "perform", perform_in_this_process)
    trainer = train(config, export_callbacks(config))
    assert trainer.total_steps_done == 5 * config.epochs
    assert len(failed_at) == len(FAULTS)
    exports = names(trainer.output_path / "inference")
    assert exports == sorted(
        f"checkpoint_{step}" for step in range(1, trainer.total_steps_done) if step not in failed_at
    )
    assert "checkpoint_1" in exports
    complaints = [line for line in log if " ! EXPORT" in line]
    assert len(complaints) == len(FAULTS), complaints
    assert all("\n" not in line.strip() and "was not exported" in line for line in complaints)


def test_a_folder_that_cannot_be_written_is_logged_and_training_goes_on(
    tiny_config: Callable[..., Any], log: list[str]
) -> None:
    config = tiny_config(save_step=2, export=ExportConfig(**ON))
    callback = ExportCallback(config)

    def block(trainer: Any) -> None:
        (Path(trainer.output_path) / "inference").touch()  # a file where the folder should be

    trainer = train(config, callback.as_callbacks({"on_init_end": block}))
    assert trainer.total_steps_done == 5
    assert [line for line in log if "checkpoint_2 was not exported" in line]


def test_keep_last_counts_by_step_and_spares_what_is_not_ours(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config(save_step=1, save_n_checkpoints=1, export=ExportConfig(**ON, keep_last=1))

    def users_folder(trainer: Any) -> None:
        (Path(trainer.output_path) / "inference" / "checkpoint_0").mkdir(parents=True)

    trainer = train(config, export_callbacks(config, {"on_init_end": users_folder}))
    assert names(trainer.output_path / "inference") == ["checkpoint_0", "checkpoint_4"]


def test_the_inputs_of_the_average_outlive_keep_last_until_it_is_written(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config(save_step=1, save_n_checkpoints=1, export=ExportConfig(**ON, keep_last=1, average_last=3))
    trainer = train(config, export_callbacks(config))
    assert names(trainer.output_path / "inference") == ["average_last_3", "checkpoint_4"]
    provenance = read_provenance(trainer.output_path / "inference" / "average_last_3")
    assert provenance is not None
    assert [source["step"] for source in provenance["sources"]] == [2, 3, 4]


STORED = [
    (dtype, file_format, "decoder=bfloat16" if (dtype, file_format) == ("int8", "pth") else "")
    for dtype in ("float32", "float16", "bfloat16", "int8")
    for file_format in ("pth", "safetensors")
]


def test_every_type_and_format_is_written_in_a_run_and_speaks(
    tiny_config: Callable[..., Any], tiny_assets: TinyAssets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One save of a run for each."""
    from TTS.api import TTS

    from xtts_export_callback import load_xtts

    config = tiny_config(epochs=2, save_step=1, save_n_checkpoints=1, export=ExportConfig(**ON))
    original = Exporter.export
    written: dict[tuple[str, ...], Path] = {}

    def export_stored_so(self: Exporter, saved: Any, **options: Any) -> None:
        if len(written) < len(STORED):
            how = STORED[len(written)]
            self._options.dtype, self._options.format, self._options.precision = how
            written[how] = self.folder / saved.name
            original(self, saved, **options)
            self.wait()

    monkeypatch.setattr(Exporter, "export", export_stored_so)
    train(config, export_callbacks(config))
    assert list(written) == STORED
    for (dtype, file_format, precision), folder in written.items():
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.path.name == f"model.{file_format}"
            types = {name: tensor.dtype.name for name, tensor in checkpoint.stored.items()}
        assert types["gpt.gpt.h.0.mlp.c_fc.weight"] == dtype
        assert types["hifigan_decoder.waveform_decoder.conv_pre.bias"] == (
            "bfloat16" if precision else "float16" if dtype == "int8" else dtype
        )
        wavs = [speak_briefly(load_xtts(folder), tiny_assets.speaker_wav)]
        if dtype != "int8" and file_format == "pth":
            tts = TTS(model_path=str(folder), config_path=str(folder / "config.json"), progress_bar=False)
            tts.synthesizer.tts_model.gpt.max_gen_mel_tokens = 20
            wavs.append(tts.tts("we sing.", speaker_wav=str(tiny_assets.speaker_wav), language="en"))
        for wav in wavs:
            assert len(wav) > 1000, (dtype, file_format)
            assert np.isfinite(np.asarray(wav)).all(), (dtype, file_format)


def test_nothing_is_written_on_other_ranks(tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    config = tiny_config(save_step=2, save_best_after=0, export=ExportConfig(**ON, average_last=2))
    trainer = train(config, export_callbacks(config))
    assert list(trainer.output_path.rglob("*.pth")) == []
    assert not (trainer.output_path / "inference").exists()


def test_disabled_it_does_nothing(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config(save_step=2, export=ExportConfig(enabled=False))
    heard: list[str] = []
    mine = {"on_epoch_end": lambda trainer: heard.append("on_epoch_end")}
    trainer = train(config, export_callbacks(config, mine))
    assert set(heard) == {"on_epoch_end"}
    assert not (trainer.output_path / "inference").exists()
    assert "save_checkpoint" not in vars(trainer)


def test_the_users_own_callbacks_still_run(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config(export=ExportConfig(**ON))
    heard: list[str] = []
    events = ("on_init_start", "on_init_end", "on_epoch_end", "on_train_step_end")
    mine = {event: lambda trainer, event=event: heard.append(event) for event in events}
    train(config, export_callbacks(config, mine))
    assert set(heard) == set(events)


def test_a_bad_option_is_refused_before_training(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config(export=ExportConfig(**ON))
    config.export.dtype = "float64"
    with pytest.raises(ConfigError, match=r"export\.dtype is 'float64'.*float32, float16, bfloat16"):
        export_callbacks(config)


@pytest.mark.parametrize("name", ["config.json", "trainer_0_log.txt", "CON", "nul.d", "Lpt1"])
def test_a_folder_whose_name_is_taken_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="the name of one folder"):
        ExportConfig(folder=name)


def test_an_option_from_the_command_line_is_used(
    tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Trainer reads its command line only after it was given its callbacks."""
    config = tiny_config(save_step=2)
    monkeypatch.setattr("sys.argv", ["train.py", "--coqpit.export.enabled", "true"])
    callbacks = export_callbacks(config)
    config.parse_known_args(["--coqpit.export.enabled", "true"], relaxed_parser=True)
    trainer = train(config, callbacks)
    assert names(trainer.output_path / "inference") == ["checkpoint_2", "checkpoint_4"]


def test_restoring_from_an_inference_export_is_refused_with_the_right_way(
    run: Any, tiny_config: Callable[..., Any]
) -> None:
    config = tiny_config(export=ExportConfig(**ON))
    model = run.output_path / "inference" / "checkpoint_8" / "model.pth"
    with pytest.raises(ConfigError, match=r"model_args\.xtts_checkpoint"):
        make_trainer(config, export_callbacks(config), restore_path=str(model))


def test_a_run_that_holds_only_exports_is_not_cleaned_away(tiny_config: Callable[..., Any]) -> None:
    """The Trainer deletes a run without ``*.pth`` at its root on every exception."""
    config = tiny_config(save_step=2, export=ExportConfig(**ON))

    def lose_checkpoints_and_fail(trainer: Any) -> None:
        if trainer.total_steps_done == 4:
            for path in Path(trainer.output_path).glob("*.pth"):
                path.unlink()
            message = "the training script's own error"
            raise RuntimeError(message)

    trainer = make_trainer(config, export_callbacks(config, {"on_train_step_end": lose_checkpoints_and_fail}))
    with pytest.raises(SystemExit):
        trainer.fit()
    assert names(Path(trainer.output_path) / "inference") == ["checkpoint_2"]


def test_an_empty_run_is_still_cleaned_away(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config(export=ExportConfig(**ON))

    def fail(trainer: Any) -> None:
        message = "the training script's own error"
        raise RuntimeError(message)

    trainer = make_trainer(config, export_callbacks(config, {"on_train_step_end": fail}))
    with pytest.raises(SystemExit):
        trainer.fit()
    assert not Path(trainer.output_path).exists()
