"""Files as people pass them around: without a config or a vocabulary, alone in a folder, or not the file at all."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.files import LAYOUT, vocabulary
from tests.models.command_line import complaint
from tests.models.small_decoder import ARGS, TOKENS, real_decoder
from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import export_checkpoint, inspect_run, merge_checkpoints, verify_checkpoint
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.tensors.dtypes import BY_NAME
from xtts_export_callback.tensors.tensor import Tensor
from xtts_export_callback.xtts import release_config
from xtts_export_callback.xtts.release_config import config_from_shapes, spoken_languages

Capture = pytest.CaptureFixture[str]


def write_bare(path: Path, dtype: torch.dtype = torch.float32, *, tokens: int | None = TOKENS) -> Path:
    """Only ``{"model": ...}``, as webuis and scripts save it, with a vocabulary beside it or without."""
    model = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in small_state()["model"].items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model}, path)
    if tokens is not None:
        path.with_name("vocab.json").write_text(json.dumps(vocabulary(tokens)), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "named" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"model_args": ARGS, "languages": ["en"]}), encoding="utf-8")
    return path


@pytest.fixture
def release_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The release has 30 layers of 1024 channels, which are 1.9 GB; here it has those of the small model."""
    monkeypatch.setattr(release_config, "_SHAPE", {"gpt_layers": ARGS["gpt_layers"], "gpt_n_model_channels": 8})
    monkeypatch.setitem(release_config._CONFIG["model_args"], "gpt_n_heads", ARGS["gpt_n_heads"])


class TestConfigFromShapes:
    def test_the_release_s_shapes_give_the_release_s_config(self) -> None:
        with real_decoder():
            found = config_from_shapes(full_size_tensors())
        args = found["model_args"]
        assert (args["gpt_layers"], args["gpt_n_model_channels"], args["gpt_n_heads"]) == (30, 1024, 16)
        assert (args["gpt_num_audio_tokens"], args["gpt_start_audio_token"], args["gpt_stop_audio_token"]) == (
            1026,
            1024,
            1025,
        )
        assert (args["gpt_max_audio_tokens"], args["gpt_max_text_tokens"]) == (605, 402)

    @pytest.mark.integration
    def test_its_fields_are_those_that_coqui_knows(self) -> None:
        from TTS.tts.configs.xtts_config import XttsConfig

        known = XttsConfig().to_dict()
        with real_decoder():
            found = config_from_shapes(full_size_tensors())
        assert found.keys() <= known.keys()
        assert found["model_args"].keys() <= known["model_args"].keys()
        assert found["languages"] == known["languages"]
        assert found["audio"].items() <= known["audio"].items()

    def test_another_size_has_no_config(self, tmp_path: Path) -> None:
        with open_checkpoint(write_bare(tmp_path / "x.pth")) as checkpoint:
            tensors = {name.removeprefix("xtts."): tensor for name, tensor in checkpoint.tensors.items()}
            assert config_from_shapes(tensors) == {}

    def test_only_languages_with_a_token_are_spoken(self) -> None:
        config = {"languages": ["en", "de", "zh-cn"]}
        assert spoken_languages(config, {"[en]", "[zh-cn]", "a"})["languages"] == ["en", "zh-cn"]
        assert spoken_languages(config, {"a"})["languages"] == ["en", "de", "zh-cn"]

    @pytest.mark.usefixtures("release_is_small")
    def test_a_bare_file_is_exported_and_says_so_in_one_line(self, tmp_path: Path, capsys: Capture) -> None:
        path = write_bare(tmp_path / "best_model.pth")
        assert main(["export", str(path), "--output", str(tmp_path / "out")]) == 0
        (note,) = capsys.readouterr().out.splitlines()[1:]
        assert "config.json is the release's" in note
        assert verify_checkpoint(tmp_path / "out").faults == ()


def full_size_tensors() -> dict[str, Tensor]:
    shapes = json.loads(LAYOUT.read_text(encoding="utf-8"))["model"]
    return {
        name.removeprefix("xtts."): Tensor(None, BY_NAME[dtype], tuple(shape), (), 0)  # type: ignore[arg-type] # not read
        for name, (dtype, shape) in shapes.items()
        if name.startswith("xtts.")
    }


