"""From every kind of inference folder to a model that speaks, and a clear word where there is none."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.models.trainings import speak, speak_briefly
from xtts_export_callback import export_checkpoint, load_xtts
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.demo.tiny_model import TinyAssets, tiny_trainer_config
from xtts_export_callback.errors import CheckpointError, ConfigError


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
        loaded = state_of(load_xtts(folder, compute="float32"))
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
            ("model.pth", b"", r"model\.pth: not a checkpoint"),
            ("model.pth", b"PK\x03\x04 cut off", r"model\.pth: truncated"),
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

        torch.save({"model": {"weight": torch.ones(1)}, "config": Trap()}, folder / "model.pth")
        with pytest.raises(CheckpointError, match=r"more than tensors and plain values; .*xtts-export export"):
            load_xtts(folder)


def exchanged(model: Any) -> set[str]:
    """Kinds of layers that stand in place of the model's own."""
    from xtts_export_callback.inference_folder import compute

    kinds = (compute.Float16Linear, compute.Int8Linear, compute.HalfLinear)
    return {type(module).__name__ for module in model.modules() if isinstance(module, kinds)}


def operators_are_there(kind: str) -> bool:
    from xtts_export_callback.inference_folder.compute import missing_operators

    return not missing_operators(kind)


LAYERS = {"float32": set(), "bfloat16": set(), "float16": {"Float16Linear"}, "int8": {"Int8Linear", "Float16Linear"}}
"""By the type of a folder; the head for text stays in float16."""


