"""From every kind of inference folder to a model that speaks, and a clear word where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models.trainings import close_trainer_logs, make_trainer, speak
from xtts_export_callback import export_checkpoint, load_xtts
from xtts_export_callback.demo.tiny_model import TinyAssets, tiny_trainer_config
from xtts_export_callback.errors import CheckpointError


@pytest.fixture(scope="module")
def checkpoint(tiny_assets: TinyAssets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A full checkpoint of the tiny model, as the Trainer saves it."""
    trainer = make_trainer(tiny_trainer_config(tiny_assets, tmp_path_factory.mktemp("run")))
    trainer.save_checkpoint()
    close_trainer_logs()
    yield Path(trainer.output_path) / "checkpoint_0.pth"
    shutil.rmtree(trainer.output_path)


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Iterator[Path]:
    """Its inference folder, for a test to damage."""
    yield export_checkpoint(checkpoint, tmp_path / "model").path
    shutil.rmtree(tmp_path / "model", ignore_errors=True)


def state_of(model: Any) -> dict[str, Any]:
    """The tensors of a loaded model, without what ``init_gpt_for_inference`` adds for synthesis."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(("gpt.gpt_inference.", "gpt.gpt.wte."))
    }


@pytest.mark.integration
class TestLoading:
    @pytest.mark.parametrize("file_format", ["pth", "safetensors"])
    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_every_tensor_is_the_checkpoint_rounded_to_the_exported_type(
        self, checkpoint: Path, tmp_path: Path, dtype: str, file_format: str
    ) -> None:
        import torch

        folder = export_checkpoint(checkpoint, tmp_path / "model", dtype=dtype, format=file_format).path
        loaded = state_of(load_xtts(folder))
        trained = torch.load(str(checkpoint), weights_only=True, mmap=True)["model"]
        expected = {name.removeprefix("xtts."): tensor for name, tensor in trained.items() if name.startswith("xtts.")}
        assert sorted(loaded) == sorted(expected)
        for name, tensor in expected.items():
            rounded = tensor.to(getattr(torch, dtype)).to(tensor.dtype) if tensor.is_floating_point() else tensor
            assert torch.equal(loaded[name], rounded), name
        shutil.rmtree(folder)

    def test_the_model_speaks(self, folder: Path, tiny_assets: TinyAssets) -> None:
        import numpy as np

        model = load_xtts(str(folder))
        wav = speak(model, "we sing.", tiny_assets.speaker_wav)
        assert len(wav) > 1000
        assert np.isfinite(wav).all()

    def test_the_model_is_the_one_that_the_stock_loader_makes(self, folder: Path, tiny_assets: TinyAssets) -> None:
        import torch
        from TTS.tts.configs.xtts_config import XttsConfig
        from TTS.tts.models.xtts import Xtts

        config = XttsConfig()
        config.load_json(folder / "config.json")
        stock = Xtts(config)
        stock.load_checkpoint(config, checkpoint_dir=folder)
        model = load_xtts(folder)

        for kind in ("named_parameters", "named_buffers"):
            found, expected = dict(getattr(model, kind)()), dict(getattr(stock, kind)())
            assert list(found) == list(expected)
            for name, tensor in expected.items():
                same = (found[name].dtype, found[name].requires_grad, found[name].stride())
                assert same == (tensor.dtype, tensor.requires_grad, tensor.stride()), name
                assert torch.equal(found[name], tensor), name
        assert {n: m.training for n, m in model.named_modules()} == {n: m.training for n, m in stock.named_modules()}
        assert set(vars(model)) == set(vars(stock))

        def say(speaker: Any) -> Any:
            torch.manual_seed(1)
            return speak(speaker, "we sing.", tiny_assets.speaker_wav)

        assert (say(model) == say(stock)).all()

    def test_what_is_done_to_the_model_does_not_reach_the_file(self, folder: Path) -> None:
        import torch

        before = (folder / "model.pth").read_bytes()
        with torch.no_grad():
            for parameter in load_xtts(folder).parameters():
                parameter.add_(1.0)
        assert (folder / "model.pth").read_bytes() == before

    def test_loading_changes_no_file(self, folder: Path) -> None:
        before = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}
        load_xtts(folder)
        assert {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()} == before

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"gpt_layers": 3}, r"its files cannot be loaded as a model: .*Missing key.*gpt\.gpt\.h\.2\."),
            ({"gpt_layers": 1}, r"Unexpected key.*gpt\.gpt\.h\.1\."),
            ({"decoder_input_dim": 32}, "size mismatch for hifigan_decoder"),
        ],
    )
    def test_weights_of_another_model_than_the_config_describes_are_refused(
        self, folder: Path, fields: dict[str, int], message: str
    ) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["model_args"].update(fields)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(CheckpointError, match=message) as caught:
            load_xtts(folder)
        assert "\n" not in str(caught.value)
        assert "gpt_inference" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("model.pth", b"", r"model\.pth: cannot be read as an inference model"),
            ("model.pth", b"PK\x03\x04 cut off", r"model\.pth: cannot be read as an inference model"),
            ("config.json", b"{", r"config\.json: is not the config of an XTTS model"),
            ("vocab.json", b"{}", "its files cannot be loaded as a model"),
        ],
    )
    def test_a_damaged_file_is_named(self, folder: Path, name: str, content: bytes, message: str) -> None:
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load_xtts(folder)

    def test_a_file_with_code_in_it_is_not_run(self, folder: Path) -> None:
        import torch

        torch.save({"model": {}, "config": Trap()}, folder / "model.pth")
        with pytest.raises(CheckpointError, match=r"more than tensors and plain values; .*xtts-export export"):
            load_xtts(folder)


class Trap:
    """Fails the test when a file that holds it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("code from the file was run",)


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ((), r"has no model\.pth or model\.safetensors, no config\.json, no vocab\.json"),
        (("model.pth", "config.json"), r"has no vocab\.json$"),
        (("model.safetensors", "vocab.json"), r"has no config\.json$"),
    ],
)
def test_missing_files_are_named_all_at_once(tmp_path: Path, present: tuple[str, ...], message: str) -> None:
    for name in present:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=message):
        load_xtts(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: the folder does not exist"):
        load_xtts(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.pth").touch()
    with pytest.raises(CheckpointError, match=r"model\.pth: is a file, expected the folder it lies in"):
        load_xtts(tmp_path / "model.pth")
