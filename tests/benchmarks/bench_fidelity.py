"""What each type of weights costs and saves: disk, loading, memory, speed, and how far the results are from float32.

    python -m tests.benchmarks.bench_fidelity speed --dir FOLDER [--scale small] [--model FOLDER_OF_A_REAL_MODEL]
    python -m tests.benchmarks.bench_fidelity error --run RUN --model CHECKPOINT_OR_FOLDER

``speed`` exports a full-size model (random numbers, or ``--model``) in every type, and measures in a process for each:
loading beside the stock loader, and then speaking; steps of the GPT are timed in turn in one process. ``error`` takes a
trained model and the run whose evaluation clips it is measured on. Random weights say nothing about errors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WAYS = {
    "stock loader": ("float32", "stock"),
    "float32": ("float32", None),
    "float16": ("float16", None),
    "int8": ("int8", None),
    "float16 file, float32": ("float16", "float32"),
    "bfloat16 file": ("bfloat16", None),
}
"""By name, the type of the folder, and the argument ``compute``."""

STEPS = 40
PREFIX = 100
ROUNDS = 5
TEXT = "The quick brown fox jumps over the lazy dog."


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "error", "one"))
    parser.add_argument("--dir", type=Path, help="disk to work on, about 10 GB")
    parser.add_argument("--model", type=Path, help="a checkpoint, or a folder with a model")
    parser.add_argument("--run", type=Path, help="the run whose config.json and evaluation clips are used")
    parser.add_argument("--way", choices=WAYS)
    options = parser.parse_args()
    {"speed": _speed, "error": _error, "one": _one}[options.what](options)


def _folders(options: argparse.Namespace) -> dict[str, Path]:
    from xtts_export_callback import export_checkpoint

    folders = {}
    for dtype in ("float32", "float16", "bfloat16", "int8"):
        folder = options.dir / dtype
        if not folder.exists():
            export_checkpoint(options.model, folder, dtype=dtype)
        folders[dtype] = folder
    return folders


def _speed(options: argparse.Namespace) -> None:
    folders = _folders(options)
    row = "{:<22} {:>9} {:>8} {:>10} {:>11} {:>8}"
    print(row.format("way", "file GB", "load s", "loaded GB", "speaking GB", "RTF"))
    for name, (dtype, _) in WAYS.items():
        command = [sys.executable, "-m", __spec__.name, "one", "--way", name, "--dir", str(options.dir)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        size = next(folders[dtype].glob("model.*")).stat().st_size / 1e9
        memory = (f"{found['loaded'] / 1e9:.2f}", f"{found['speaking'] / 1e9:.2f}")
        print(row.format(name, f"{size:.2f}", f"{found['seconds']:.2f}", *memory, f"{found['rtf']:.2f}"), flush=True)
    _steps(folders)


def _one(options: argparse.Namespace) -> None:
    """Load a folder in this process, speak, and print seconds and bytes above those of the imports."""
    import torch
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    from xtts_export_callback import load_xtts
    from xtts_export_callback.inference_folder import compute  # noqa: F401 - part of the imports

    torch.set_num_threads(2)
    dtype, how = WAYS[options.way]
    folder = options.dir / dtype
    before, started = _peak(), time.perf_counter()
    if how == "stock":
        config = XttsConfig()
        config.load_json(folder / "config.json")
        model = Xtts.init_from_config(config)
        model.load_checkpoint(config, checkpoint_dir=folder)
    else:
        model = load_xtts(folder, compute=how)
    seconds, loaded = time.perf_counter() - started, _peak() - before
    torch.manual_seed(0)
    started = time.perf_counter()
    with torch.inference_mode():
        latents, voice = model.get_conditioning_latents(audio_path=[str(_voice(options.dir))])
        wav = model.inference(TEXT, "en", latents, voice, temperature=0.7, max_new_tokens=60)["wav"]
    rtf = (time.perf_counter() - started) / (len(wav) / model.args.output_sample_rate)
    print(json.dumps({"seconds": seconds, "loaded": loaded, "speaking": _peak() - before, "rtf": rtf}))


def _voice(folder: Path) -> Path:
    """Write six seconds of generated speech as the voice to speak with."""
    from xtts_export_callback.demo.speech_samples import synthesize_sentence, write_wav

    path = folder / "voice.wav"
    if not path.exists():
        write_wav(path, synthesize_sentence(" ".join([TEXT.lower()] * 3)))
    return path


def _peak() -> int:
    """Return the most resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _steps(folders: dict[str, Path]) -> None:
    """Time steps of the GPT, one way after the other in each round."""
    import torch

    from xtts_export_callback import load_xtts

    torch.set_num_threads(2)
    models = {dtype: load_xtts(folders[dtype]) for dtype in ("float32", "float16", "int8")}
    times: dict[str, list[float]] = {dtype: [] for dtype in models}
    with torch.inference_mode():
        for model in models.values():
            _step(model, 1)
        for _ in range(ROUNDS):
            for dtype, model in models.items():
                times[dtype].append(_step(model, STEPS))
    base = statistics.median(times["float32"])
    for dtype, found in times.items():
        rounds = " ".join(f"{each * 1e3:.1f}" for each in found)
        middle = statistics.median(found)
        print(f"one step of the GPT, {dtype:<8} {middle * 1e3:6.1f} ms, {base / middle:.2f} times as fast  ({rounds})")


