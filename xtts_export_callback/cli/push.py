"""Put an inference folder on the Hugging Face Hub, with a model card, in a private repository.

Verifies the folder, says what is sent and how much, and refuses to send local paths, names of users or hosts, and keys.
A recording of a voice, and what was made from one, is somebody's: it is sent with --include-voice alone, or when you
say so. An interrupted push goes on where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.cli.options import add_report_options
from xtts_export_callback.cli.progress import progress_bar, say
from xtts_export_callback.cli.reporting import only_the_result, report, tell
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from xtts_export_callback.hub.push import Push

_DONE = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("folder", metavar="FOLDER", help="an inference folder")
    parser.add_argument("repo", metavar="REPO", help="the repository, USER/NAME; made if it is not there")
    parser.add_argument("--public", action="store_true", help="let everybody see it (default: private)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and the card, and stop")
    parser.add_argument("--include-voice", action="store_true", help="send the voice in the folder without asking")
    parser.add_argument(
        "--base-model",
        action="append",
        default=[],
        metavar="REPO",
        help="what it was fine-tuned from or merged of, for the card; may be repeated (default: coqui/XTTS-v2)",
    )
    parser.add_argument(
        "--evaluation",
        metavar="DIR",
        help="what evaluate --output wrote, for the card (default: RUN/evaluation, if it has this model)",
    )
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Say what is sent, ask about a voice, send."""
    from xtts_export_callback.inference_folder.ownership import folder_bytes

    folder = Path(args.folder)
    with progress_bar("verify", folder_bytes(folder), quiet=args.quiet) as progress:
        push = _plan(folder, args, progress)
    _show(push, args)
    if args.dry_run:
        report(args, lambda: {**push.to_dict(), "url": None}, lambda: _show_card(push))
        return _DONE
    if not _may_send_voice(push, args):
        say("nothing sent")
        return _DONE
    url = _send(push, args)
    report(args, lambda: {**push.to_dict(), "url": url}, lambda: say(url))
    return _DONE


def _plan(folder: Path, args: argparse.Namespace, progress: Callable[[int], None]) -> Push:
    from xtts_export_callback.hub.push import plan_push

    return plan_push(
        folder,
        args.repo,
        public=args.public,
        base_models=args.base_model,
        evaluation=Path(args.evaluation) if args.evaluation else None,
        progress=progress,
    )


def _show(push: Push, args: argparse.Namespace) -> None:
    visible = "public" if push.public else "private"
    tell(args, f"{push.repo} ({visible}): {len(push.files)} files, {human_size(sum(push.files.values()))}")
    for name, size in push.files.items():
        tell(args, f"  {name}: {human_size(size)}{', holds a voice' if name in push.contents.voices else ''}")
    for name in push.contents.left_out:
        tell(args, f"  {name}: stays here, since it is not part of the model")


def _show_card(push: Push) -> None:
    for line in ("", *push.card.splitlines()):
        say(line)


def _may_send_voice(push: Push, args: argparse.Namespace) -> bool:
    from xtts_export_callback.errors import ConfigError

    if not push.contents.voices or args.include_voice:
        return True
    if not (args.json or args.quiet) and sys.stdin.isatty() and sys.stdout.isatty():
        question = f"Send the voice, too ({', '.join(push.contents.voices)})? [y/N] "
        return input(question).strip().lower() in ("y", "yes")
    msg = (
        f"{push.contents.folder}: {push.contents.voices[0]} holds a voice, which is not sent unasked; add "
        "--include-voice, or write the folder without --voice"
    )
    raise ConfigError(msg)


def _send(push: Push, args: argparse.Namespace) -> str:
    from xtts_export_callback.hub.push import send

    with only_the_result(args):
        return send(push, say=lambda line: tell(args, line), show_progress=not args.quiet and sys.stderr.isatty())
