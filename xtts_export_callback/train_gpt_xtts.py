"""Fine-tunes the GPT of XTTS v2 from a JSON config, with exports: the stock recipe of coqui-tts, driven by a config.

It does the same as ``xtts-export train``, and ``trainer.distribute`` starts it once per GPU::

    python -m xtts_export_callback.train_gpt_xtts CONFIG.json [--output DIR] [--continue RUN] [--coqpit.KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import pickle
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError, XttsExportError
from xtts_export_callback.files.paths import expanded
from xtts_export_callback.files.printable import printable
from xtts_export_callback.run.resume import folder_fault, number_in, pattern_in
from xtts_export_callback.training.hooks import place_of
from xtts_export_callback.training.overrides import split_overrides
from xtts_export_callback.training.preflight import check_sound
from xtts_export_callback.training.recipe_config import check_fields, read_config

if TYPE_CHECKING:
    from xtts_export_callback.training.trainer_config import RecipeConfig

# AttributeError is how coqui-tts up to 0.24 says that there is no such formatter.
_UNUSABLE = (
    *(AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, ValueError),
    pickle.UnpicklingError,
)


def train(
    config_path: str | Path | None,
    *,
    output: str | Path | None = None,
    continue_run: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Train to the end of ``config.epochs``.

    Args:
        config_path: JSON file with the fields of ``XttsExportTrainerConfig`` and, under ``trainer_args``, those of the
            Trainer's arguments that the stock recipe sets. May be None if ``continue_run`` is given.
        output: Folder for the run folder, in place of the config's ``output_path``.
        continue_run: Run folder to resume, from its last checkpoint and with its ``config.json``, as the Trainer
            does it.
        overrides: ``--coqpit.KEY VALUE`` arguments in place of values in the config, and the Trainer's own, such as
            ``--use_ddp``. The Trainer parses them.

    Returns:
        The run folder.

    Raises:
        ConfigError: If the config cannot be used, names files that are missing, recordings cannot be read here, or the
            model or the data cannot be loaded.
        SystemExit: From the Trainer: 1 when training fails, 130 on Ctrl-C.
    """
    run = _run_to_continue(continue_run) if continue_run is not None else None
    source = run / "config.json" if run else config_path
    if source is None:
        msg = "neither a CONFIG.json nor a run to resume is given (CONFIG.json goes before any --coqpit.KEY VALUE)"
        raise ConfigError(msg)
    raw = read_config(source, overrides=overrides, of_run=run is not None)
    is_recorded = "trainer_args" in raw  # otherwise another script has started the run
    if run and config_path is not None and is_recorded:
        msg = (
            f"{config_path}: a resumed run goes on with its own {source}; leave {Path(config_path).name} out, and set "
            "single fields with --coqpit.KEY VALUE"
        )
        raise ConfigError(msg)
    if run and config_path is None and not is_recorded:
        msg = (
            f"{source}: has no trainer_args: another script has started this run. Resume it with that script "
            "(xtts-export run SCRIPT --continue_path RUN), or give a CONFIG.json with trainer_args as well"
        )
        raise ConfigError(msg)
    check_sound()
    if run and config_path is not None:
        raw["trainer_args"] = _trainer_args(config_path, overrides)
    if output is not None:
        raw["output_path"] = str(expanded(output))
    return _fit(raw, source=source, run=run, overrides=list(overrides))


def _trainer_args(config_path: str | Path, overrides: Sequence[str]) -> Any:
    """Read and check the section ``trainer_args`` of a config that a person wrote."""
    section = {"trainer_args": read_config(config_path, overrides=overrides).get("trainer_args", {})}
    from xtts_export_callback.training.trainer_config import RecipeConfig

    check_fields(RecipeConfig, section, source=config_path)
    return section["trainer_args"]


def _fit(raw: dict[str, Any], *, source: str | Path, run: Path | None, overrides: list[str]) -> Path:
    """Build config, model and Trainer, and train, as the stock recipe does, plus the one line for the callback."""
    from trainer import Trainer, TrainerArgs
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

    from xtts_export_callback import export_callbacks

    config = _make_config(raw, source=source, of_run=run is not None, overrides=overrides)
    if run is None:
        _refuse_unfindable_run(config)
    with _named_errors(f"{source}: cannot read the data sets"):
        train_samples, eval_samples = _load_samples(config)
    with _named_errors(f"{source}: cannot build the model"):
        model = GPTTrainer(config)
    with _command_line(overrides):
        trainer = Trainer(
            TrainerArgs(**config.trainer_args.to_dict(), continue_path=str(run) if run else ""),
            config,
            output_path=config.output_path,
            model=model,
            train_samples=train_samples,
            eval_samples=eval_samples,
            callbacks=export_callbacks(config),
        )
    trainer.fit()
    return place_of(trainer.output_path)


def _make_config(raw: dict[str, Any], *, source: str | Path, of_run: bool, overrides: list[str]) -> RecipeConfig:
    """Turn the JSON and the command line into a config, in the way and order of ``Trainer.init_training``."""
    from xtts_export_callback.training.trainer_config import RecipeConfig

    check_fields(RecipeConfig, raw, source=source, of_run=of_run)
    config = RecipeConfig()
    try:
        config.from_dict(raw)
        config.check_values()
    except ConfigError as error:
        msg = f"{source}: {error}"
        raise ConfigError(msg) from None
    _apply_overrides(config, overrides)
    return config