def _step(model: Any, steps: int) -> float:
    """Return the seconds of a step with batch 1 after a prefix."""
    import torch

    width = model.args.gpt_n_model_channels
    torch.manual_seed(0)
    done = model.gpt.gpt(inputs_embeds=torch.randn(1, PREFIX, width), use_cache=True, return_dict=True)
    started = time.perf_counter()
    for _ in range(steps):
        done = model.gpt.gpt(
            inputs_embeds=torch.randn(1, 1, width),
            past_key_values=done.past_key_values,
            use_cache=True,
            return_dict=True,
        )
    return (time.perf_counter() - started) / steps


def _error(options: argparse.Namespace) -> None:
    """Compare logits, evaluation loss and greedy codes of every way with those of float32."""
    import numpy as np
    import torch

    from xtts_export_callback.evaluation.loss import LossMeter, build_trainer
    from xtts_export_callback.evaluation.trainer_config import evaluation_samples, read_trainer_config

    folders = _folders(options)
    ways = {
        "float32": ("float32", "float32"),
        "float16": ("float16", "float16"),
        "bfloat16 file": ("bfloat16", "float32"),
        "int8": ("int8", "int8"),
        "int8 weights alone": ("int8", "float32"),
    }
    logits: dict[str, list[Any]] = {}
    losses: dict[str, float] = {}
    for name, (dtype, compute) in ways.items():
        config = read_trainer_config(options.run / "config.json")
        trainer = build_trainer(config, "cpu")
        meter = LossMeter(trainer, config, evaluation_samples(config, every=True))
        found: list[Any] = []
        logits[name] = found
        from xtts_export_callback.evaluation.candidates import swap_weights

        swap_weights(trainer.xtts, folders[dtype])
        if compute != "float32":
            _exchange(trainer.xtts, folders[dtype], compute)
        hook = trainer.xtts.gpt.mel_head.register_forward_hook(lambda *parts, into=found: into.append(parts[2].numpy()))
        with torch.inference_mode():
            torch.manual_seed(0)
            values = [float(trainer.eval_step(dict(batch), None)[1]["loss"]) for batch in meter._batches()]
        hook.remove()
        losses[name] = statistics.mean(values)
    codes = {name: _greedy(folders[dtype], compute) for name, (dtype, compute) in ways.items()}
    for name in ways:
        squares = sum(float(np.square(a - b).sum()) for a, b in zip(logits[name], logits["float32"], strict=True))
        error = (squares / sum(float(np.square(each).sum()) for each in logits["float32"])) ** 0.5
        change = losses[name] / losses["float32"] - 1
        same = sum(bool(np.array_equal(a, b)) for a, b in zip(codes[name], codes["float32"], strict=True))
        print(f"{name:<20} logits {error:8.4%}  loss {change:+8.4%}  greedy codes equal {same} of {len(SENTENCES)}")


SENTENCES = ("listen to the rain.", "the bird sings.", "a cold wind blows.", "we walk home.", "open the door.")


def _exchange(model: Any, folder: Path, compute: str) -> None:
    import torch

    from xtts_export_callback.checkpoint import open_checkpoint
    from xtts_export_callback.inference_folder.compute import exchange

    with open_checkpoint(folder) as checkpoint:
        exchange(model, checkpoint.tensors, compute, torch.device("cpu"), str(folder))


def _greedy(folder: Path, compute: str) -> list[Any]:
    """Return the audio codes of each sentence, without sampling."""
    import torch

    from xtts_export_callback import load_xtts

    model = load_xtts(folder, compute=compute)
    torch.manual_seed(0)
    latents = torch.randn(1, 32, model.args.gpt_n_model_channels) * 0.1
    found = []
    with torch.inference_mode():
        for text in SENTENCES:
            tokens = torch.tensor([model.tokenizer.encode(text, lang="en")], dtype=torch.int32)
            codes = model.gpt.generate(latents, tokens, do_sample=False, num_beams=1, max_new_tokens=60)
            found.append(codes.numpy())
    return found


if __name__ == "__main__":
    main()
