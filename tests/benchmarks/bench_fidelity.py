"""What each type of weights costs and saves: disk, loading, memory, speed, and how far the results are from float32.

    python -m tests.benchmarks.bench_fidelity speed --dir FOLDER [--scale small] [--model FOLDER_OF_A_REAL_MODEL]
    python -m tests.benchmarks.bench_fidelity error --run RUN --model CHECKPOINT_OR_FOLDER --dir FOLDER

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
    from xtts_export_callback.evaluation.loss import LossMeter, build_trainer
    from xtts_export_callback.evaluation.trainer_config import evaluation_samples, read_trainer_config

    folders = _folders(options)
    config = read_trainer_config(options.run / "config.json")
    samples = evaluation_samples(config, every=True)
    batches = list(LossMeter(build_trainer(config, "cpu"), config, samples)._batches())
    found = {
        name: (*_teacher_forced(config, folders[dtype], compute, batches), _greedy(folders[dtype], compute, samples))
        for name, (dtype, compute) in ERROR_WAYS.items()
    }
    expected, loss, codes = found["float32"]
    different = {int(code) for each in codes for code in each}
    print(f"float32: loss {loss:.4f}; {sum(each.size for each in codes)} greedy codes, {len(different)} different ones")
    for name, (logits, own_loss, own_codes) in found.items():
        squares = sum(float(((a - b) ** 2).sum()) for a, b in zip(logits, expected, strict=True))
        error = (squares / sum(float((each**2).sum()) for each in expected)) ** 0.5
        same = [_same_codes(a, b) for a, b in zip(own_codes, codes, strict=True)]
        clips = sum(count == each.size for count, each in zip(same, codes, strict=True))
        print(
            f"{name:<20} logits {error:8.4%}  loss {own_loss / loss - 1:+8.4%}  same greedy codes: {clips} of "
            f"{len(codes)} clips, {sum(same)} of {sum(each.size for each in codes)} codes before the first other one"
        )


ERROR_WAYS = {
    "float32": ("float32", "float32"),
    "float16": ("float16", "float16"),
    "float16, float32": ("float16", "float32"),
    "bfloat16, float32": ("bfloat16", "float32"),
    "int8": ("int8", "int8"),
    "int8, float32": ("int8", "float32"),
}
"""By name, the type of the folder, and what it is computed in."""


def _teacher_forced(config: Any, folder: Path, compute: str, batches: list[Any]) -> tuple[list[Any], float]:
    """Return the logits of the audio codes for every batch, less their mean, which softmax cancels, and the loss."""
    import torch

    from xtts_export_callback.checkpoint import open_checkpoint
    from xtts_export_callback.evaluation.candidates import swap_weights
    from xtts_export_callback.evaluation.loss import build_trainer
    from xtts_export_callback.inference_folder.compute import exchange

    trainer = build_trainer(config, "cpu")
    swap_weights(trainer.xtts, folder)
    if compute != "float32":
        with open_checkpoint(folder) as checkpoint:
            exchange(trainer.xtts, checkpoint.tensors, compute, torch.device("cpu"), str(folder))
    logits: list[Any] = []
    trainer.xtts.gpt.mel_head.register_forward_hook(lambda *parts: logits.append(_centred(parts[2])))
    with torch.inference_mode():
        losses = [float(trainer.eval_step(dict(batch), None)[1]["loss"]) for batch in batches]
    return logits, statistics.mean(losses)


def _centred(logits: Any) -> Any:
    wide = logits.double()
    return (wide - wide.mean(-1, keepdim=True)).numpy()


def _greedy(folder: Path, compute: str, samples: list[dict[str, Any]]) -> list[Any]:
    """Return the audio codes of every clip's text in its own voice, without sampling."""
    import torch

    from xtts_export_callback import load_xtts

    model = load_xtts(folder, compute=compute)
    found = []
    with torch.inference_mode():
        for sample in samples:
            latents, _ = model.get_conditioning_latents(audio_path=[sample["audio_file"]])
            tokens = torch.tensor([model.tokenizer.encode(sample["text"].lower(), lang="en")], dtype=torch.int32)
            codes = model.gpt.generate(latents, tokens, do_sample=False, num_beams=1, max_new_tokens=CODES)
            found.append(codes[0].numpy())
    return found


CODES = 200  # for each clip


def _same_codes(codes: Any, expected: Any) -> int:
    """Return how many codes at the start are the same."""
    pairs = [int(a) == int(b) for a, b in zip(codes, expected, strict=False)]
    return pairs.index(False) if False in pairs else len(pairs)


if __name__ == "__main__":
    main()
