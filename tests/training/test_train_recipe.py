"""The recipe: every mistake in a config is named before training, and what the config says is what is trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.trainings import REPOSITORY
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.train_gpt_xtts import main, train
from xtts_export_callback.training.overrides import split_overrides
from xtts_export_callback.training.recipe_config import read_config

STOCK = REPOSITORY / "configs" / "finetune_xtts_v2.json"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Empty stand-ins for the files that a training reads."""
    (tmp_path / "speech" / "wavs").mkdir(parents=True)
    for name in ("speech/metadata.csv", "speech/wavs/a.wav", "dvae.pth", "mel_stats.pth", "vocab.json", "model.pth"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def raw(files: Path) -> dict[str, Any]:
    """A config whose files are all there."""
    return {
        "datasets": [{"formatter": "ljspeech", "path": str(files / "speech"), "meta_file_train": "metadata.csv"}],
        "model_args": {
            "dvae_checkpoint": str(files / "dvae.pth"),
            "mel_norm_file": str(files / "mel_stats.pth"),
            "tokenizer_file": str(files / "vocab.json"),
            "xtts_checkpoint": str(files / "model.pth"),
        },
        "test_sentences": [{"text": "hello.", "speaker_wav": [str(files / "speech/wavs/a.wav")], "language": "en"}],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    """A function that writes a config and returns its path."""

    def write(raw: Any) -> Path:
        path = tmp_path / "config.json"
        path.write_text(raw if isinstance(raw, str) else json.dumps(raw), encoding="utf-8")
        return path

    return write


class TestMissingFiles:
    def test_nothing_is_missing(self, raw: dict[str, Any], write: Callable[[Any], Path]) -> None:
        assert read_config(write(raw))["model_args"] == raw["model_args"]

    @pytest.mark.parametrize(
        ("file", "field"),
        [
            ("speech/metadata.csv", "datasets.0.meta_file_train"),
            ("speech/wavs/a.wav", "test_sentences.0.speaker_wav.0"),
            ("dvae.pth", "model_args.dvae_checkpoint"),
            ("mel_stats.pth", "model_args.mel_norm_file"),
            ("vocab.json", "model_args.tokenizer_file"),
            ("model.pth", "model_args.xtts_checkpoint"),
        ],
    )
    def test_a_missing_file_is_named_with_its_field(
        self, raw: dict[str, Any], write: Callable[[Any], Path], files: Path, file: str, field: str
    ) -> None:
        (files / file).unlink()
        with pytest.raises(ConfigError) as caught:
            read_config(write(raw))
        assert f"{field}: there is no file {files / file}" in str(caught.value)
        assert str(caught.value).count("there is no") == 1

    def test_a_missing_data_set_is_named_once(self, raw: dict[str, Any], write: Callable[[Any], Path]) -> None:
        raw["datasets"][0]["path"] = "nowhere"
        with pytest.raises(ConfigError, match=r"config\.json: datasets\.0\.path: there is no folder nowhere$"):
            read_config(write(raw))

    def test_all_missing_files_of_the_stock_config_are_named_at_once(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError) as caught:
            read_config(STOCK)
        for name in ("LJSpeech-1.1", "dvae.pth", "mel_stats.pth", "vocab.json", "model.pth"):
            assert f"{name};" in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("key", ["dvae_checkpoint", "tokenizer_file"])
    def test_a_required_file_that_is_not_set_is_named(
        self, raw: dict[str, Any], write: Callable[[Any], Path], key: str
    ) -> None:
        del raw["model_args"][key]
        with pytest.raises(ConfigError, match=rf"model_args\.{key} is not set"):
            read_config(write(raw))

    def test_training_without_a_base_checkpoint_is_possible(
        self, raw: dict[str, Any], write: Callable[[Any], Path]
    ) -> None:
        raw["model_args"]["xtts_checkpoint"] = ""
        assert read_config(write(raw))["model_args"]["xtts_checkpoint"] == ""

    def test_an_address_is_left_to_the_trainer(self, raw: dict[str, Any], write: Callable[[Any], Path]) -> None:
        raw["model_args"]["mel_norm_file"] = "https://example.org/mel_norms.pth"
        assert read_config(write(raw))["model_args"] == raw["model_args"]

    @pytest.mark.parametrize(
        "overrides",
        [
            ["--coqpit.model_args.dvae_checkpoint", "{}/dvae.pth"],
            ["--coqpit.model_args.dvae_checkpoint={}/dvae.pth"],
            ["--coqpit.epochs", "3", "--coqpit.model_args.dvae_checkpoint={}/dvae.pth", "--coqpit.lr", "1"],
        ],
    )
    def test_a_file_given_on_the_command_line_counts(
        self, raw: dict[str, Any], write: Callable[[Any], Path], files: Path, overrides: list[str]
    ) -> None:
        raw["model_args"]["dvae_checkpoint"] = "nowhere.pth"
        read = read_config(write(raw), overrides=[override.format(files) for override in overrides])
        assert read["model_args"]["dvae_checkpoint"] == "nowhere.pth", "overrides are not written into the config"

    def test_a_missing_file_given_on_the_command_line_is_named(
        self, raw: dict[str, Any], write: Callable[[Any], Path]
    ) -> None:
        with pytest.raises(ConfigError, match=r"datasets\.0\.path: there is no folder nowhere"):
            read_config(write(raw), overrides=["--coqpit.datasets.0.path", "nowhere"])

    def test_the_home_directory_is_expanded(
        self, raw: dict[str, Any], write: Callable[[Any], Path], files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(files))
        monkeypatch.setenv("USERPROFILE", str(files))
        raw["model_args"]["dvae_checkpoint"] = "~/dvae.pth"
        raw["output_path"] = "~/runs"
        read = read_config(write(raw))
        assert (Path(read["model_args"]["dvae_checkpoint"]), Path(read["output_path"])) == (
            files / "dvae.pth",
            files / "runs",
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"config\.json: is not JSON \(.*line 1 column 2"),
        ("[]", "holds a list, expected an object"),
        (
            '{"export": {"keep_lst": 3}}',
            r"config\.json: export\.keep_lst is not an option \(did you mean keep_last\?\)",
        ),
        ('{"export": {"keep_last": "three"}}', r"export\.keep_last is 'three', allowed: a whole number, 0 or more"),
        ('{"export": null}', "export is None, expected an object with any of: enabled, folder"),
        ('{"datasets": []}', "datasets is empty"),
        ('{"datasets": [{"formatter": "ljspeech"}]}', r"datasets\.0\.path is not set"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(write: Callable[[Any], Path], content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(write(content))


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json: cannot be read"):
        read_config(tmp_path / "nowhere.json")


def test_missing_files_are_reported_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from xtts_export_callback.train_gpt_xtts import main; code = main(sys.argv[1:]);"
        "print({'torch', 'TTS', 'trainer'} & set(sys.modules)); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(STOCK)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "SYSTEMROOT": "C:\\Windows"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "set()\n")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "own", "overrides"),
    [
        (["c.json"], ["c.json"], []),
        (["c.json", "--coqpit.epochs", "3"], ["c.json"], ["--coqpit.epochs", "3"]),
        (["c.json", "--coqpit.epochs=3", "--output", "o"], ["c.json", "--output", "o"], ["--coqpit.epochs=3"]),
        (["--continue", "run", "--coqpit.epochs", "3"], ["--continue", "run"], ["--coqpit.epochs", "3"]),
        (["--continue=run", "--rank=1"], ["--continue=run"], ["--rank=1"]),
        (["c.json", "--coqpit.lr", "-1"], ["c.json"], ["--coqpit.lr", "-1"]),
        (["-h"], ["-h"], []),
    ],
)
def test_arguments_for_the_trainer_are_told_from_our_own(
    arguments: list[str], own: list[str], overrides: list[str]
) -> None:
    assert split_overrides(arguments) == (own, overrides)


class TestRunsToContinue:
    def test_a_run_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="nowhere: no such run folder"):
            train(None, continue_run=tmp_path / "nowhere")

    def test_an_inference_folder_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        folder = tmp_path / "run" / "inference" / "checkpoint_8"
        folder.mkdir(parents=True)
        for name in ("model.pth", "config.json", "vocab.json"):
            (folder / name).write_text(name, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"holds no checkpoint_N\.pth .* model_args\.xtts_checkpoint"):
            train(None, continue_run=folder)
        assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == {
            name: name for name in ("model.pth", "config.json", "vocab.json")
        }

    def test_a_run_of_another_script_needs_the_arguments_that_it_did_not_record(
        self, raw: dict[str, Any], write: Callable[[Any], Path]
    ) -> None:
        run = write(raw).parent
        (run / "checkpoint_8.pth").touch()
        with pytest.raises(ConfigError, match=r"has no trainer_args: .*give a CONFIG\.json"):
            train(None, continue_run=run)

    @pytest.mark.parametrize("name", ["voice [v2]", "voice *", "voice?"])
    def test_a_run_that_the_trainer_takes_for_a_pattern_is_refused(self, tmp_path: Path, name: str) -> None:
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        (run / "checkpoint_8.pth").touch()
        with pytest.raises(ConfigError, match="the Trainer treats the path as a pattern"):
            train(None, continue_run=run)

    def test_a_run_below_a_folder_with_a_number_is_refused_where_it_misleads(self, tmp_path: Path) -> None:
        run = tmp_path / "checkpoint_5" / "run"
        run.mkdir(parents=True)
        for step in (8, 9):
            (run / f"checkpoint_{step}.pth").touch()
        with pytest.raises(ConfigError, match=r"contains checkpoint_5, .* picks checkpoint_8\.pth, not checkpoint_9"):
            train(None, continue_run=run)

    @pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
    def test_a_config_that_is_a_named_pipe_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoint_8.pth").touch()
        os.mkfifo(tmp_path / "config.json")
        with pytest.raises(ConfigError, match=r"config\.json: not a regular file"):
            train(None, continue_run=tmp_path)

    def test_a_second_config_beside_a_run_is_refused(
        self, raw: dict[str, Any], write: Callable[[Any], Path], tmp_path: Path
    ) -> None:
        run = write({**raw, "trainer_args": {}}).parent
        (run / "checkpoint_8.pth").touch()
        other = tmp_path / "other.json"
        other.write_text("{}", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"other\.json: a resumed run goes on with its own .*config\.json"):
            train(other, continue_run=run)

    def test_nothing_to_train_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"neither a CONFIG\.json nor a run"):
            train(None)


@pytest.fixture
def config_json(tiny_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """A function that writes the JSON of a training of the tiny model, with some fields set otherwise."""

    def write(**fields: Any) -> Path:
        path = tmp_path / "train.json"
        path.write_text(json.dumps({**tiny_config().to_dict(), **fields}), encoding="utf-8")
        return path

    return write


def one_run(output: Path) -> Path:
    """The run folder in an output folder, which the Trainer names after date and time."""
    (run,) = output.iterdir()
    return run


@pytest.mark.integration
class TestTraining:
    def test_the_run_records_config_command_line_and_recipe_and_can_be_continued(
        self, config_json: Callable[..., Path], tmp_path: Path
    ) -> None:
        output = tmp_path / "training1"
        arguments = sys.argv
        config = config_json(save_step=3, save_n_checkpoints=1, trainer_args={"grad_accum_steps": 2})
        assert main([str(config), "--output", str(output), "--coqpit.lr", "0.002", "--coqpit.export.keep_last=7"]) == 0
        run = one_run(output)
        recorded = json.loads((run / "config.json").read_text(encoding="utf-8"))
        assert recorded["lr"] == 0.002
        assert recorded["export"]["keep_last"] == 7
        assert recorded["trainer_args"]["grad_accum_steps"] == 2
        assert (run / "train_gpt_xtts.py").is_file()
        assert sorted(path.name for path in run.glob("*.pth")) == ["checkpoint_3.pth"]

        # Step 3 is in the first of the five-step epochs, which is trained again: 4 to 8, then 9 to 13.
        assert main(["--continue", str(run), "--coqpit.epochs", "2"]) == 0
        recorded = json.loads((run / "config.json").read_text(encoding="utf-8"))
        assert (recorded["epochs"], recorded["lr"], recorded["trainer_args"]["grad_accum_steps"]) == (2, 0.002, 2)
        assert sorted(path.name for path in run.glob("*.pth")) == ["checkpoint_12.pth"]
        assert one_run(output) == run
        assert sys.argv == arguments

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"epoch": 3}, r"train\.json: epoch is not a field of RecipeConfig \(did you mean epochs\?\)"),
            ({"epochs": "three"}, r"train\.json: epochs is 'three', expected int"),
            ({"batch_size": True}, "batch_size is True, expected int"),
            ({"model_args.gpt_layer": 2}, r"model_args\.gpt_layer is not a field of GPTArgs \(did you mean gpt_layers"),
            ({"model_args.gpt_layers": "two"}, r"model_args\.gpt_layers is 'two', expected int"),
            ({"audio.sample_rat": 1}, r"audio\.sample_rat is not a field of XttsAudioConfig"),
            ({"datasets.0.langauge": "en"}, r"datasets\.0\.langauge is not a field .* \(did you mean language\?\)"),
            ({"trainer_args": {"grad_accum": 2}}, r"trainer_args\.grad_accum is not a field .* grad_accum_steps"),
            ({"trainer_args": {"grad_accum_steps": 0}}, r"grad_accum_steps is 0, allowed: a whole number, 1 or more"),
            ({"trainer_args": 5}, "trainer_args is 5, expected an object"),
            ({"eval_split_size": 0.01}, "cannot read the data sets: .*not have enough samples"),
            ({"datasets.0.formatter": "ljspeach"}, "cannot read the data sets: .*ljspeach"),
            ({"model_args.gpt_num_audio_tokens": 2000}, "cannot build the model: .*size mismatch"),
        ],
    )
    def test_a_mistake_in_the_config_is_refused_by_name(
        self, config_json: Callable[..., Path], fields: dict[str, Any], message: str
    ) -> None:
        path = config_json()
        raw = json.loads(path.read_text(encoding="utf-8"))
        for name, value in fields.items():
            *parents, last = name.split(".")
            target = raw
            for parent in parents:
                target = target[int(parent) if parent.isdigit() else parent]
            target[last] = value
        path.write_text(json.dumps(raw), encoding="utf-8")
        with pytest.raises(ConfigError, match=message) as caught:
            train(path)
        assert "\n" not in str(caught.value)
        assert not Path(raw["output_path"]).exists()

    @pytest.mark.parametrize(
        "fields",
        [{"run_name": "voice [v2]"}, {"run_name": "a*"}, {"output_path": "out?"}, {"run_name": "checkpoint_5"}],
    )
    def test_a_new_run_that_could_not_be_continued_is_refused(
        self, config_json: Callable[..., Path], fields: dict[str, str]
    ) -> None:
        with pytest.raises(ConfigError, match=r"output_path and run_name: the folder name .*; rename it"):
            train(config_json(**fields))

    def test_fields_that_another_version_wrote_are_passed_over_with_a_note(
        self, config_json: Callable[..., Path], log: list[str]
    ) -> None:
        from xtts_export_callback.training.recipe_config import check_fields
        from xtts_export_callback.training.trainer_config import RecipeConfig

        raw = json.loads(config_json(of_another_version="x").read_text(encoding="utf-8"))
        raw["model_args"]["use_masking_gt_as_prompt"] = True
        check_fields(RecipeConfig, raw, source="config.json", of_run=True)
        assert len([line for line in log if "model_args.use_masking_gt_as_prompt, of_another_version" in line]) == 1
        assert "of_another_version" not in raw
        assert "use_masking_gt_as_prompt" not in raw["model_args"]

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["--coqpit.export.dtype", "int4"], r"export\.dtype is 'int4', allowed: float32, float16, bfloat16, int8"),
            (
                ["--coqpit.export.keep_lst", "3"],
                r"keep_lst: no such option or field \(did you mean --coqpit\.export\.keep_last\?\)",
            ),
            (["--coqpit.epochs", "three"], r"argument --coqpit\.epochs: invalid int value: 'three'"),
            (["--grad_accum_steps", "8"], r"use --coqpit\.trainer_args\.grad_accum_steps"),
            (["--continue_path", "run"], "use --continue RUN"),
            (["--coqpit.lr", "0.1", "stray.json"], r"stray\.json: no such option or field; CONFIG\.json goes first"),
        ],
    )
    def test_a_mistake_on_the_command_line_is_refused_by_name(
        self, config_json: Callable[..., Path], overrides: list[str], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            train(config_json(), overrides=overrides)
        assert "\n" not in str(caught.value)

    def test_the_stock_config_has_only_known_fields_and_exports(self) -> None:
        from xtts_export_callback.training.recipe_config import check_fields
        from xtts_export_callback.training.trainer_config import RecipeConfig

        raw = json.loads(STOCK.read_text(encoding="utf-8"))
        check_fields(RecipeConfig, raw, source=STOCK)
        config = RecipeConfig()
        config.from_dict(raw)
        assert config.export.enabled
        assert config.batch_size * config.trainer_args.grad_accum_steps >= 252  # what the stock recipe recommends
