"""Makes a tiny XTTS, real in all but its size, with all files its training needs, for the demo and the tests.

The GPT has 2 layers of 64 channels where XTTS v2 has 30 of 1024. The DVAE and the HiFi-GAN decoder have sizes fixed in
coqui-tts, so a full checkpoint of it still takes 0.3 GB. All weights are random, drawn from fixed seeds: nothing is
downloaded, and the voice is a hum.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.demo.speech_samples import write_speech_dataset

if TYPE_CHECKING:
    from xtts_export_callback.training.trainer_config import XttsExportTrainerConfig

_SPECIAL_TOKENS = ("[STOP]", "[UNK]", "[SPACE]")
_CHARACTERS = "!',-.?abcdefghijklmnopqrstuvwxyz"
_LAST_TOKENS = ("[START]", "[en]")
# Byte-pair merges as in the vocabulary of XTTS v2, the first ones.
_MERGES = (("t", "h"), ("i", "n"), ("th", "e"), ("a", "n"), ("e", "r"), ("o", "u"), ("an", "d"), ("o", "n"))

_AUDIO_TOKENS = 1024


@dataclass(frozen=True)
class TinyAssets:
    """Files that the training of the tiny model reads.

    Args:
        dataset: Folder with ``metadata.csv`` and ``wavs/``.
        vocab: ``vocab.json``.
        dvae: ``dvae.pth``.
        mel_stats: ``mel_stats.pth``.
        speaker_wav: One of the recordings, as the voice to speak with.
    """

    dataset: Path
    vocab: Path
    dvae: Path
    mel_stats: Path
    speaker_wav: Path


def write_tiny_assets(folder: Path, *, clips: int = 12) -> TinyAssets:
    """Write speech, vocabulary, DVAE and mel statistics (0.2 GB, nearly all of it the DVAE).

    Args:
        folder: The folder to write, created if missing.
        clips: Number of recordings.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dataset = write_speech_dataset(folder / "speech", clips=clips)
    assets = TinyAssets(
        dataset=dataset,
        vocab=folder / "vocab.json",
        dvae=folder / "dvae.pth",
        mel_stats=folder / "mel_stats.pth",
        speaker_wav=dataset / "wavs" / "clip001.wav",
    )
    assets.vocab.write_text(json.dumps(tiny_vocabulary(), indent=1, ensure_ascii=False), encoding="utf-8")
    _write_dvae_and_mel_stats(assets)
    return assets


def tiny_vocabulary() -> dict[str, Any]:
    """Return a vocabulary for ``VoiceBpeTokenizer``: English letters, punctuation, a few merges.

    The layout is that of ``tokenizers``' ``Tokenizer.to_str`` and of the file that comes with XTTS v2, where ``[STOP]``
    and ``[UNK]`` are the tokens 0 and 1, as ``XTTSDataset.get_text`` demands.
    """
    tokens = [*_SPECIAL_TOKENS, *_CHARACTERS, *("".join(pair) for pair in _MERGES), *_LAST_TOKENS]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    added_tokens = [
        {
            "id": vocabulary[token],
            "special": True,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for token in (*_SPECIAL_TOKENS, *_LAST_TOKENS)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "[UNK]",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "vocab": vocabulary,
            "merges": [" ".join(pair) for pair in _MERGES],
        },
    }


def tiny_trainer_config(assets: TinyAssets, output: Path, **fields: Any) -> XttsExportTrainerConfig:
    """Return a config that trains the tiny model on a CPU, with the export turned off.

    Args:
        assets: The files to train with.
        output: Folder for the run folders.
        **fields: Fields of ``XttsExportTrainerConfig`` that replace the defaults here.

    Returns:
        A config for ``GPTTrainer``. Five steps make one epoch with the 12 recordings of :func:`write_tiny_assets`.
    """
    from TTS.config.shared_configs import BaseDatasetConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs

    from xtts_export_callback.training.trainer_config import XttsExportTrainerConfig

    defaults: dict[str, Any] = {
        "output_path": str(output),
        "run_name": "tiny",
        "run_description": "A tiny XTTS on generated speech",
        "model_args": GPTArgs(
            gpt_layers=2,
            gpt_n_model_channels=64,
            gpt_n_heads=2,
            decoder_input_dim=64,
            gpt_max_audio_tokens=120,
            gpt_max_text_tokens=100,
            gpt_max_prompt_tokens=70,
            gpt_num_audio_tokens=_AUDIO_TOKENS + 2,
            gpt_start_audio_token=_AUDIO_TOKENS,
            gpt_stop_audio_token=_AUDIO_TOKENS + 1,
            gpt_use_masking_gt_prompt_approach=True,
            gpt_use_perceiver_resampler=True,
            min_conditioning_length=11025,
            max_conditioning_length=22050,
            max_wav_length=110250,
            max_text_length=90,
            debug_loading_failures=True,
            tokenizer_file=str(assets.vocab),
            dvae_checkpoint=str(assets.dvae),
            mel_norm_file=str(assets.mel_stats),
        ),
        "datasets": [
            BaseDatasetConfig(
                formatter="ljspeech",
                dataset_name="generated",
                path=str(assets.dataset),
                meta_file_train="metadata.csv",
                language="en",
            )
        ],
        "batch_size": 2,
        "eval_batch_size": 2,
        "eval_split_size": 2,
        "num_loader_workers": 0,
        "num_eval_loader_workers": 0,
        "epochs": 1,
        "save_step": 1000,
        "print_step": 1,
        "optimizer": "AdamW",
        "optimizer_wd_only_on_weights": True,
        "optimizer_params": {"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
        "lr": 1e-3,
        "lr_scheduler": "MultiStepLR",
        "lr_scheduler_params": {"milestones": [900000], "gamma": 0.5, "last_epoch": -1},
        "test_sentences": [],
        "dashboard_logger": "tensorboard",
    }
    return XttsExportTrainerConfig(**{**defaults, **fields})


def _write_dvae_and_mel_stats(assets: TinyAssets) -> None:
    """Draw the weights of the DVAE and the mel statistics from a fixed seed, leaving the caller's generator alone."""
    import torch
    from TTS.tts.layers.xtts.dvae import DiscreteVAE

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # The arguments of `GPTTrainer.__init__`, which builds its DVAE with these and loads the file into it.
        dvae = DiscreteVAE(
            channels=80,
            normalization=None,
            positional_dims=1,
            num_tokens=_AUDIO_TOKENS,
            codebook_dim=512,
            hidden_dim=512,
            num_resnet_blocks=3,
            kernel_size=3,
            num_layers=2,
            use_transposed_convs=False,
        )
        torch.save(dvae.state_dict(), assets.dvae)
        torch.save(2.0 + torch.rand(80), assets.mel_stats)
