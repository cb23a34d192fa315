"""A script as a user types it: every public name, checked by ``mypy --strict`` and never run."""

from __future__ import annotations

from pathlib import Path

import xtts_export_callback as xtts
from xtts_export_callback import (
    Architecture,
    CheckpointError,
    CheckpointReport,
    ComparisonReport,
    ConfigError,
    DamagedError,
    Difference,
    Evaluation,
    ExportCallback,
    ExportConfig,
    Fault,
    IncompatibleError,
    MissingExtraError,
    OutputExistsError,
    Resume,
    RunReport,
    RunVerification,
    SavedReport,
    Share,
    SpeechOptions,
    Trajectory,
    TrajectoryReport,
    VerificationError,
    VerificationReport,
    WrittenFolder,
    XttsExportError,
    XttsExportTrainerConfig,
    average_checkpoints,
    compare_checkpoints,
    compare_run,
    evaluate_checkpoints,
    export_callbacks,
    export_checkpoint,
    inspect_checkpoint,
    inspect_run,
    load_xtts,
    merge_checkpoints,
    verify_checkpoint,
    verify_run,
)


def train() -> dict[str, object]:
    config = XttsExportTrainerConfig(export=ExportConfig(enabled=True, keep_last=3))
    callbacks = export_callbacks(config)
    return {**callbacks, **ExportCallback(config).as_callbacks(callbacks)}


def write(run: Path) -> list[WrittenFolder]:
    try:
        written = [export_checkpoint(run / "checkpoint_1000.pth", dtype="float16", force=True)]
        written.append(average_checkpoints([run / "a.pth", str(run / "b.pth")], "average", weights=[1, 2]))
        written.append(merge_checkpoints({"models": ["a.pth", "b.pth"]}, "merged"))
    except (DamagedError, CheckpointError) as error:
        print("not a whole checkpoint:", error)
    except (IncompatibleError, OutputExistsError, ConfigError, VerificationError, MissingExtraError) as error:
        print(error)
    except XttsExportError:
        raise
    return [folder for folder in written if folder.written and folder.nbytes and not folder.notes]


def look(path: str) -> tuple[str, int, float | None]:
    report: CheckpointReport = inspect_checkpoint(path)
    shares: tuple[Share, ...] = report.shares
    architecture: Architecture | None = report.architecture
    run: RunReport = inspect_run(path)
    saved: tuple[SavedReport, ...] = run.checkpoints
    layers = architecture.layers if architecture is not None else 0
    return report.kind, layers + sum(share.nbytes for share in shares), saved[0].eval_loss


def compare(a: Path, b: Path) -> list[float]:
    report: ComparisonReport = compare_checkpoints(a, b)
    differences: dict[str, Difference] = report.tensors
    way: TrajectoryReport = compare_run(a)
    gpt: Trajectory = way.gpt
    return [*(found.relative_l2 for found in differences.values()), *gpt.away]


def check(folder: Path) -> list[str]:
    report: VerificationReport = verify_checkpoint(folder, load=True)
    run: RunVerification = verify_run(folder)
    resume: Resume = run.resume
    faults: list[Fault] = [*report.faults, *run.faults]
    return [f"{fault.check}: {fault.message}" for fault in faults] if resume.checkpoint else []


def speak(folder: Path) -> object:
    return load_xtts(folder, device="cpu", compute="int8")


def choose(run: Path, voice: Path) -> str:
    found: Evaluation = evaluate_checkpoints([run], speech=SpeechOptions(voice=voice))
    return found.verdict


print(xtts.__version__)
