"""What is packed with a voice speaks with it in the program that it is for."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models.programs import ACCEPTS, alltalk_latents, realtimetts_latents
from tests.models.trainings import speak
from tests.test_extras import WITHOUT
from xtts_export_callback import average_checkpoints, export_checkpoint, load_xtts
from xtts_export_callback.demo.tiny_model import TinyAssets
from xtts_export_callback.inference_folder.layouts import LAYOUTS

pytestmark = pytest.mark.integration


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    """Where a test packs to; 0.3 MB stay."""
    yield tmp_path / "program" / "voices" / "mine"
    shutil.rmtree(tmp_path / "program", ignore_errors=True)


def loaded(folder: Path) -> Any:
    """The model as each of these programs loads it."""
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    config = XttsConfig()
    config.load_json(str(folder / "config.json"))
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=str(folder), eval=True)
    return model


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"auralis"}))
def test_a_packed_model_is_accepted_loads_and_speaks(
    checkpoint: Path, tiny_assets: TinyAssets, output: Path, layout: str
) -> None:
    packed = output.with_suffix(".zip") if LAYOUTS[layout].is_archive else output
    export_checkpoint(checkpoint, packed, layout=layout, voice=tiny_assets.speaker_wav)

    assert ACCEPTS[layout](packed)
    if packed != output:
        with zipfile.ZipFile(packed) as opened:
            opened.extractall(output)
    clip = output / LAYOUTS[layout].clip.format(name="mine")
    model = loaded(output)
    assert len(speak(model, "in the thing", clip)) > 0
    if LAYOUTS[layout].lists_voices:
        assert list(model.speaker_manager.speakers) == ["mine"]


def official(checkpoint: Path, slim: Path, folder: Path) -> Path:
    """The layout of the release: no prefix, its config as a pickled ``XttsConfig``, every file beside the weights."""
    import torch
    from TTS.tts.configs.xtts_config import XttsConfig

    config = XttsConfig()
    config.load_json(str(slim / "config.json"))
    state = torch.load(checkpoint, weights_only=True)["model"]
    model, dvae = (
        {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        for prefix in ("xtts.", "dvae.")
    )
    latents = {"gpt_cond_latent": torch.ones(1, 32, 64), "speaker_embedding": torch.ones(1, 512, 1)}
    folder.mkdir()
    torch.save({"config": config, "model": model}, folder / "model.pth")
    torch.save(dvae, folder / "dvae.pth")
    torch.save(model["mel_stats"].clone(), folder / "mel_stats.pth")
    torch.save({"Ana Florence": latents}, folder / "speakers_xtts.pth")
    for name in ("config.json", "vocab.json"):
        shutil.copy(slim / name, folder)
    return folder


def test_the_fields_of_a_finetune_page_are_filled_in_from_every_source(
    checkpoint: Path, tiny_assets: TinyAssets, output: Path
) -> None:
    voice, slim = tiny_assets.speaker_wav, export_checkpoint(checkpoint, output.with_name("slim")).path
    bare = shutil.copytree(slim, output.with_name("bare")) / "best_model.pth"
    (bare.parent / "model.pth").rename(bare)
    release = official(checkpoint, slim, output.with_name("release"))
    packed = [
        export_checkpoint(slim, output.with_name("a"), layout="xtts-finetune-webui", voice=voice),
        export_checkpoint(bare, output.with_name("b"), layout="xtts-finetune-webui", voice=voice),
        average_checkpoints([slim, checkpoint], output.with_name("c"), layout="xtts-finetune-webui", voice=voice),
        export_checkpoint(release, output.with_name("d"), layout="xtts-finetune-webui", voice=voice),
    ]
    assert all(ACCEPTS["xtts-finetune-webui"](each.path) for each in packed)


class TestLatents:
    @pytest.mark.parametrize("layout", ["", "alltalk", "realtimetts"])
    def test_they_are_those_of_the_packed_weights(
        self, checkpoint: Path, tiny_assets: TinyAssets, output: Path, layout: str
    ) -> None:
        import torch

        folder = export_checkpoint(checkpoint, output, layout=layout, voice=tiny_assets.speaker_wav).path
        model = load_xtts(folder)
        chosen = dict(LAYOUTS[layout].conditioning) if layout else {}
        config = model.config
        given = chosen or {
            "max_ref_length": config.max_ref_len,
            "gpt_cond_len": config.gpt_cond_len,
            "gpt_cond_chunk_len": config.gpt_cond_chunk_len,
            "sound_norm_refs": config.sound_norm_refs,
        }
        expected = model.get_conditioning_latents(audio_path=[str(tiny_assets.speaker_wav)], **given)
        width = config.model_args.gpt_n_model_channels
        found = (
            realtimetts_latents(folder / "mine.json", width)
            if layout == "realtimetts"
            else alltalk_latents(folder / ("mine.json" if layout else "latents.json"))
        )
        assert [list(each.shape) for each in found] == [[1, expected[0].shape[1], width], [1, 512, 1]]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2**-11, atol=2**-14)
        voices = torch.load(folder / "speakers_xtts.pth", weights_only=True)
        assert list(voices["mine"]) == ["gpt_cond_latent", "speaker_embedding"]

    def test_the_voices_of_the_base_model_stay_beside_the_new_one(
        self, checkpoint: Path, tiny_assets: TinyAssets, output: Path
    ) -> None:
        import torch

        slim = export_checkpoint(checkpoint, output.with_name("release")).path
        latents = {"gpt_cond_latent": torch.ones(1, 4, 64), "speaker_embedding": torch.ones(1, 512, 1)}
        torch.save({"Ana Florence": latents}, slim / "speakers_xtts.pth")
        folder = export_checkpoint(slim, output, layout="realtimetts", voice=tiny_assets.speaker_wav).path

        assert list(torch.load(folder / "speakers_xtts.pth", weights_only=True)) == ["mine", "Ana Florence"]

    @pytest.mark.parametrize("layout", ["", "realtimetts"])
    def test_without_torch_the_rest_is_written_and_the_extra_named(
        self, checkpoint: Path, tiny_assets: TinyAssets, output: Path, layout: str
    ) -> None:
        code = f"{WITHOUT}\nfrom xtts_export_callback.cli.main import main; sys.exit(main())"
        options = ["--voice", tiny_assets.speaker_wav, "--output", output, *(["--layout", layout] if layout else [])]
        command = [sys.executable, "-c", code, "export", checkpoint, *options]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)

        assert 'pip install "xtts-export-callback[train]"' in done.stdout + done.stderr
        if layout:  # without speakers_xtts.pth it would be no folder for this program
            assert (done.returncode, output.exists()) == (2, False)
        else:
            assert (output / "reference.wav").is_file()
            assert not (output / "latents.json").exists()