def _apply_overrides(config: RecipeConfig, overrides: list[str]) -> None:
    """Set the fields that ``--coqpit.KEY VALUE`` arguments name, and refuse those that the Trainer would ignore."""
    from trainer import TrainerArgs

    if not overrides:  # Coqpit reads the command line of the process instead of an empty list
        return
    trainer_args = TrainerArgs()
    with _one_line_usage():
        unknown = trainer_args.parse_known_args(overrides, arg_prefix="")
        if unknown:
            unknown = config.parse_known_args(unknown, relaxed_parser=True)
    if unknown:
        msg = f"{' '.join(unknown)}: no such option or field; CONFIG.json goes first, then --coqpit.KEY VALUE"
        raise ConfigError(msg)
    for name in ("continue_path", *config.trainer_args):
        if trainer_args[name] != TrainerArgs()[name]:
            use = "--continue RUN" if name == "continue_path" else f"--coqpit.trainer_args.{name}"
            msg = f"--{name}: the recipe sets it; use {use}"
            raise ConfigError(msg)


@contextlib.contextmanager
def _one_line_usage() -> Iterator[None]:
    """Turn an error of argparse into its last line: the usage that it prints lists every field of the config."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            yield
    except SystemExit:
        msg = output.getvalue().strip().rpartition("error: ")[2]
        raise ConfigError(msg) from None


def _load_samples(config: RecipeConfig) -> tuple[list[Any], list[Any]]:
    """Split the data sets into training and evaluation samples."""
    from TTS.tts.datasets import load_tts_samples

    # A list of data sets up to coqui-tts 0.27, from 0.28 on the config that holds them.
    takes_list = "datasets" in inspect.signature(load_tts_samples).parameters
    train_samples, eval_samples = load_tts_samples(
        config.datasets if takes_list else config,
        eval_split=True,
        eval_split_max_size=config.eval_split_max_size,
        eval_split_size=config.eval_split_size,
    )
    return train_samples, eval_samples


def _run_to_continue(folder: str | Path) -> Path:
    """Return the run folder if the Trainer can resume it.

    The Trainer takes any ``.pth`` in a folder whose path has "checkpoint" in it, so it would take an inference folder
    for a run, and overwrite its config.json.
    """
    run = expanded(folder)
    if not run.is_dir():
        msg = f"{run}: no such run folder"
        raise ConfigError(msg)
    if not any(run.glob("checkpoint_*.pth")) and not any(run.glob("best_model*.pth")):
        msg = (
            f"{run}: holds no checkpoint_N.pth or best_model.pth to resume from; "
            "to fine-tune an inference model, start a run with model_args.xtts_checkpoint set to its model.pth"
        )
        raise ConfigError(msg)
    fault = folder_fault(run)
    if fault:
        raise ConfigError(fault)
    config = run / "config.json"
    if config.exists() and not config.is_file():  # the Trainer would wait for ever at a named pipe
        msg = f"{config}: not a regular file, expected the config.json that the Trainer wrote; put it back"
        raise ConfigError(msg)
    return run


def _refuse_unfindable_run(config: RecipeConfig) -> None:
    """Refuse a new run that the Trainer could not resume because of its folder's name."""
    if "://" in config.output_path:  # no folder of this disk
        return
    run = Path(config.output_path, config.run_name)
    fault = pattern_in(run)
    if not fault and (number := number_in(run)):
        habit = "which the Trainer would read as the number of every checkpoint in it"
        fault = f"the folder name {run} contains {number}, {habit}; rename it"
    if fault:
        msg = f"output_path and run_name: {fault}"
        raise ConfigError(msg)


@contextlib.contextmanager
def _named_errors(what: str) -> Iterator[None]:
    """Turn Coqui's errors for unusable input into one line that names the failed action."""
    try:
        yield
    except _UNUSABLE as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        msg = f"{what}: {cause[:500]}"  # torch lists every tensor that does not fit
        raise ConfigError(msg) from error


@contextlib.contextmanager
def _command_line(overrides: list[str]) -> Iterator[None]:
    """Let the Trainer, which reads ``sys.argv``, see only the overrides, and this file as the training script.

    It applies them last, after the config.json of a run that it resumes, and keeps a copy of the script in the run.
    """
    before = sys.argv
    sys.argv = [__file__, *overrides]
    try:
        yield
    finally:
        sys.argv = before


def main(argv: Sequence[str] | None = None) -> int:
    """Train from the command line.

    Args:
        argv: Command line without the program's name, by default that of the process.

    Returns:
        The exit code: 0, 2 for bad usage or input, with one line on stderr, or 130 when interrupted.
    """
    own, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m xtts_export_callback.train_gpt_xtts", description=__doc__)
    parser.add_argument(
        "config", metavar="CONFIG.json", nargs="?", help="the training config; not needed with --continue"
    )
    parser.add_argument("--output", metavar="DIR", help="folder for the run folder, in place of output_path")
    parser.add_argument("--continue", metavar="RUN", dest="run", help="run folder to resume from its last checkpoint")
    arguments = parser.parse_args(own)
    try:
        train(arguments.config, output=arguments.output, continue_run=arguments.run, overrides=overrides)
    except XttsExportError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before or after training: during it the Trainer saves and ends the process itself
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
