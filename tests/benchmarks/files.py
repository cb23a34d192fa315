"""Trainer checkpoints laid out as those of a real XTTS v2 fine-tune, filled with random numbers.

`layout.json` lists names, types and shapes of the 1023 tensors in a checkpoint of coqui-tts' ``GPTTrainer``,
`trainer_config.json` is what ``GPTTrainerConfig.to_dict()`` gives for the stock recipe. The optimizer and the scheduler
are torch's own. A file at full scale takes 5.58 GB on disk, and as much memory while it is made.

    python -m tests.benchmarks.files FOLDER --files 3
    python -m tests.benchmarks.files FOLDER --scale small
"""

from __future__ import annotations

import argparse
import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.models.small_decoder import ARGS, small_decoder
from xtts_export_callback.xtts.expected_shapes import expected_tensors

if TYPE_CHECKING:
    import torch

LAYOUT = Path(__file__).with_name("layout.json")
TRAINER_CONFIG = Path(__file__).with_name("trainer_config.json")

SCALES = ("full", "small")
FULL_SIZE = 5_576_650_782
"""Bytes of the checkpoint that the layout was taken from. Those made here differ by the length of their config."""

TEXT_EMBEDDING = "xtts.gpt.text_embedding.weight"
STEPS_PER_FILE = 1000
_SMALL_DIMENSION = 3
SMALL_ARGS = {**ARGS, "gpt_layers": 30, "gpt_number_text_tokens": _SMALL_DIMENSION}
"""``model_args`` at small scale."""
_POOL = 1 << 22


def layout(scale: str = "full") -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a checkpoint's ``model``, in the file's order.

    Args:
        scale: ``full`` for the real shapes, ``small`` for the same names in a model that is complete with 8 channels
            and the decoder of `small_decoder`; what only training needs has at most 3 in every dimension.

    Returns:
        Dtype and shape by name.
    """
    tensors = json.loads(LAYOUT.read_text(encoding="utf-8"))["model"]
    if scale == "full":
        return {name: (dtype, tuple(shape)) for name, (dtype, shape) in tensors.items()}
    with small_decoder():
        small = expected_tensors(SMALL_ARGS, SMALL_ARGS["gpt_number_text_tokens"])
    shapes = {
        name: small.get(name.removeprefix("xtts."), tuple(min(size, _SMALL_DIMENSION) for size in shape))
        for name, (_, shape) in tensors.items()
    }
    return {name: (dtype, shapes[name]) for name, (dtype, _) in tensors.items()}


def speaks(name: str) -> bool:
    """Whether a tensor of the layout is part of the inference model (963 of the 1023 are)."""
    return name.startswith("xtts.")


def write_run(folder: Path, *, files: int = 1, scale: str = "full", first: int = 1) -> list[Path]:
    """Write a run folder: checkpoints, the config and a vocabulary that fits them.

    Args:
        folder: Made when missing.
        files: How many checkpoints, at steps 1000, 2000 and so on.
        scale: One of `SCALES`.
        first: Number of the first one to write; those before it are taken to be there.

    Returns:
        The checkpoints, oldest first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(TRAINER_CONFIG.read_text(encoding="utf-8"))
    tokens = layout(scale)[TEXT_EMBEDDING][1][0]
    vocab = folder / "vocab.json"
    vocab.write_text(json.dumps(vocabulary(tokens), indent=1), encoding="utf-8")
    config["model_args"].update(SMALL_ARGS if scale == "small" else {})
    config["model_args"].update(tokenizer_file=str(vocab), gpt_number_text_tokens=tokens)
    (folder / "config.json").write_text(json.dumps(config, indent=4), encoding="utf-8")
    paths = [folder / f"checkpoint_{number * STEPS_PER_FILE}.pth" for number in range(1, files + 1)]
    for number, path in list(enumerate(paths, 1))[first - 1 :]:
        write_checkpoint(path, config, step=number * STEPS_PER_FILE, scale=scale)
    return paths


def vocabulary(tokens: int) -> dict[str, Any]:
    """A vocabulary of the tokenizers library with the given number of tokens (at least 2)."""
    special = ["[STOP]", "[UNK]", "[SPACE]", "[START]"][:tokens]
    words = [*special, *(f"token{number}" for number in range(len(special), tokens))]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
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
            "vocab": {word: number for number, word in enumerate(words)},
            "merges": [],
        },
    }


