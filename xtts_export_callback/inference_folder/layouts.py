"""The folders that programs take: which files, under which names, and where they go.

Every fact comes from the code of the program, at the version named beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.xtts.companions import DVAE, MEL_STATS, SPEAKERS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

MODEL = ("config.json", "model.pth", "vocab.json")
GPT_WEIGHTS, CORE_WEIGHTS = "gpt/gpt2_model.safetensors", "core_xttsv2/xtts-v2.safetensors"


@dataclass(frozen=True)
class Layout:
    """What a program takes. In the names of files, ``{name}`` stands for the name of the folder.

    Attributes:
        name: Its name on the command line; empty for the plain inference folder.
        program: What the program is called.
        put: What to do with the folder, in a line; ``{path}``, ``{folder}`` and ``{name}`` stand for its path and the
            two parts of it.
        files: Files without which the program does not take it.
        companions: Which of `COMPANIONS` are written, where they can be found.
        clip: Name of the reference clip.
        latents: Name of the JSON file with the latents of the voice; empty where the program reads none.
        flat_latents: Whether the program stores latents without the dimensions of size 1.
        conditioning: Arguments of ``Xtts.get_conditioning_latents`` in the program; empty for those of the config.
        voice_entry: Name of a YAML file with the entry for the program's own list of voices; empty for none.
        is_archive: Whether the program takes a ZIP in place of a folder.
    """

    name: str
    program: str
    put: str = ""
    files: tuple[str, ...] = MODEL
    companions: tuple[str, ...] = (SPEAKERS, MEL_STATS)
    clip: str = "{name}.wav"
    latents: str = ""
    flat_latents: bool = False
    conditioning: Mapping[str, int] = field(default_factory=dict)
    voice_entry: str = ""
    is_archive: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the folder is the inference folder that Coqui loads, with other files beside it at most."""
        return "model.pth" in self.files

    @property
    def needs_clip(self) -> bool:
        """Whether the program does not take the folder without a reference clip."""
        return self.clip in self.files

    @property
    def lists_voices(self) -> bool:
        """Whether the program reads the latents of voices: as JSON, or from ``speakers_xtts.pth``."""
        return SPEAKERS in self.companions

    def place(self, path: Path) -> str:
        """Say what to do with what was written to a path."""
        return self.put.format(path=path, folder=path.parent, name=path.name)

    def missing(self, present: Collection[str], name: str) -> list[str]:
        """Return the files that the program needs and a folder of that name lacks."""
        needed = [file.format(name=name) for file in self.files]
        return [file for file in needed if file not in present]


PLAIN = Layout("", "Coqui", clip="reference.wav", latents="latents.json")
"""The inference folder of an export without a layout."""

_TABLE = (
    # system/tts_engines/xtts/model_engine.py of the branch alltalkbeta: scan_models_folder, _load_latents.
    Layout(
        "alltalk",
        "AllTalk",
        "AllTalk: put {path} into models/xtts/, a .wav in it into voices/ and a .json into voices/xtts_latents/",
        (*MODEL, SPEAKERS, MEL_STATS, DVAE),
        companions=(SPEAKERS, MEL_STATS, DVAE),
        latents="{name}.json",
    ),
    # src/auralis/models/xttsv2 at 0.2.8: XTTSv2Engine.from_pretrained, XTTSTokenizerFast, XttsGPT.load_weights.
    Layout(
        "auralis",
        "Auralis",
        'Auralis: TTS().from_pretrained("{path}/core_xttsv2", gpt_model="{path}/gpt")',
        (
            *(CORE_WEIGHTS, "core_xttsv2/config.json", GPT_WEIGHTS, "gpt/config.json"),
            *("gpt/tokenizer.json", "gpt/tokenizer_config.json", "gpt/special_tokens_map.json"),
        ),
        companions=(),
        clip="reference.wav",
    ),
    # lib/core.py: analyze_uploaded_file, extract_custom_model; lib/conf_models.py: "files" of XTTS.
    Layout(
        "ebook2audiobook",
        "ebook2audiobook",
        "ebook2audiobook: choose {path} as custom model; the program deletes the ZIP that it was given, so keep a copy",
        (*MODEL, "ref.wav"),
        companions=(),
        clip="ref.wav",
        is_archive=True,
    ),
    # RealtimeTTS/engines/coqui_engine.py: download_model, get_conditioning_latents.
    Layout(
        "realtimetts",
        "RealtimeTTS",
        'RealtimeTTS: CoquiEngine(specific_model="{name}", local_models_path="{folder}", voices_path="{path}", '
        'voice="{name}")',
        (*MODEL, SPEAKERS),
        latents="{name}.json",
        flat_latents=True,
        conditioning={"gpt_cond_len": 30, "max_ref_length": 60},
    ),
    # speech.py: xtts_wrapper; README.md: Custom Fine-Tuned Model Support.
    Layout(
        "openedai-speech",
        "openedai-speech",
        "openedai-speech: put {path} into voices/ and the entry in its voice_to_speaker.yaml into config/",
        (*MODEL, "sample.wav"),
        companions=(),
        clip="sample.wav",
        voice_entry="voice_to_speaker.yaml",
    ),
    # scripts/tts_funcs.py: load_local_model.
    Layout("xtts-webui", "xtts-webui", "xtts-webui: put {path} into models/ and a recording of the voice (.wav) into "
           "speakers/"),
    # xtts_demo.py: load_params_tts, load_model.
    Layout(
        "xtts-finetune-webui",
        "xtts-finetune-webui",
        "xtts-finetune-webui: put the files of {path} into ready/ of its output folder",
        (*MODEL, SPEAKERS, "reference.wav"),
        clip="reference.wav",
    ),
    # xtts_api_server/tts_funcs.py: load_local_model, get_models_list.
    Layout("xtts-api-server", "xtts-api-server", "xtts-api-server: put {path} into its folder of models (-mf) and a "
           "recording of the voice (.wav) into that of speakers (-sf)"),
)  # fmt: skip
LAYOUTS = {layout.name: layout for layout in _TABLE}
"""Every layout by its name on the command line."""

_RELEASE = "https://huggingface.co/coqui/XTTS-v2"
_REMEDIES = {
    SPEAKERS: f"put that of the base model ({_RELEASE}) beside the checkpoint, or export with --voice WAV",
    MEL_STATS: f"put that of the base model ({_RELEASE}) beside the checkpoint",
    DVAE: f"name a full checkpoint, which contains it, or put that of the base model ({_RELEASE}) beside this one",
}
_CLIP_REMEDY = "export with --voice WAV, a recording of 6 to 30 s of the voice"
_OTHER_REMEDY = "write the folder anew with --layout {layout}"


def layout_of(name: str | None) -> Layout:
    """Return a layout by its name, the plain one for none.

    Raises:
        ConfigError: For an unknown name.
    """
    if not name:
        return PLAIN
    if name not in LAYOUTS:
        msg = f"layout {name!r}: expected one of {', '.join(LAYOUTS)}"
        raise ConfigError(msg)
    return LAYOUTS[name]


def remedy(layout: Layout, file: str) -> str:
    """Say where to get a file that a layout needs."""
    if file == layout.clip:
        return _CLIP_REMEDY
    return _REMEDIES.get(file, _OTHER_REMEDY.format(layout=layout.name))
