"""Measure the evaluation loss of models on the same clips, rank them, and say what is no more than chance.

A run stands for all of its checkpoints and exports. The clips are the run's evaluation split; --data names others:
the folder that the data set has moved to, or a metadata file, of which every clip is used.

Candidates are compared clip by clip (paired bootstrap, 95 %). A difference that may be chance makes a tie.

--output keeps what is measured in DIR/evaluation.json after each candidate. Ctrl-C loses one candidate at most, and
the same command goes on from there.

--speech has each model say the same sentences with the same voice and seeds, keeps the clips in DIR/MODEL, and
measures characters wrong, similarity to the voice, naturalness and faults. --wavs measures recordings instead.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.cli.options import add_report_options
from xtts_export_callback.cli.progress import clips_bar, duration, say
from xtts_export_callback.cli.reporting import report
from xtts_export_callback.cli.speech_options import add_speech_options, speech_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from xtts_export_callback.evaluation.results import Evaluation

    Progress = Callable[[int, int], None]

_INTERRUPTED = 130
_RULE = "faults,errors,voice,loss"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("paths", nargs="*", metavar="RUN|MODEL", help="runs, checkpoints, exports, averages, merges")
    parser.add_argument("--config", metavar="FILE", help="config.json of the run (default: that of the only RUN)")
    parser.add_argument(
        "--data", metavar="FOLDER|FILE", help="where the data set is now, or a metadata file with clips to evaluate"
    )
    parser.add_argument("--language", metavar="CODE", help="language of the clips in --data FILE, or of --sentences")
    parser.add_argument("--device", help="such as cuda or cpu (default: the first GPU, or else the CPU)")
    parser.add_argument("--output", metavar="DIR", help="folder for evaluation.json")
    parser.add_argument("--force", action="store_true", help="replace an evaluation of other data in DIR")
    parser.add_argument(
        "--by", default=_RULE, metavar="MEASURE,...", help=f"what decides, in this order (default: {_RULE})"
    )
    parser.add_argument(
        "--greedy",
        action="store_true",
        help="also build the greedy soup by the loss, with --speech by the speech, and write it to DIR/greedy_soup (or "
        "RUN/inference/greedy_soup)",
    )
    parser.add_argument(
        "--sweep", metavar="BASE", help="in place of that, the loss of each weight between BASE and the one MODEL"
    )
    parser.add_argument(
        "--others",
        nargs="+",
        metavar="CODE=FILE",
        help="with --sweep: metadata of other languages, to see what they lose",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="with --sweep: number of steps (default: 5)")
    add_speech_options(parser)
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, rank, print."""
    if args.sweep is not None:
        return _sweep(args)
    try:
        with clips_bar("evaluate", quiet=args.quiet) as progress:
            found = _of_recordings(args, progress) if args.wavs is not None else _of_models(args, progress)
    except KeyboardInterrupt:
        if args.output is None:
            raise
        line = f"interrupted; {Path(args.output)} keeps what is measured, and the same command goes on from there"
        print(f"xtts-export: {line}", file=sys.stderr)
        return _INTERRUPTED
    from xtts_export_callback.evaluation.table import show_evaluation

    report(args, found.to_dict, lambda: show_evaluation(found))
    return 0


def _sweep(args: argparse.Namespace) -> int:
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.evaluation.sweep import DEFAULT_STEPS, sweep_weights

    if len(args.paths) != 1:
        msg = f"--sweep {args.sweep}: expected one MODEL beside it, found {len(args.paths)}; name one"
        raise ConfigError(msg)
    if args.config is None:
        msg = f"--sweep {args.sweep}: expected --config FILE, that of the run whose data is evaluated; add it"
        raise ConfigError(msg)
    others = dict(one.partition("=")[::2] for one in args.others or [])
    if not all(code and file for code, file in others.items()):
        msg = f"--others {' '.join(args.others)}: expected CODE=FILE, such as de=metadata_de.csv"
        raise ConfigError(msg)
    options = {key: getattr(args, key) for key in ("config", "data", "language", "device")}
    steps = DEFAULT_STEPS if args.steps is None else args.steps
    with clips_bar("sweep", quiet=args.quiet) as progress:
        found = sweep_weights(args.paths[0], args.sweep, others=others, steps=steps, progress=progress, **options)
    from xtts_export_callback.evaluation.table import show_sweep

    report(args, found.to_dict, lambda: show_sweep(found))
    return 0


def _of_models(args: argparse.Namespace, progress: Progress) -> Evaluation:
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.evaluation.evaluate import evaluate_checkpoints

    if not args.paths:
        msg = "evaluate: expected runs or models, or recordings with --wavs DIR; name some"
        raise ConfigError(msg)

    def forecast(seconds: float, clips: int) -> None:
        if not args.quiet:
            say(f"evaluate: {clips} clips to speak and measure, about {duration(seconds)}", file=sys.stderr)

    options: dict[str, Any] = {
        key: getattr(args, key) for key in ("config", "data", "language", "device", "output", "force", "greedy")
    }
    options |= {"speech": speech_options(args), "forecast": forecast, "progress": progress}
    return evaluate_checkpoints(args.paths, by=args.by.split(","), **options)


def _of_recordings(args: argparse.Namespace, progress: Progress) -> Evaluation:
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.evaluation.evaluate_recordings import evaluate_recordings

    if args.paths or args.speech:
        msg = "--wavs measures recordings alone; leave out --speech and the models, or evaluate these by themselves"
        raise ConfigError(msg)
    options = {key: getattr(args, key) for key in ("sentences", "voice", "encoder", "asr", "output", "force")}
    language = args.language or "en"
    return evaluate_recordings(args.wavs, by=args.by.split(","), language=language, progress=progress, **options)
