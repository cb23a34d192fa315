"""A small XTTS that has learned to say twelve sentences and to stop, and copies of it with planted faults.

It has no voice: the weights of its decoder are random. What it has learned are its codes, a sequence of its own for
each sentence.

    python -m tests.models.small_speaker --seeds 10

has ``evaluate --speech`` rank them for ten trainings and prints what came out; it takes twenty minutes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from xtts_export_callback import export_checkpoint, load_xtts
from xtts_export_callback.demo.speech_samples import SENTENCES
from xtts_export_callback.demo.tiny_model import TinyAssets

FAULTS = {
    "never-stops": "no stop token",
    "stops-at-once": "cut short",
    "loops": "loop in the codes",
    "noise": "no stop token",
}
HEALTHY = ("after-150", "after-200")
_CODES_A_CHARACTER = 1.6  # 75 ms


def write_small_speakers(assets: TinyAssets, folder: Path, *, seed: int = 0) -> list[Path]:
    """Train, and write an inference folder of each of `HEALTHY` and `FAULTS`.

    Args:
        assets: Files of the tiny model.
        folder: The folder to write.
        seed: Of the training and the noise.
    """
    import torch

    from tests.models.trainings import close_trainer_logs, make_trainer
    from xtts_export_callback.demo.tiny_model import tiny_trainer_config

    torch.manual_seed(seed)
    trainer = make_trainer(tiny_trainer_config(assets, folder / "run"))
    trainer.save_checkpoint()
    close_trainer_logs()
    start = export_checkpoint(next(Path(trainer.output_path).glob("checkpoint_*.pth")), folder / "start").path
    shutil.rmtree(folder / "run")
    model = load_xtts(start)
    paths = []
    for name, steps in zip(HEALTHY, (150, 50), strict=True):
        _learn(model, assets.speaker_wav, steps)
        paths.append(_write(model.state_dict(), start, folder / name))
    stop = model.gpt.stop_audio_token
    for name in FAULTS:
        state = {key: value.clone() for key, value in model.state_dict().items()}
        bias = state["gpt.mel_head.bias"]
        if name == "never-stops":
            bias[stop] = -1e4
        elif name == "stops-at-once":
            bias[stop] = 1e4
        elif name == "loops":
            bias[7] = 1e4
        else:
            for key, value in list(state.items()):
                if key.startswith("gpt.") and value.is_floating_point() and value.numel() > 1:
                    state[key] = value + torch.randn_like(value) * 3 * value.std()
        paths.append(_write(state, start, folder / name))
    shutil.rmtree(start)
    return paths


def _learn(model: Any, voice: Path, steps: int) -> None:
    """Train the GPT with its own loss. No code occurs twice in a sentence, and none in two sentences."""
    import torch

    latents = model.get_conditioning_latents(str(voice))[0].detach().clone()
    batch = len(SENTENCES)
    lengths = torch.tensor([round(len(text) * _CODES_A_CHARACTER) for text in SENTENCES])
    codes = torch.zeros(batch, int(lengths.max()), dtype=torch.long)
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    for row, (length, first) in enumerate(zip(lengths, lengths.cumsum(0) - lengths, strict=True)):
        codes[row, :length] = ids[first : first + length]
    texts = [torch.tensor(model.tokenizer.encode(text, lang="en")) for text in SENTENCES]
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    text_lengths = torch.tensor([len(text) for text in texts])
    voices = latents.expand(batch, -1, -1)
    optimizer = torch.optim.AdamW(model.gpt.parameters(), lr=3e-3)
    model.gpt.train()
    for _ in range(steps):
        with torch.enable_grad():  # the Trainer up to 0.1 leaves it off after an evaluation
            losses = model.gpt(
                padded, text_lengths, codes, lengths * 1024, cond_mels=voices.transpose(1, 2), cond_latents=voices
            )
            loss = losses[0] * 0.01 + losses[1]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.gpt.parameters(), 1.0)
        optimizer.step()
    model.gpt.eval()


def _write(state: dict[str, Any], start: Path, folder: Path) -> Path:
    """Write a folder with these weights and the config and vocabulary of another."""
    import torch

    folder.mkdir()
    for name in ("config.json", "vocab.json"):
        shutil.copyfile(start / name, folder / name)
    document = torch.load(str(start / "model.pth"), weights_only=True)
    document["model"] = {name: state[name].clone() for name in document["model"]}
    torch.save(document, folder / "model.pth")
    return folder


def main() -> None:
    """Rank planted faults for several trainings."""
    from xtts_export_callback import evaluate_checkpoints
    from xtts_export_callback.demo.tiny_model import write_tiny_assets
    from xtts_export_callback.evaluation.speech_evaluation import SpeechOptions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    for seed in range(args.first, args.first + args.seeds):
        with tempfile.TemporaryDirectory() as temporary:
            assets = write_tiny_assets(Path(temporary) / "assets")
            paths = write_small_speakers(assets, Path(temporary) / "models", seed=seed)
            sentences = Path(temporary) / "sentences.txt"
            sentences.write_text("\n".join(SENTENCES[:6]))
            speech = SpeechOptions(sentences, assets.speaker_wav)
            found = evaluate_checkpoints(paths, speech=speech, output=Path(temporary) / "evaluation", device="cpu")
        print(f"seed {seed}: {found.verdict}")
        for one in found.candidates:
            print(f"  {one.rank} {one.name:13} {one.speech and one.speech.faults.kinds} {one.reason}", flush=True)


if __name__ == "__main__":
    main()
