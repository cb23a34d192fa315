"""What each program asks of a folder before it takes a model, rebuilt from the rules in its code.

`inference_folder.layouts` names the function of each program that these rules were read in.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open


def alltalk(folder: Path) -> bool:
    """All six files exist; one folder without one of them hides the models that were found before it."""
    names = ("config.json", "model.pth", "mel_stats.pth", "speakers_xtts.pth", "vocab.json", "dvae.pth")
    return all((folder / name).exists() for name in names)


def ebook2audiobook(archive: Path) -> bool:
    """A ZIP whose members have these base names, none of them empty."""
    with zipfile.ZipFile(archive) as opened:
        entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    sizes = {entry.filename.rpartition("/")[2]: entry.file_size for entry in entries}
    return all(sizes.get(name) for name in ("config.json", "model.pth", "vocab.json", "ref.wav"))


def realtimetts(folder: Path) -> bool:
    """Nothing is left to download, which for a model of one's own has no address."""
    return all((folder / name).exists() for name in ("config.json", "model.pth", "vocab.json", "speakers_xtts.pth"))


def openedai_speech(folder: Path) -> bool:
    """The entry that goes into the list of voices has its three keys, and they lead to the model and to the clip."""
    import yaml

    entries = yaml.safe_load((folder / "voice_to_speaker.yaml").read_text("utf-8"))["tts-1-hd"]
    (entry,) = entries.values()
    program = folder.parent.parent  # the folder was put into voices/
    model = program / entry["model_path"]
    is_there = (program / entry["speaker"]).is_file()
    return bool(entry["model"]) and is_there and all((model / name).is_file() for name in _COQUI)


def finetune_webui(folder: Path) -> bool:
    """All fields of its last page are filled in from the folder."""
    return all((folder / name).is_file() for name in (*_COQUI, "speakers_xtts.pth", "reference.wav"))


def coqui(folder: Path) -> bool:
    """What `Xtts.load_checkpoint` opens."""
    return all((folder / name).is_file() for name in _COQUI)


_COQUI = ("config.json", "model.pth", "vocab.json")


def auralis(folder: Path) -> bool:
    """The core loads strictly, no parameter of the GPT stays without a weight, and the configs agree with both."""
    core_config: dict[str, Any] = json.loads((folder / "core_xttsv2/config.json").read_bytes())
    config: dict[str, Any] = json.loads((folder / "gpt/config.json").read_bytes())
    core, gpt = (_shapes(folder / name) for name in ("core_xttsv2/xtts-v2.safetensors", "gpt/gpt2_model.safetensors"))
    blocks = {name.split(".")[2] for name in gpt if name.startswith("gpt.h.")}
    own = ("mel_stats", "conditioning_encoder", "conditioning_perceiver", "text_embedding", "text_pos_embedding",
           "text_head", "final_norm", "hifigan_decoder")  # fmt: skip
    parts = {"gpt.h", "gpt.ln_f", "gpt.wte", "gpt.wpe", "mel_head.weight", "mel_head.bias", "final_norm.weight",
             "final_norm.bias"}  # fmt: skip
    return (
        (core_config["model_type"], config["model_type"]) == ("xtts", "xtts_gpt")
        and config["auto_map"]["AutoConfig"].endswith("gpt_config.XTTSGPTConfig")
        and core_config["gpt_config"] == config
        and {name.split(".")[0] for name in core} == set(own)
        and {".".join(name.split(".")[:2]) for name in gpt} == parts
        and len(blocks) == config["num_hidden_layers"]
        and core["text_embedding.weight"] == [config["number_text_tokens"], config["hidden_size"]]
        and core["text_pos_embedding.emb.weight"][0] == config["max_text_tokens"] + 2
        and gpt["gpt.wte.weight"][0] == gpt["mel_head.weight"][0] == config["num_audio_tokens"]
        and gpt["gpt.wpe.emb.weight"][0] == config["max_audio_tokens"] + 3
        and config["stop_audio_token"] == config["num_audio_tokens"] - 1
        and all((folder / "gpt" / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    )


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping


ACCEPTS: dict[str, Callable[[Path], bool]] = {
    "alltalk": alltalk,
    "auralis": auralis,
    "ebook2audiobook": ebook2audiobook,
    "realtimetts": realtimetts,
    "openedai-speech": openedai_speech,
    "xtts-webui": coqui,
    "xtts-finetune-webui": finetune_webui,
    "xtts-api-server": coqui,
}
"""The check of each program by the name of its layout."""


def alltalk_latents(path: Path) -> list[Any]:
    """Read a voice as ``_load_latents`` does, which reshapes nothing."""
    import torch

    found = json.loads(path.read_bytes())
    return [torch.tensor(found[key]) for key in ("gpt_cond_latent", "speaker_embedding")]


def realtimetts_latents(path: Path, channels: int) -> list[Any]:
    """Read a voice as its worker does, whose models have 1024 channels."""
    import torch

    found = json.loads(path.read_bytes())
    speaker = torch.tensor(found["speaker_embedding"]).unsqueeze(0).unsqueeze(-1)
    return [torch.tensor(found["gpt_cond_latent"]).reshape((-1, channels)).unsqueeze(0), speaker]