class TestWhatIsMissing:
    def test_config_and_vocabulary_are_asked_for_at_once(self, tmp_path: Path, capsys: Capture) -> None:
        line = complaint(capsys, "export", write_bare(tmp_path / "best_model.pth", tokens=None))
        assert "expected a config" in line
        assert f"expected a vocab.json of {TOKENS} tokens" in line
        assert "--config" in line
        assert "--vocab" in line
        assert "an export of the run that trained it holds both" in line

    def test_a_vocabulary_of_the_release_is_said_to_be_found_there(self) -> None:
        assert release_config.where_to_get(6153).endswith("coqui/XTTS-v2/tree/v2.0.2")
        assert "http" not in release_config.where_to_get(6154)

    def test_a_vocabulary_of_the_same_size_elsewhere_is_not_taken(self, tmp_path: Path, config: Path) -> None:
        path = write_bare(tmp_path / "deep" / "er" / "model.pth", tokens=None)
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary(TOKENS)), encoding="utf-8")
        with pytest.raises(ConfigError, match=r"expected a vocab\.json of 6 tokens, found none"):
            export_checkpoint(path, config=config)

    def test_merge_takes_a_config_and_a_vocabulary(self, tmp_path: Path, config: Path, capsys: Capture) -> None:
        a, b = (write_bare(tmp_path / name / f"{name}.pth", tokens=None) for name in ("a", "b"))
        vocab = tmp_path / "v.json"
        vocab.write_text(json.dumps(vocabulary(TOKENS)), encoding="utf-8")
        named = ["--config", str(config), "--vocab-file", str(vocab)]
        assert main(["merge", str(a), str(b), "--output", str(tmp_path / "out"), *named]) == 0
        assert json.loads((tmp_path / "out" / "config.json").read_bytes())["languages"] == ["en"]
        capsys.readouterr()
        (tmp_path / "r.yaml").write_text(f"models: [{a}, {b}]", encoding="utf-8")
        assert "write config into the recipe" in complaint(capsys, "merge", tmp_path / "r.yaml", "--config", config)


class TestTheOnlyFileOfAFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write_small(tmp_path / "voice" / "best_model.pth").parent

    def test_it_is_exported_inspected_and_verified(self, folder: Path, capsys: Capture) -> None:
        for command in ("inspect", "verify", "export", "inspect", "verify"):
            assert main([command, str(folder)]) == 0
        printed = capsys.readouterr().out
        assert "training checkpoint" in printed
        assert "move it out" not in printed
        assert (folder / "inference" / "best_model" / "model.pth").is_file()

    def test_voices_and_statistics_beside_it_are_not_taken_for_models(self, folder: Path) -> None:
        for name in ("speakers_xtts.pth", "mel_stats.pth", "dvae.pth"):
            torch.save({}, folder / name)
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.path.name == "best_model.pth"

    def test_of_two_files_none_is_guessed(self, folder: Path, capsys: Capture) -> None:
        write_bare(folder / "other.pth")
        line = complaint(capsys, "export", folder)
        assert "found best_model.pth, other.pth; name the file itself" in line

    def test_a_run_stays_a_run(self, folder: Path) -> None:
        write_small(folder / "checkpoint_1000.pth")
        assert [saved.name for saved in inspect_run(folder).checkpoints] == ["checkpoint_1000"]


class TestDownloadsThatAreSomethingElse:
    PAGE = b"<!DOCTYPE html>\n<html><head><title>model.pth</title></head></html>"
    POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 1867929118\n"

    @pytest.mark.parametrize(("content", "named"), [(PAGE, "is a web page"), (POINTER, "file of 1,867,929,118 bytes")])
    @pytest.mark.parametrize("command", ["export", "inspect"])
    def test_they_are_named(self, tmp_path: Path, capsys: Capture, command: str, content: bytes, named: str) -> None:
        (tmp_path / "model.pth").write_bytes(content)
        assert named in complaint(capsys, command, tmp_path / "model.pth")

    def test_verify_names_them_as_a_fault(self, tmp_path: Path) -> None:
        (tmp_path / "model.pth").write_bytes(self.PAGE)
        (fault,) = verify_checkpoint(tmp_path / "model.pth").faults
        assert "is a web page" in fault.message

    def test_a_vocabulary_too(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "v.json").write_bytes(self.PAGE)
        checkpoint = write_small(tmp_path / "checkpoint_1.pth")
        line = complaint(capsys, "export", checkpoint, "--vocab", tmp_path / "v.json")
        assert "is a web page" in line


