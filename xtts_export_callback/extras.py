"""Packages that only some tasks need, and which extra installs them.

The file commands need none of them. Who trains has torch and Coqui already, in the versions that their program wants,
and installing this package must not change them.
"""

from __future__ import annotations

from xtts_export_callback.errors import MissingExtraError

_PACKAGES = {
    "completion": {"shtab": "shtab"},
    "report": {"jinja2": "jinja2", "soundfile": "soundfile"},
    "train": {"torch": "torch", "torchaudio": "torchaudio", "TTS": "coqui-tts", "trainer": "coqui-tts-trainer"},
    "remote": {"aiohttp": "aiohttp", "fsspec": "fsspec", "huggingface_hub": "huggingface_hub"},
    "speech": {
        "torch": "torch",
        "torchaudio": "torchaudio",
        "soundfile": "soundfile",
        "pocketsphinx": "pocketsphinx",
        "distillmos": "distillmos",
        "silero_vad": "silero-vad",
    },
}
"""What each extra installs: the package by the module that is imported."""


def require(extra: str, task: str, *modules: str) -> None:
    """Refuse a task whose packages are not installed. Imports none of them.

    Args:
        extra: Name of the extra that installs them.
        task: What the packages are needed for, for the message.
        *modules: Those of the extra that the task needs; all of them by default.

    Raises:
        MissingExtraError: With what is missing and the command that installs it.
    """
    packages = _PACKAGES[extra]
    missing = [packages[name] for name in modules or packages if not _is_installed(name)]
    if missing:
        msg = (
            f"{task} needs packages that are not installed ({', '.join(missing)}); install them with "
            f'pip install "xtts-export-callback[{extra}]" (in a checkout: pip install ".[{extra}]")'
        )
        raise MissingExtraError(msg)


def _is_installed(module: str) -> bool:
    import importlib.util  # no command needs it to start

    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # somebody has put something else, or None, in its place
        return False
