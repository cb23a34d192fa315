"""Reports made by hand, in the sizes of a real fine-tune: for screens and pictures, without a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.files import LAYOUT
from xtts_export_callback.comparison.distance import Difference, Trajectory
from xtts_export_callback.comparison.models import ComparisonReport
from xtts_export_callback.comparison.trajectory import TrajectoryReport
from xtts_export_callback.evaluation.intervals import Interval
from xtts_export_callback.evaluation.results import Candidate, Data, Evaluation, Faults, Loss, Speech
from xtts_export_callback.evaluation.sweep import Sweep
from xtts_export_callback.inspection.checkpoint import CheckpointReport, Share
from xtts_export_callback.inspection.removals import Removal
from xtts_export_callback.inspection.run import RunReport, SavedReport
from xtts_export_callback.tensors.dtypes import BY_NAME
from xtts_export_callback.tensors.tensor import ArrayStorage, Tensor, row_major
from xtts_export_callback.xtts.architecture import architecture_of
from xtts_export_callback.xtts.parts import part_of

RUN = Path("runs/my_voice-November-22-2026_10+00AM-0000000")
FULL, SLIM, MOMENTS = 5_576_650_782, 1_857_209_972, 3_507_363_448
_GPT = 1_753_681_724


def shapes() -> dict[str, tuple[str, tuple[int, ...]]]:
    tensors = json.loads(LAYOUT.read_text(encoding="utf-8"))["model"]
    return {name: (dtype, tuple(shape)) for name, (dtype, shape) in tensors.items()}


def tensors() -> dict[str, Tensor]:
    empty = ArrayStorage(b"")
    return {name: Tensor(empty, BY_NAME[dtype], shape, row_major(shape)) for name, (dtype, shape) in shapes().items()}


def checkpoint_report() -> CheckpointReport:
    found = tensors()
    bare = {name.removeprefix("xtts."): tensor for name, tensor in found.items() if name.startswith("xtts.")}
    shares = (
        Share("gpt", 455, _GPT), Share("hifigan", 300, 52_000_000), Share("speaker_encoder", 207, 51_527_968),
        Share("mel_stats", 1, 320), Share("dvae", 56, 210_876_752), Share("mel_buffers", 4, 500_352),
        Share("exp_avg", 455, _GPT), Share("exp_avg_sq", 455, _GPT), Share("container", 0, 700_218),
    )  # fmt: skip
    return CheckpointReport(
        path=RUN / "checkpoint_10000.pth",
        nbytes=FULL,
        format="pth",
        kind="training",
        shares=shares,
        slim={"float32": SLIM, "float16": SLIM // 2, "bfloat16": SLIM // 2},
        state={"step": 10_000, "epoch": 12, "date": "November 22, 2026", "train_loss": 2.31, "eval_loss": 2.402},
        dtypes={"float32": 2_068_000_000, "int64": 296},
        prefix="xtts.",
        resumable=True,
        fresh_moments=False,
        obstacles=(),
        architecture=architecture_of(bare, {"model_args": {"gpt_n_heads": 16}}),
        provenance=None,
        tensors=found,
    )


def run_report() -> RunReport:
    saved = (
        SavedReport("checkpoint_8000", 8000, "checkpoint", FULL, 2.51, "", "float32", SLIM),
        SavedReport("best_model_9000", 9000, "best_model", FULL, 2.402, "", "float32", SLIM, needed="best model"),
        SavedReport("checkpoint_10000", 10_000, "checkpoint", FULL, 2.431, "", "", needed="next resume"),
    )
    removals = (
        Removal(RUN / "checkpoint_8000.pth", FULL, "checkpoint", "inference/checkpoint_8000 has the same weights"),
        Removal(RUN / "best_model.pth", FULL, "copy", "becomes a link to best_model_9000.pth, its original"),
    )
    return RunReport(RUN, saved, {"average_last_5": SLIM}, 4 * FULL + 3 * SLIM, removals, FULL - SLIM)


def moved(name: str, shape: tuple[int, ...], share: float | None, *, nonfinite: int = 0) -> Difference:
    """A difference of that share of the norm; None for an identical tensor."""
    elements = 1
    for size in shape:
        elements *= size
    if share is None and not nonfinite:
        return Difference(elements=elements, square_a=float(elements))
    return Difference(
        elements=elements,
        changed=elements,
        nonfinite=nonfinite,
        nonfinite_b=nonfinite,
        square_a=float(elements),
        square_difference=elements * (share or 0.0) ** 2,
        largest=10 * (share or 0.0),
        largest_in=name,
        is_identical=False,
    )


def comparison(share: Callable[[str, int | None], float | None], *, broken: Sequence[int] = ()) -> ComparisonReport:
    """Compare two models that differ as ``share`` says of a name and its layer; layers in ``broken`` hold NaN."""
    found = {}
    for name, (dtype, shape) in shapes().items():
        bare = name.removeprefix("xtts.")
        if not name.startswith("xtts.") or dtype == "int64":
            continue
        layer = part_of(bare).layer
        is_gpt = bare.startswith("gpt.")
        value = share(bare, layer) if is_gpt else None
        found[bare] = moved(bare, shape, value, nonfinite=3 if layer is not None and layer in broken else 0)
    vocabulary: dict[str, list[str]] = {"only_a": [], "only_b": [], "moved": []}
    return ComparisonReport(RUN / "a.pth", RUN / "b.pth", (), (), {}, {}, {}, {}, {}, vocabulary, found)


STEADY = "steady rise"
COMPARISONS: dict[str, Callable[[], ComparisonReport]] = {
    STEADY: lambda: comparison(lambda _, layer: 0.004 if layer is None else 0.002 + 0.010 * layer / 29),
    "even": lambda: comparison(lambda *_: 0.0098),
    "one layer": lambda: comparison(lambda _, layer: 0.02 if layer == 12 else 0.0001),
    "NaN": lambda: comparison(lambda *_: 0.0098, broken=(7, 8)),
    "nothing changed": lambda: comparison(lambda *_: None),
}


def trajectory(steps: Sequence[int] = (500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 8500, 9000, 9200, 10_000)) -> Any:
    """A run whose steps are uneven: what moved since the previous checkpoint shrinks as the run goes on."""
    count = len(steps)

    def way(scale: float) -> Trajectory:
        walked = [0.0, *(scale * 0.01 / (index + 1) for index in range(count - 1))]
        differences = [moved("x", (1000,), each or None) for each in walked]
        far = [moved("x", (1000,), sum(walked[: index + 1]) * 0.7) for index in range(2, count)]
        products = [0.0, 0.0, *(300 * walked[index] * walked[index - 1] for index in range(2, count))]
        return Trajectory(differences, far, products)

    parts = {"text embedding": way(0.3), **{f"layer {layer}": way(0.5 + layer / 30) for layer in range(30)}}
    parts |= {"HiFi-GAN": way(0.0), "speaker encoder": way(0.0), "mel statistics": way(0.0)}
    names = tuple(f"checkpoint_{step}" for step in steps)
    layers = {layer: parts[f"layer {layer}"] for layer in range(30)}
    return TrajectoryReport(RUN, names[0], names, tuple(steps), way(1.0), parts, layers)


def evaluation(*, with_speech: bool = True) -> Evaluation:
    """An evaluation of a run's checkpoints: loss and speech, a tie, and faults."""
    found = []
    names = ("average_last_5", "checkpoint_10000", "best_model_9000", "checkpoint_8000")
    for index, name in enumerate(names):
        loss = Loss(2.31 + 0.04 * index, 2.28 + 0.04 * index, 2.34 + 0.04 * index, {}, [2.31] * 44)
        faults = Faults(
            index if index > 1 else 0, 10, {"no stop token": 2, "loop in the codes": 1} if index > 2 else {}
        )
        heard, voice, natural = (Interval(at, at - by, at + by) for at, by in ((0.021, 0.01), (0.86, 0.02), (4.2, 0.1)))
        tied = [names[1 - index]] if index < 2 else []
        worse = f"more faults: {index} of 10 against 0" if with_speech else f"higher loss: {loss.mean:.2f} against 2.31"
        reason = "best by the rule" if not index else "tied" if tied else worse
        speech = Speech(faults, heard, voice, natural) if with_speech else None
        rank = 1 if index < 2 else index + 1
        found.append(Candidate(name, "checkpoint", loss=loss, speech=speech, rank=rank, tied_with=tied, reason=reason))
    return Evaluation(
        found,
        verdict="average_last_5 and checkpoint_10000 cannot be told apart; the next, best_model_9000, has "
        + ("more faults." if with_speech else "higher loss."),
        data=Data("my_voice", 48),
        not_measured=["characters wrong in cs: pocketsphinx hears English alone; name a model with --asr"],
    )


def sweep() -> Sweep:
    """The losses between a base and a fine-tune, of two languages."""
    weights = [0.0, 0.25, 0.5, 0.75, 1.0]
    target, other = ([Loss(at, at - 0.03, at + 0.03, {}, [at] * 6) for at in losses] for losses in (
        (2.61, 2.42, 2.33, 2.30, 2.34), (1.91, 1.92, 1.95, 2.06, 2.31)
    ))  # fmt: skip
    return Sweep(weights, {"target": target, "de": other})
