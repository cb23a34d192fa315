"""The benchmarks' files are what they claim to be, and the scripts run. What they measure is not tested."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks.files import layout, speaks, write_run

ROOT = Path(__file__).parents[1]

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures with the tools of Linux")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = write_run(tmp_path_factory.mktemp("run"), scale="small")
    return path


def test_the_layout_has_the_sizes_of_a_full_size_checkpoint() -> None:
    sizes = {
        name: math.prod(shape) * {"float32": 4, "int64": 8}[dtype] for name, (dtype, shape) in layout("full").items()
    }

    assert len(sizes) == 1023
    assert sum(map(speaks, sizes)) == 963
    assert sum(size for name, size in sizes.items() if name.startswith("xtts.gpt.")) == 1_753_681_724
    assert sum(size for name, size in sizes.items() if speaks(name)) == 1_753_681_724 + 103_527_968 + 320


def test_a_small_checkpoint_has_the_names_of_a_full_one(checkpoint: Path) -> None:
    model = torch.load(checkpoint, weights_only=True)["model"]

    assert list(model) == list(layout("full"))
    assert {name: (str(t.dtype), tuple(t.shape)) for name, t in model.items()} == {
        name: (f"torch.{dtype}", shape) for name, (dtype, shape) in layout("small").items()
    }


def test_a_small_checkpoint_holds_what_the_trainer_saves(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    trained = [name for name in layout() if name.startswith("xtts.gpt.")]

    assert {"config", "optimizer", "scheduler", "scaler", "step", "epoch", "date", "model_loss"} < set(state)
    assert len(state["optimizer"][0]["state"]) == len(trained)
    assert set(state["optimizer"][0]["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}


def test_the_vocabulary_has_a_token_for_every_row_of_the_text_embedding(checkpoint: Path) -> None:
    vocab = json.loads((checkpoint.parent / "vocab.json").read_text(encoding="utf-8"))["model"]["vocab"]
    model = torch.load(checkpoint, weights_only=True)["model"]

    assert sorted(vocab.values()) == list(range(len(model["xtts.gpt.text_embedding.weight"])))


def test_checkpoints_of_different_steps_differ(tmp_path: Path) -> None:
    first, second = (
        torch.load(path, weights_only=True)["model"] for path in write_run(tmp_path, files=2, scale="small")
    )

    assert not torch.equal(first["xtts.gpt.mel_head.weight"], second["xtts.gpt.mel_head.weight"])


def test_the_needed_ranges_are_where_the_tensors_lie(checkpoint: Path) -> None:
    from tests.benchmarks.ways import needed_ranges

    model = torch.load(checkpoint, weights_only=True)["model"]
    content = checkpoint.read_bytes()

    stored = [content[start : start + length] for _, start, length in needed_ranges(checkpoint)]

    assert stored == [tensor.numpy().tobytes() for name, tensor in model.items() if speaks(name)]


@needs_linux
@pytest.mark.parametrize(
    ("script", "ways"),
    [
        ("bench_export", ["xtts-export export", "cp and sync", "torch.load, filter", "the Trainer's own save"]),
        pytest.param(
            *("bench_remote", ["xtts-export inspect URL", "xtts-export export URL", "curl of the whole file"]),
            marks=pytest.mark.skipif(shutil.which("curl") is None, reason="downloads with curl"),
        ),
        ("bench_merge", ["xtts-export average, full files", "floor", "torch: load all"]),
    ],
)
def test_a_benchmark_times_every_way_and_cleans_up(tmp_path: Path, script: str, ways: list[str]) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{script}", "--scale", "small", "--rounds", "1"]

    done = subprocess.run(
        [*command, "--dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
    )

    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("peak RSS\n")[2]
    assert [way for way in ways if way not in table] == []
    assert list(tmp_path.iterdir()) == []