@pytest.mark.integration
class TestComputing:
    @pytest.fixture(scope="class")
    def folders(self, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
        """The model in every type, in either format."""
        base = tmp_path_factory.mktemp("types")
        formats = {"float32": "pth", "float16": "safetensors", "bfloat16": "pth", "int8": "safetensors"}
        yield {
            dtype: export_checkpoint(checkpoint, base / dtype, dtype=dtype, format=its).path
            for dtype, its in formats.items()
        }
        shutil.rmtree(base)

    @pytest.mark.parametrize("dtype", LAYERS)
    def test_by_default_a_model_computes_with_what_its_folder_holds(
        self, folders: dict[str, Path], tiny_assets: TinyAssets, dtype: str
    ) -> None:
        import numpy as np

        if dtype in {"float16", "int8"} and not operators_are_there(dtype):
            pytest.skip("this torch has no operators for it")
        model = load_xtts(folders[dtype])
        assert exchanged(model) == LAYERS[dtype]
        wav = speak_briefly(model, tiny_assets.speaker_wav)
        assert len(wav) > 1000
        assert np.isfinite(wav).all()

    @pytest.mark.parametrize(("how", "bound"), [("float16", 0.001), ("int8", 0.05)])
    @pytest.mark.parametrize("dtype", ["float32", "int8"])
    def test_every_folder_computes_in_the_type_that_is_asked_for_near_to_its_float32(
        self, folders: dict[str, Path], dtype: str, how: str, bound: float
    ) -> None:
        import torch

        if not operators_are_there(how):
            pytest.skip("this torch has no operators for it")
        reference, model = load_xtts(folders[dtype], compute="float32"), load_xtts(folders[dtype], compute=how)
        assert exchanged(reference) == set()
        assert exchanged(model) == LAYERS[how]
        inputs = torch.randn(1, 12, model.args.gpt_n_model_channels, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            found, expected = (each.gpt.gpt(inputs_embeds=inputs).last_hidden_state for each in (model, reference))
        assert 0 < float((found - expected).norm() / expected.norm()) < bound

    def test_an_int8_folder_in_float32_holds_its_dequantized_weights(self, folders: dict[str, Path]) -> None:
        import numpy as np

        loaded = state_of(load_xtts(folders["int8"], compute="float32"))
        with open_checkpoint(folders["int8"]) as stored:
            assert sorted(loaded) == sorted(stored.tensors)
            for name, tensor in stored.tensors.items():
                assert np.array_equal(loaded[name].numpy(), tensor.read()), name

    @pytest.mark.parametrize("how", ["float16", "int8"])
    def test_voices_are_computed_and_speech_is_streamed(
        self, folders: dict[str, Path], tiny_assets: TinyAssets, how: str
    ) -> None:
        import torch

        model = load_xtts(folders["float32"], compute=how)
        latent, voice = model.get_conditioning_latents(audio_path=[str(tiny_assets.speaker_wav)])
        assert torch.isfinite(latent).all()
        torch.manual_seed(1)
        stream = model.inference_stream("we sing.", "en", latent, voice, stream_chunk_size=5)
        pieces = list(islice(stream, 2))  # each chunk takes the vocoder over all that came before
        assert sum(len(piece) for piece in pieces) > 1000
        assert all(torch.isfinite(piece).all() for piece in pieces)

    @pytest.mark.parametrize("dtype", ["float16", "int8"])
    def test_without_the_operators_it_warns_once_and_computes_in_float32(
        self, folders: dict[str, Path], tiny_assets: TinyAssets, monkeypatch: pytest.MonkeyPatch, dtype: str
    ) -> None:
        import torch

        monkeypatch.setattr(torch.ops, "quantized", SimpleNamespace())
        with pytest.warns(UserWarning, match=f"computes in float32, as {dtype} does not work here") as caught:
            model = load_xtts(folders[dtype])
        ours = [str(one.message) for one in caught if "load_xtts" in str(one.message)]
        assert len(ours) == 1
        assert "\n" not in ours[0]
        assert exchanged(model) == set()
        assert len(speak_briefly(model, tiny_assets.speaker_wav)) > 1000

    @pytest.mark.parametrize("how", ["float16", "int8"])
    def test_weights_of_another_model_are_refused_in_every_type(
        self, folders: dict[str, Path], tmp_path: Path, how: str
    ) -> None:
        folder = shutil.copytree(folders["int8"], tmp_path / "model")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["model_args"]["gpt_layers"] = 3
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"its files cannot be loaded as a model: .*gpt\.gpt\.h\.2\."):
            load_xtts(folder, compute=how)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_the_stock_loader_takes_half_precision(
        self, checkpoint: Path, tmp_path: Path, tiny_assets: TinyAssets, dtype: str
    ) -> None:
        folder = export_checkpoint(checkpoint, tmp_path / "model", dtype=dtype).path
        assert len(speak_briefly(stock_model(folder, folder / "model.pth"), tiny_assets.speaker_wav)) > 1000
        shutil.rmtree(folder)

    @pytest.mark.parametrize("file_format", ["pth", "safetensors"])
    def test_the_stock_loader_fails_on_int8(self, checkpoint: Path, tmp_path: Path, file_format: str) -> None:
        folder = export_checkpoint(checkpoint, tmp_path / "model", dtype="int8", format=file_format).path
        with pytest.raises((KeyError, pickle.UnpicklingError, RuntimeError)):
            stock_model(folder, folder / f"model.{file_format}")

    @pytest.mark.parametrize("file_format", ["pth", "safetensors"])
    def test_a_fine_tune_does_not_start_from_int8(
        self, checkpoint: Path, tmp_path: Path, tiny_assets: TinyAssets, file_format: str
    ) -> None:
        from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

        folder = export_checkpoint(checkpoint, tmp_path / "model", dtype="int8", format=file_format).path
        config = tiny_trainer_config(tiny_assets, tmp_path / "run")
        config.model_args.xtts_checkpoint = str(folder / f"model.{file_format}")
        with pytest.raises((KeyError, pickle.UnpicklingError, RuntimeError)):
            GPTTrainer(config)


def stock_model(folder: Path, weights: Path) -> Any:
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    config = XttsConfig()
    config.load_json(folder / "config.json")
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=folder, checkpoint_path=weights, eval=True)
    return model


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


def test_an_unknown_type_to_compute_with_is_refused(tmp_path: Path) -> None:
    for name in ("model.pth", "config.json", "vocab.json"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="compute 'int4': expected one of float32, float16, int8"):
        load_xtts(tmp_path, compute="int4")