def write_checkpoint(path: Path, config: dict[str, Any], *, step: int, scale: str = "full") -> None:
    """Write one checkpoint as `trainer.io.save_model` does: ``torch.save`` through a file handle.

    Args:
        path: The file to write.
        config: For its key ``config``.
        step: Its step, which also seeds the random numbers.
        scale: One of `SCALES`.
    """
    import torch

    state = trainer_state(config, step=step, scale=scale)
    with path.open("wb") as file:
        torch.save(state, file)


def trainer_state(config: dict[str, Any], *, step: int, scale: str = "full") -> dict[str, Any]:
    """What the Trainer saves; the arguments are those of `write_checkpoint`."""
    import torch

    noise = _Noise(step)
    model: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, (dtype, shape) in layout(scale).items():
        model[name] = noise.normal(shape, 0.02) if dtype == "float32" else torch.full(shape, step, dtype=torch.int64)
    # `Module.state_dict()` leaves this on its result, and pickle carries it.
    modules = {"", *(name[:end] for name in model for end in _dots(name))}
    model._metadata = OrderedDict((module, {"version": 1}) for module in sorted(modules))  # type: ignore[attr-defined]
    optimizer = _optimizer(model, config, noise, step)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, **config["lr_scheduler_params"])
    return {
        "config": config,
        "model": model,
        "optimizer": [optimizer.state_dict()],
        "scheduler": [scheduler.state_dict()],
        "scaler": None,
        "step": step,
        "epoch": step // 500,
        "date": "January 15, 2024",
        "model_loss": {"train_loss": 1.4 + 10 / step, "eval_loss": 1.5 + 10 / step},
    }


def _optimizer(
    model: dict[str, torch.Tensor], config: dict[str, Any], noise: _Noise, step: int
) -> torch.optim.Optimizer:
    """AdamW over the GPT, which is all that GPTTrainer trains, with weight decay on the matrices only."""
    import torch

    names = [name for name in model if name.startswith("xtts.gpt.")]
    parameters = {name: torch.nn.Parameter(model[name]) for name in names}
    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    others = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    options = config["optimizer_params"]
    optimizer = torch.optim.AdamW(
        [{"params": others, "weight_decay": 0}, {"params": matrices, "weight_decay": options["weight_decay"]}],
        lr=config["lr"],
        betas=options["betas"],
        eps=options["eps"],
    )
    for parameter in parameters.values():
        shape = tuple(parameter.shape)
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step)),
            "exp_avg": noise.normal(shape, 1e-4),
            "exp_avg_sq": noise.normal(shape, 1e-4).square_(),
        }
    return optimizer


def _dots(name: str) -> list[int]:
    return [position for position, character in enumerate(name) if character == "."]


class _Noise:
    """Normal numbers at the speed of copying: every tensor starts somewhere else in one block of them."""

    def __init__(self, seed: int) -> None:
        import torch

        self._generator = torch.Generator().manual_seed(seed)
        self._pool = torch.randn(_POOL, generator=self._generator)

    def normal(self, shape: tuple[int, ...], scale: float) -> torch.Tensor:
        """A float32 tensor of normal numbers with mean 0 and the standard deviation ``scale``."""
        import torch

        result = torch.empty(math.prod(shape))
        offset = int(torch.randint(_POOL, (), generator=self._generator))
        done = 0
        while done < result.numel():
            part = self._pool[offset : offset + result.numel() - done]
            result[done : done + part.numel()] = part
            done += part.numel()
            offset = 0
        return result.mul_(scale).reshape(shape)


def main() -> None:
    """Write a run folder as the command line says."""
    parser = argparse.ArgumentParser(description="Write full-size Trainer checkpoints of random numbers.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=1, help="how many checkpoints (default 1)")
    parser.add_argument("--first", type=int, default=1, help="number of the first one to write (default 1)")
    parser.add_argument("--scale", choices=SCALES, default="full", help="small: same names, small shapes")
    options = parser.parse_args()
    for path in write_run(options.folder, files=options.files, scale=options.scale, first=options.first):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
