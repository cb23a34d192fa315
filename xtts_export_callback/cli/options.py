"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

LAYOUTS = (
    *("alltalk", "auralis", "ebook2audiobook", "realtimetts", "openedai-speech", "xtts-webui"),
    *("xtts-finetune-webui", "xtts-api-server"),
)
"""Names in `inference_folder.layouts.LAYOUTS`, whose import takes longer than this whole module's."""


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``, ``-q`` and ``-v``, the same in every command; `cli.reporting` follows them."""
    parser.add_argument("--json", action="store_true", help="print only JSON, also for errors")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("-v", "--verbose", action="store_true", help="print more, and the traceback of an error")


def add_output_options(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add ``--output`` and ``--force``, the same in every command that writes."""
    parser.add_argument("--output", metavar="DIR", help=f"folder to write (default: {default})")
    parser.add_argument("--force", action="store_true", help="replace an output that exists")


def add_layout_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--layout`` and ``--voice``, the same in every command that writes a model."""
    parser.add_argument(
        "--layout",
        type=str.lower,
        choices=LAYOUTS,
        metavar="NAME",
        help=f"write what a program takes: {', '.join(LAYOUTS)}",
    )
    parser.add_argument(
        "--voice", metavar="WAV", help="a recording to put beside the model as its voice, with the latents of it"
    )


def add_storage_options(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add ``--dtype`` and ``--precision``, the same in every command that writes a model."""
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16", "int8"),
        metavar="TYPE",
        help=f"float32, float16, bfloat16, or int8 for load_xtts alone (default: {default})",
    )
    parser.add_argument(
        "--precision",
        action="append",
        default=[],
        metavar="PATTERN=TYPE",
        help="another type for a part, such as decoder=float32; the first match counts; may be repeated",
    )


def add_asset_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--vocab`` and ``--config``, for sources without their own."""
    parser.add_argument("--vocab", metavar="FILE", help="the training vocab.json, if it is not found automatically")
    parser.add_argument("--config", metavar="FILE", help="a config.json to use in place of the checkpoint's own")
