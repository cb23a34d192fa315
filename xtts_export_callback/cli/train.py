"""Fine-tune XTTS v2 from a JSON config: the stock recipe, with one flag that turns the export on.

Every field of the config can be set on the command line as --coqpit.KEY VALUE, for example
--coqpit.export.enabled true or --coqpit.batch_size 2. --template writes the config to start from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.cli.options import add_report_options
from xtts_export_callback.cli.progress import say
from xtts_export_callback.cli.reporting import only_the_result, report
from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.extras import require
from xtts_export_callback.files.paths import expanded

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("config", nargs="?", metavar="CONFIG.json", help="the training config")
    parser.add_argument("--template", metavar="FILE", help="write the config to start from to FILE, and stop")
    parser.add_argument("--output", metavar="DIR", help="folder for run folders (default: output_path of the config)")
    parser.add_argument("--continue", dest="continue_run", metavar="RUN", help="resume this run from its last save")
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Train, or write the config to start from."""
    if args.template is not None:
        others = [args.config, args.output, args.continue_run, *args.overrides]
        if any(others):
            msg = f"--template {args.template}: expected alone, found {next(filter(None, others))}; leave one out"
            raise ConfigError(msg)
        path = expanded(args.template)
        _write_template(path)
        report(
            args,
            lambda: {"template": str(path)},
            lambda: say(f"{path}: put in your paths, then: xtts-export train {path}"),
        )
        return 0
    require("train", "xtts-export train")
    from xtts_export_callback.train_gpt_xtts import train

    with only_the_result(args):
        folder = train(args.config, output=args.output, continue_run=args.continue_run, overrides=args.overrides)
    report(args, lambda: {"run": str(folder)}, lambda: None)
    return 0


def _write_template(path: Path) -> None:
    from xtts_export_callback.files.atomic import whole_file
    from xtts_export_callback.training.templates import TEMPLATE, read_template

    if path.exists() or path.is_symlink():
        msg = f"{path}: exists already; name another file"
        raise OutputExistsError(msg)
    with whole_file(path) as temporary:
        temporary.write_bytes(read_template(TEMPLATE))
