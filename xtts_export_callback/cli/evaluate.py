"""Measure the evaluation loss of models on the same clips, rank them, and say what is no more than chance.

A run stands for all of its checkpoints and exports. The clips are the run's evaluation split; --data names others:
the folder that the data set has moved to, or a metadata file, of which every clip is used.

Candidates are compared clip by clip (paired bootstrap, 95 %). A difference that may be chance makes a tie.

--output keeps what is measured in DIR/evaluation.json after each candidate. Ctrl-C loses one candidate at most, and
the same command goes on from there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.cli.json_output import print_json
from xtts_export_callback.cli.progress import clips_bar

if TYPE_CHECKING:
    import argparse

HELP = "measure models on the same clips and choose, with ties named"
_INTERRUPTED = 130
_RULE = "faults,errors,voice,loss"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("paths", nargs="+", metavar="RUN|MODEL", help="runs, checkpoints, exports, averages, merges")
    parser.add_argument("--config", metavar="FILE", help="config.json of the run (default: that of the only RUN)")
    parser.add_argument(
        "--data", metavar="FOLDER|FILE", help="where the data set is now, or a metadata file with clips to evaluate"
    )
    parser.add_argument("--language", metavar="CODE", help="language of the clips in --data FILE")
    parser.add_argument("--device", help="such as cuda or cpu (default: the first GPU, or else the CPU)")
    parser.add_argument("--output", metavar="DIR", help="folder for evaluation.json")
    parser.add_argument("--force", action="store_true", help="replace an evaluation of other data in DIR")
    parser.add_argument(
        "--by", default=_RULE, metavar="MEASURE,...", help=f"what decides, in this order (default: {_RULE})"
    )
    parser.add_argument("--json", action="store_true", help="print only JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, rank, print."""
    from xtts_export_callback.evaluation.evaluate import evaluate_checkpoints

    options = {key: getattr(args, key) for key in ("config", "data", "language", "device", "output", "force")}
    try:
        with clips_bar("evaluate") as progress:
            found = evaluate_checkpoints(args.paths, by=args.by.split(","), progress=progress, **options)
    except KeyboardInterrupt:
        if args.output is None:
            raise
        line = f"interrupted; {Path(args.output)} keeps what is measured, and the same command goes on from there"
        print(f"xtts-export: {line}", file=sys.stderr)
        return _INTERRUPTED
    if args.json:
        print_json(found.to_dict())
    else:
        from xtts_export_callback.evaluation.table import show_evaluation

        show_evaluation(found)
    return 0