class TestAnExportThatExists:
    @pytest.fixture
    def checkpoint(self, tmp_path: Path) -> Path:
        path = write_small(tmp_path / "checkpoint_1000.pth")
        export_checkpoint(path, tmp_path / "out")
        return path

    @pytest.mark.parametrize("kind", ["config", "vocab"])
    def test_another_config_or_vocabulary_is_another_export(self, checkpoint: Path, tmp_path: Path, kind: str) -> None:
        named: dict[str, Any] = {kind: tmp_path / "out" / f"{'config' if kind == 'config' else 'vocab'}.json"}
        assert not export_checkpoint(checkpoint, tmp_path / "out", **named).written

        other = tmp_path / "other.json"
        content = json.loads(named[kind].read_bytes())
        if kind == "config":
            content["temperature"] = 0.123
        else:
            content["model"]["vocab"]["word"] = content["model"]["vocab"].pop(list(content["model"]["vocab"])[-1])
        other.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(
            OutputExistsError, match=rf"has another {kind}\.json than the one named; replace it with --force"
        ):
            export_checkpoint(checkpoint, tmp_path / "out", **{kind: other})
        assert export_checkpoint(checkpoint, tmp_path / "out", **{kind: other}, force=True).written

    def test_a_wrong_one_is_refused_also_then(self, checkpoint: Path, tmp_path: Path) -> None:
        (tmp_path / "wrong.json").write_text(json.dumps(vocabulary(TOKENS + 1)), encoding="utf-8")
        with pytest.raises(ConfigError, match=r"expected a vocab\.json of 6 tokens"):
            export_checkpoint(checkpoint, tmp_path / "out", vocab=tmp_path / "wrong.json")

    def test_a_folder_of_others_is_not_said_to_be_replaceable(self, checkpoint: Path, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("keep", encoding="utf-8")
        with pytest.raises(OutputExistsError, match="name another --output"):
            export_checkpoint(checkpoint, tmp_path / "mine")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_unless_another_type_is_asked_for(
    tmp_path: Path, config: Path, dtype: torch.dtype
) -> None:
    path = write_bare(tmp_path / "half.pth", dtype)
    name = str(dtype).removeprefix("torch.")
    kept = export_checkpoint(path, tmp_path / "kept", config=config)
    wide = export_checkpoint(path, tmp_path / "wide", config=config, dtype="float32")

    assert (kept.provenance["dtype"], wide.provenance["dtype"]) == (name, "float32")
    before, after = torch.load(path)["model"], torch.load(tmp_path / "kept" / "model.pth")["model"]
    assert all(torch.equal(before[f"xtts.{name}"], tensor) for name, tensor in after.items())
    assert not export_checkpoint(path, tmp_path / "kept", config=config).written


def test_a_merge_of_bare_files_names_both_that_are_missing(tmp_path: Path) -> None:
    paths = [str(write_bare(tmp_path / name, tokens=None)) for name in ("a.pth", "b.pth")]
    with pytest.raises(ConfigError, match=r"expected a config.*expected a vocab\.json"):
        merge_checkpoints({"models": paths}, tmp_path / "out")


def test_of_two_exports_of_one_checkpoint_at_once_one_writes_and_the_other_skips(tmp_path: Path) -> None:
    path = write_small(tmp_path / "checkpoint_1000.pth")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: export_checkpoint(path, tmp_path / "out"), range(4)))
    assert [result.written for result in results].count(True) == 1
    assert verify_checkpoint(tmp_path / "out").faults == ()


def test_the_only_file_of_a_folder_needs_no_vocabulary_to_be_whole(tmp_path: Path) -> None:
    write_bare(tmp_path / "voice" / "best_model.pth", tokens=None)
    assert verify_checkpoint(tmp_path / "voice").faults == ()
