"""The configs that come with the package, to start from."""

from __future__ import annotations

from pathlib import Path

TEMPLATE = "finetune_xtts_v2.json"
"""The config of a fine-tuning, with the values of Coqui's recipe and the options of the export."""

_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # installed, and in a checkout


def read_template(name: str) -> bytes:
    """Read one of the configs in ``configs/``.

    Args:
        name: Its file name.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: When the installation is not complete.
    """
    found = next((folder for folder in _PLACES if (folder / name).is_file()), _PLACES[0])
    return (found / name).read_bytes()
