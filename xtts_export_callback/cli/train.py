"""Fine-tune XTTS v2 from a JSON config: the stock recipe, with one flag that turns the export on.

Every field of the config can be set on the command line as --coqpit.KEY VALUE, for example
--coqpit.export.enabled true or --coqpit.batch_size 2. Start from configs/finetune_xtts_v2.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

HELP = "fine-tune XTTS v2 with the export turned on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("config", nargs="?", metavar="CONFIG.json", help="the training config")
    parser.add_argument("--output", metavar="DIR", help="folder for run folders (default: output_path of the config)")
    parser.add_argument("--continue", dest="continue_run", metavar="RUN", help="resume this run from its last save")


def run(args: argparse.Namespace) -> int:
    """Train."""
    from xtts_export_callback.train_gpt_xtts import train

    train(args.config, output=args.output, continue_run=args.continue_run, overrides=args.overrides)
    return 0
