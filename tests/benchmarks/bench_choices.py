"""Which choice is best: single checkpoints, means, decay weights, Model Stock, greedy soup, on real trainings.

    python -m tests.benchmarks.bench_choices --output FOLDER [--sentences FILE] [--seeds 3] [--every-step]

espeak-ng (of Debian) speaks at least 200 sentences, which are split into three: to train on, to choose on, and unseen.
For each seed a small GPT is trained with the real Trainer. Everything is measured on both splits, with the intervals
over clips; only the split for choosing decides what goes into the soup.

Measured with 300 sentences (100 for each split) and 16 epochs of 25 steps, a checkpoint each; learning rate 3e-3, never
lowered. Unseen loss less that of the last checkpoint, with 95 % intervals over clips; it was 0.5295, 0.5142, 0.4973:

    way             seed 1                        seed 2                        seed 3
    last 2          -0.0105 (-0.0126 to -0.0082)  -0.0053 (-0.0082 to -0.0025)  -0.0011 (-0.0026 to +0.0005)
    last 3          -0.0135 (-0.0164 to -0.0103)  -0.0056 (-0.0080 to -0.0032)  -0.0030 (-0.0049 to -0.0012)
    last 4          -0.0138 (-0.0172 to -0.0101)  -0.0043 (-0.0068 to -0.0016)  -0.0039 (-0.0062 to -0.0016)
    last 6          -0.0100 (-0.0149 to -0.0049)  +0.0018 (-0.0012 to +0.0050)  -0.0001 (-0.0031 to +0.0028)
    6, cosine       -0.0097 (-0.0146 to -0.0045)  +0.0018 (-0.0012 to +0.0051)  +0.0003 (-0.0029 to +0.0034)
    6, 1-sqrt       -0.0044 (-0.0099 to +0.0015)  +0.0069 (+0.0034 to +0.0108)  +0.0058 (+0.0021 to +0.0094)
    6, model_stock  -0.0102 (-0.0150 to -0.0052)  +0.0020 (-0.0010 to +0.0053)  -0.0000 (-0.0030 to +0.0029)
    every step of 2 -0.0188 (-0.0227 to -0.0148)  -0.0056 (-0.0083 to -0.0028)  -0.0056 (-0.0083 to -0.0027)
    every step of 3 -0.0172 (-0.0209 to -0.0133)  -0.0039 (-0.0066 to -0.0011)  -0.0046 (-0.0075 to -0.0017)
    every step of 4 -0.0146 (-0.0186 to -0.0106)  -0.0018 (-0.0044 to +0.0011)  -0.0032 (-0.0061 to -0.0003)
    every step of 6 -0.0095 (-0.0144 to -0.0046)  +0.0044 (+0.0012 to +0.0079)  +0.0014 (-0.0017 to +0.0045)
    ema of 25       -0.0179 (-0.0219 to -0.0139)  -0.0043 (-0.0068 to -0.0015)  -0.0050 (-0.0076 to -0.0023)
    ema of 50       -0.0109 (-0.0159 to -0.0060)  +0.0023 (-0.0010 to +0.0059)  +0.0000 (-0.0029 to +0.0028)
    ema of 100      +0.0065 (+0.0006 to +0.0126)  +0.0162 (+0.0113 to +0.0215)  +0.0189 (+0.0147 to +0.0231)
    greedy soup     -0.0186 (-0.0225 to -0.0146)  -0.0065 (-0.0080 to -0.0050)  -0.0066 (-0.0082 to -0.0050)
    best single     -0.0090 (-0.0140 to -0.0038)   0      (the last itself)      0      (the last itself)

The means of the last 3 and 4, of every step of the last 2 epochs, and the greedy soup were better than the last
checkpoint each time; without `--every-step` the soup had -0.0138, -0.0056 and -0.0040. With 6, the oldest are too far
behind, most of all for 1-sqrt, which gives the oldest most, and for an ema with a half-life (in steps) of 4 epochs.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.run.checkpoints import find_checkpoints

if TYPE_CHECKING:
    from xtts_export_callback.evaluation.intervals import Interval
    from xtts_export_callback.training.running_mean import RunningMean

COUNTS = (2, 3, 4, 6)
LAST = max(COUNTS)
HALF_LIVES = (25, 50, 100)
"""In steps; with the usual 100 clips for training, an epoch has 25."""

SPLITS = ("train", "choose", "unseen")
_PARTS = (
    ("the old", "a quiet", "my young", "their tired", "our first", "another", "that proud"),
    ("teacher", "river", "captain", "garden", "machine", "letter", "painter"),
    ("waits for", "carries", "remembers", "crosses", "follows", "forgets"),
    ("the silver coin", "a narrow bridge", "seven blue boxes", "the last train", "her own voice", "nothing at all"),
    ("before the rain", "in the early morning", "without a word", "near the harbour", "for twenty years"),
)


def main() -> None:
    """Speak, train, merge, evaluate and print."""
    parser = argparse.ArgumentParser(description="Evaluation losses of the ways to choose a model.")
    parser.add_argument(
        "--output", type=Path, required=True, help="empty folder, about 3 GB for each seed while it runs"
    )
    parser.add_argument("--sentences", type=Path, help="a sentence a line, at least 200 (default: made up)")
    parser.add_argument("--count", type=int, default=240, help="sentences to speak (default 240)")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3, help="trainings (default 3)")
    parser.add_argument(
        "--every-step", action="store_true", help="also sum every step: means of windows, and moving averages"
    )
    options = parser.parse_args()
    data = speak(options)
    from xtts_export_callback.demo.tiny_model import write_tiny_assets

    assets = write_tiny_assets(options.output / "assets", clips=2)
    changes = []
    for seed in range(1, options.seeds + 1):
        run = train(options, assets, data, seed)
        changes.append(report(run, data, seed, every_step=options.every_step))
        shutil.rmtree(options.output / f"seed{seed}")
    print("unseen loss less that of the last checkpoint, a column for each seed")
    for way in changes[0]:
        print(f"  {way:<16}", "  ".join(_shown(found[way], "+.4f") for found in changes if way in found))


def speak(options: argparse.Namespace) -> Path:
    """Speak the sentences and write a metadata file for each split."""
    every = [" ".join(parts) + "." for parts in itertools.product(*_PARTS)]
    random.Random(0).shuffle(every)
    lines = options.sentences.read_text(encoding="utf-8").splitlines() if options.sentences else every
    sentences = [line.strip() for line in lines if line.strip()][: options.count]
    data: Path = options.output / "speech"
    (data / "wavs").mkdir(parents=True)
    for number, sentence in enumerate(sentences):
        wav = data / "wavs" / f"clip{number:04}.wav"
        subprocess.run(["espeak-ng", "-v", "en-us", "-s", "150", "-w", str(wav), sentence], check=True)
    third = len(sentences) // len(SPLITS)
    for index, split in enumerate(SPLITS):
        chosen = range(index * third, (index + 1) * third)
        rows = [f"clip{number:04}|{sentences[number]}|{sentences[number]}" for number in chosen]
        (data / f"{split}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return data


def train(options: argparse.Namespace, assets: Any, data: Path, seed: int) -> Path:
    """Train with a checkpoint after each epoch and an export of the start, and return the run."""
    import torch

    from tests.models.trainings import make_trainer
    from xtts_export_callback import ExportConfig, export_callbacks, export_checkpoint
    from xtts_export_callback.demo.tiny_model import tiny_trainer_config

    config: Any = tiny_trainer_config(
        assets, options.output / f"seed{seed}", epochs=options.epochs, lr=options.lr, save_best_after=10**6,
        save_n_checkpoints=LAST, save_checkpoints=True, save_step=10**6, print_step=10**6, training_seed=seed,
        batch_size=4, eval_batch_size=4,
        export=ExportConfig(),
    )  # fmt: skip
    dataset = config.datasets[0]
    dataset.path, dataset.meta_file_train, dataset.meta_file_val = str(data), "train.csv", "choose.csv"
    args = config.model_args
    args.gpt_layers, args.gpt_n_model_channels, args.gpt_n_heads = options.layers, options.channels, 4
    args.decoder_input_dim = options.channels
    args.max_wav_length, args.gpt_max_audio_tokens = 255995, 605
    args.gpt_max_text_tokens, args.max_text_length = 402, 400
    torch.manual_seed(seed)

    sums: list[RunningMean] = []

    def start(trainer: Any) -> None:
        if trainer.epochs_done == 0:
            run = Path(trainer.output_path)
            trainer.save_checkpoint()
            (saved,) = run.glob("checkpoint_*.pth")
            export_checkpoint(saved, run / "start")
            saved.unlink()
            sums.extend(_watched(run) if options.every_step else [])
            for each in sums:
                each.start(trainer)

    def save(trainer: Any) -> None:
        for each in sums:
            each.save("checkpoint", trainer.total_steps_done)
        trainer.save_checkpoint()

    # At the end of an epoch's training: after the evaluation that follows, the export has finished already.
    events = {"on_train_epoch_start": start, "on_train_epoch_end": save}
    trainer = make_trainer(config, export_callbacks(config, events))
    trainer.fit()
    return Path(trainer.output_path)


def _watched(run: Path) -> list[RunningMean]:
    """Return sums of every step: for the means of windows between saves, and for each moving average."""
    from xtts_export_callback import ExportConfig
    from xtts_export_callback.training.running_mean import RunningMean

    watched = [RunningMean(run, ExportConfig(running_mean="mean", running_mean_every=1))]
    for half_life in HALF_LIVES:
        folder = run / f"half_life_{half_life}"
        folder.mkdir()
        options = ExportConfig(running_mean="ema", running_mean_every=1, running_mean_half_life=half_life)
        watched.append(RunningMean(folder, options))
    return watched


def _write_every_step(run: Path, saved: list[Path], merges: Path) -> None:
    """Write the means of the last windows, and the moving averages at the last checkpoint."""
    from xtts_export_callback.merge.running_mean import write_running_mean
    from xtts_export_callback.run.running_mean import path_of, steps_of

    steps = steps_of(run)
    for count in COUNTS:
        windows = [path_of(run, step) for step in steps[-count:]]
        write_running_mean(saved[-1], windows, merges / f"every_step_of_{count}")
    for half_life in HALF_LIVES:
        folder = run / f"half_life_{half_life}"
        write_running_mean(saved[-1], [path_of(folder, steps[-1])], merges / f"ema_{half_life}")


def report(run: Path, data: Path, seed: int, *, every_step: bool) -> dict[str, Interval]:
    """Merge, evaluate on both splits, and print a line for each model.

    Returns:
        For each way to choose, the unseen loss less that of the last checkpoint, over the same clips.
    """
    from xtts_export_callback import average_checkpoints, evaluate_checkpoints, merge_checkpoints
    from xtts_export_callback.evaluation.intervals import paired

    saved = [one.path for one in find_checkpoints(run)][-LAST:]
    merges = run / "inference"
    for count in COUNTS:
        average_checkpoints(saved[-count:], merges / f"average_last_{count}")
    if every_step:
        _write_every_step(run, saved, merges)
    for decay in ("cosine", "1-sqrt"):  # linear is the plain mean
        average_checkpoints(saved, merges / f"decay_{decay}", decay=decay)
    recipe = {"models": [str(path) for path in saved], "method": "model_stock", "base": str(run / "start")}
    merge_checkpoints(recipe, merges / "model_stock")
    options: dict[str, Any] = {"data": data / "choose.csv", "output": run / "choosing"}
    chosen = evaluate_checkpoints([run], **options)
    made = {one.name: one.fingerprint for one in chosen.candidates}
    with_soup = evaluate_checkpoints([run], greedy=True, **options)
    soups = [one for one in with_soup.candidates if one.name == "greedy_soup"]
    singles = [one for one in chosen.candidates if one.name.startswith("checkpoint_")]
    best = min(singles, key=lambda one: one.loss.mean if one.loss else math.inf)
    made |= {"greedy_soup": (soups or [best])[0].fingerprint, "best_single": best.fingerprint}
    models = [run, *(run / "choosing" / one.name for one in soups)]
    unseen = evaluate_checkpoints(models, data=data / "unseen.csv")
    losses = [{one.fingerprint: one.loss for one in found.candidates if one.loss} for found in (with_soup, unseen)]
    print(f"seed {seed}: {with_soup.verdict} On the unseen split: {unseen.verdict}")
    print("\n".join(f"  {note}" for note in with_soup.notes))
    last = losses[1][made[saved[-1].stem]].clips
    changes = {name: paired(losses[1][found].clips, last) for name, found in made.items()}
    for name, found in made.items():
        choose, there = (_shown(loss[found], ".4f") for loss in losses)
        print(f"  {name:<16} choosing {choose}  unseen {there}  less the last {_shown(changes[name], '+.4f')}")
    return {name: change for name, change in changes.items() if not name.startswith("checkpoint_") and change}


def _shown(one: Any, spec: str) -> str:
    return f"{one.mean:{spec}} ({one.low:{spec}} to {one.high:{spec}})"


if __name__ == "__main__":
    main()
