"""Options and output that ``average`` and ``merge`` share."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

from xtts_export_callback.cli.options import add_layout_options, add_storage_options
from xtts_export_callback.cli.progress import progress_bar, say
from xtts_export_callback.cli.reporting import files_of, report
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from xtts_export_callback.inference_folder.folder import WrittenFolder
    from xtts_export_callback.merge.plan import Plan

_TRAINING_FILES = {
    "model.pth": "xtts_checkpoint",
    "vocab.json": "tokenizer_file",
    "mel_stats.pth": "mel_norm_file",
    "dvae.pth": "dvae_checkpoint",
}


def add_merge_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype``, ``--precision``, ``--for-training`` and the options of a layout."""
    add_storage_options(parser, default="that of the inputs")
    add_layout_options(parser)
    parser.add_argument(
        "--for-training", action="store_true", help="also write the files that GPTTrainer needs to fine-tune it"
    )


def write_and_report(args: argparse.Namespace, plan: Plan, output: Path, *, kind: str) -> int:
    """Write a merge with a progress bar, then say what was done.

    Args:
        args: The command line, with the options of `add_merge_options`.
        plan: The merge.
        output: The folder to write.
        kind: As for `write_merge`.

    Returns:
        The exit code.
    """
    from xtts_export_callback.merge.merge import write_merge

    options = {key: getattr(args, key) for key in ("for_training", "layout", "voice", "force")}
    started = time.perf_counter()
    with progress_bar(output.name, plan.nbytes, quiet=args.quiet) as progress:
        result = write_merge(plan, output, kind=kind, progress=progress, **options)
    seconds = time.perf_counter() - started
    report(args, result.to_dict, lambda: _show(args, output, result, seconds))
    return 0


def _show(args: argparse.Namespace, output: Path, result: WrittenFolder, seconds: float) -> None:
    rules = result.provenance["rules"]
    is_mean = rules["method"] == "linear" and not rules["rules"]
    for source in result.provenance["sources"]:
        weight = f"{source['weight']:.4g} x " if is_mean else ""
        say(f"  {weight}{source['model']} (step {source['step']})")
    for line in [] if is_mean else rules["summary"]:
        say(f"  {line}")
    _print_remarks(rules)
    for line in (*result.notes, *(files_of(result) if args.verbose else ())):
        say(f"  {line}")
    dtype = result.provenance["dtype"]
    say(f"{output}: {human_size(result.nbytes)} of {dtype}, verified, {seconds:.1f} s")
    if args.layout:
        from xtts_export_callback.inference_folder.layouts import layout_of

        say(f"  {layout_of(args.layout).place(output)}")
    if args.for_training:
        _print_how_to_train(output, result.provenance)


def _print_remarks(rules: dict[str, Any]) -> None:
    differing = rules["integers"]["differing"]
    if differing:
        say(f"  {len(differing)} integer tensors differ: the {rules['integers']['policy']} model's are used")
    if rules.get("dvae", {}).get("differing"):
        taken, others = rules["dvae"]["taken"], ", ".join(rules["dvae"]["differing"])
        say(f"  the DVAE of {taken} is used, not that of {others}: each GPT was trained on the codes of its own")
    for name, dtype in rules["half_precision"].items():
        say(f"  {name} is {dtype}: the result is no more precise than that; use the full checkpoint where it exists")


def _print_how_to_train(output: Path, provenance: dict[str, Any]) -> None:
    there = [(field, output / name) for name, field in _TRAINING_FILES.items() if name in provenance["files"]]
    options = " ".join(f"--coqpit.model_args.{field} {shlex.quote(str(path))}" for field, path in there)
    say("To fine-tune it:")
    say(f"  xtts-export train CONFIG.json {options}")
    missing = [name for name in _TRAINING_FILES if name not in provenance["files"]]
    if missing:
        say(f"  {' and '.join(missing)} not found in the inputs: use those that the inputs were trained with")
