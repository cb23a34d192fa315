"""Other ways to do the same jobs, each a process of its own: what they take is what ours is compared with.

python -m tests.benchmarks.ways WAY ARGUMENTS ...
"""

from __future__ import annotations

import os
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.files import layout, speaks

_BLOCK = 8 << 20
_DROPPED = ("dvae.", "torch_mel_spectrogram")


def needed_ranges(path: Path) -> list[tuple[Path, int, int]]:
    """Where the inference model's tensors lie in a checkpoint written by `files.write_checkpoint`.

    torch.save numbers storages in the order it meets them and writes them in that order, so that the first 1023 are the
    tensors of ``model``.

    Returns:
        Path, offset and length of each of the 963, in the file's order.
    """
    ranges = []
    names = list(layout("small"))
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for number, name in enumerate(names):
            if speaks(name):
                info = archive.getinfo(f"archive/data/{number}")
                # name and extra field of the local header differ in length from those of the directory
                file.seek(info.header_offset + 26)
                lengths = file.read(4)
                start = info.header_offset + 30 + int.from_bytes(lengths[:2], "little")
                ranges.append((path, start + int.from_bytes(lengths[2:], "little"), info.file_size))
    return ranges


def floor(output: Path, *checkpoints: Path) -> None:
    """Read just the needed bytes of every input once, write as many as one of them has, sync. Nothing is computed."""
    buffer = memoryview(bytearray(_BLOCK))
    files = [os.open(path, os.O_RDONLY) for path in checkpoints]
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    position = 0
    for parts in zip(*(needed_ranges(path) for path in checkpoints), strict=True):
        length = parts[0][2]
        for offset in range(0, length, _BLOCK):
            block = buffer[: min(_BLOCK, length - offset)]
            for file, (_, start, _) in zip(files, parts, strict=True):
                _check(os.preadv(file, [block], start + offset), len(block))
            _check(os.pwrite(out, block, position), len(block))
            position += len(block)
    os.fsync(out)


def _check(done: int, expected: int) -> None:
    if done != expected:
        raise SystemExit(f"{done} bytes at once where {expected} were asked for")


def torch_export(output: Path, checkpoint: Path) -> None:
    """What is usually recommended: load everything, keep what is needed, save."""
    import torch

    model = torch.load(checkpoint, map_location="cpu")["model"]
    kept = {name.removeprefix("xtts."): tensor for name, tensor in model.items() if not name.startswith(_DROPPED)}
    torch.save({"model": kept}, output)


def torch_average(output: Path, *checkpoints: Path) -> None:
    """The ten-line script: load every model, sum, divide, save."""
    import torch

    models = [torch.load(path, map_location="cpu")["model"] for path in checkpoints]
    mean = {}
    for name in models[0]:
        if not name.startswith(_DROPPED):
            tensors = [model[name] for model in models]
            total = sum(tensors[1:], start=tensors[0].clone())
            mean[name.removeprefix("xtts.")] = total / len(tensors) if total.is_floating_point() else tensors[-1]
    torch.save({"model": mean}, output)


def bare(output: Path, checkpoint: Path) -> None:
    """Write the float tensors that speak as a bare state_dict, the one kind of file that mergekit-pytorch opens."""
    import torch

    model = torch.load(str(checkpoint), map_location="cpu", mmap=True)["model"]
    torch.save(
        {
            name.removeprefix("xtts."): tensor
            for name, tensor in model.items()
            if speaks(name) and tensor.is_floating_point()
        },
        output,
    )


def trainer_save(output: Path, checkpoint: Path) -> None:
    """The Trainer's own save of a full checkpoint. Prints its seconds, and those with a sync of the file after it.

    The loading that is needed here to have something to save is not counted.
    """
    import torch
    from trainer.io import save_fsspec

    state = torch.load(checkpoint, map_location="cpu")
    start = time.perf_counter()
    save_fsspec(state, output)
    saved = time.perf_counter() - start
    with output.open("rb+") as file:
        os.fsync(file.fileno())
    print(saved, time.perf_counter() - start)


def check_mean(output: Path, *checkpoints: Path) -> None:
    """Compare a result with the mean, computed here tensor by tensor in float64 and rounded once.

    The mean of one checkpoint has its own bits.
    """
    import torch

    result = torch.load(str(output), mmap=True, map_location="cpu")["model"]
    models = [torch.load(str(path), mmap=True, map_location="cpu")["model"] for path in checkpoints]
    names = [name for name in models[0] if speaks(name)]
    if {name.removeprefix("xtts.") for name in names} != set(result):
        raise SystemExit(f"{output}: not the names of the inference model")
    for name in names:
        tensors = [model[name] for model in models]
        expected = tensors[-1]
        if expected.is_floating_point():
            expected = sum(tensor.double() for tensor in tensors).div(len(tensors)).float()
        if not torch.equal(result[name.removeprefix("xtts.")], expected):
            raise SystemExit(f"{output}: {name} is not the mean of {len(tensors)} files")


WAYS: dict[str, Callable[..., None]] = {
    "floor": floor,
    "torch-export": torch_export,
    "torch-average": torch_average,
    "bare": bare,
    "trainer-save": trainer_save,
    "check-mean": check_mean,
}


def main() -> None:
    """Go the way that the command line names, with the output and the checkpoints it names."""
    WAYS[sys.argv[1]](*map(Path, sys.argv[2:]))


if __name__ == "__main__":
    main()
