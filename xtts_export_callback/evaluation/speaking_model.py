"""Build one ``Xtts`` for all candidates, whose weights are then swapped."""

from __future__ import annotations

import inspect
import json
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from xtts_export_callback.checkpoint.reader import open_checkpoint
from xtts_export_callback.errors import CheckpointError, ConfigError
from xtts_export_callback.evaluation.candidates import swap_weights
from xtts_export_callback.inference_folder.load import without_random_values
from xtts_export_callback.quiet import quiet
from xtts_export_callback.xtts.assets import find_assets
from xtts_export_callback.xtts.companions import SPEAKERS, write_companion
from xtts_export_callback.xtts.state_dict import inference_model

if TYPE_CHECKING:
    from TTS.tts.models.xtts import Xtts


def check_generation() -> None:
    """Compare what the model takes with what transformers hands it, code by code, before anything is loaded.

    transformers 5.24 renames ``past_key_values`` to ``cache`` in ``generate``. The model of coqui-tts up to 0.28.0
    passes over arguments of other names, and the second code ends in an AttributeError.

    Raises:
        ConfigError: If models cannot speak with the installed versions, with the remedy.
    """
    with quiet():
        from transformers import GenerationMixin
        from TTS.tts.layers.xtts.gpt_inference import GPT2InferenceModel
    given, taken = (
        inspect.signature(method).parameters
        for method in (GenerationMixin.prepare_inputs_for_generation, GPT2InferenceModel.forward)
    )
    if "cache" in given and "cache" not in taken:
        msg = (
            f"Coqui's XTTS cannot speak with transformers {version('transformers')}, which has renamed an argument; "
            'install an older one: pip install "transformers<5.24"'
        )
        raise ConfigError(msg)


def speaking_model(path: Path, device: str = "cpu") -> Xtts:
    """Build the model that a file describes, with its weights, ready to speak.

    Unlike `load_xtts`, it takes every kind of file, full checkpoints too, and its weights are the model's own: they may
    be overwritten.

    Args:
        path: Checkpoint, inference folder or file of weights, of any type.
        device: Such as ``"cuda"``.

    Returns:
        The model in evaluation mode, with the voices of the ``speakers_xtts.pth`` beside the file, if there is one.

    Raises:
        CheckpointError: When the file is damaged or not an XTTS model.
        ConfigError: When there is no config or no vocabulary that fits.
    """
    with quiet(), TemporaryDirectory(prefix="xtts-export-") as temporary:
        from TTS.tts.configs.xtts_config import XttsConfig
        from TTS.tts.models.xtts import Xtts

        folder = Path(temporary)
        with open_checkpoint(path) as checkpoint:
            assets = find_assets(checkpoint, inference_model(checkpoint).tensors)
        (folder / "config.json").write_text(json.dumps(assets.config), encoding="utf-8")
        (folder / "vocab.json").write_bytes(assets.vocab)
        write_companion(folder / SPEAKERS, assets.companions.get(SPEAKERS, []), mode=0o600)
        config = XttsConfig()
        try:
            config.load_json(folder / "config.json")
            with without_random_values():
                model = Xtts(config)
                # Everything that Xtts.load_checkpoint does, but for the weights.
                model.get_compatible_checkpoint_state_dict = lambda _: {}
                model.load_state_dict = lambda *_, **__: None
                model.load_checkpoint(config, checkpoint_dir=str(folder), eval=True)
                del model.get_compatible_checkpoint_state_dict, model.load_state_dict
        except Exception as error:  # whatever Coqui raises for a config or a vocabulary that it cannot use
            reason = " ".join(str(error).split())
            msg = f"{path}: cannot be loaded as a model ({reason:.300}); check its config.json and vocab.json"
            raise CheckpointError(msg) from error
    model.to(device).eval()
    swap_weights(model, path)
    return model
