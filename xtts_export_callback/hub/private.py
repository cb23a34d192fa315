"""Finds what must not leave this machine in what is about to be sent: paths, names of users and hosts, keys."""

from __future__ import annotations

import getpass
import os
import re
import socket
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import parse_json, read_small_file
from xtts_export_callback.hub.contents import CARD_FILE
from xtts_export_callback.xtts.assets import LICENSE_FILE, VOCAB_FILE
from xtts_export_callback.xtts.companions import SPEAKERS, open_companion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xtts_export_callback.hub.contents import Contents

_WEIGHTS = (".pth", ".safetensors")
_PATTERNS = {
    "a path": re.compile(
        r"""(?<![\w.:/~}<>-])/[\w.@+-]+/[\w.@+-]  # from the root; no URL, no relative path
        | \b[A-Za-z]:[\\/]{1,2}\w | \\\\\w[\w.-]*\\ | (?<!\w)~(?:[a-z_][\w-]*)?/\w | \bfile:/""",
        re.VERBOSE,
    ),
    "a key": re.compile(
        r"""\bhf_[A-Za-z0-9]{16,} | \bsk-[A-Za-z0-9_-]{16,} | \bgh[opsur]_[A-Za-z0-9]{16,} | \bAKIA[A-Z0-9]{12,}
        | \bglpat-[\w-]{16,} | \bxox[a-z]-[\w-]{10,} | \beyJ[\w-]{10,}\.[\w-]{10,}
        | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY | ://[^/\s:@]*:[^/\s@]+@""",
        re.VERBOSE,
    ),
}
# A vocabulary has words of every language, and a license the names of its authors.
_OF_OTHERS = (VOCAB_FILE, "tokenizer.json", LICENSE_FILE)
_SECRET_NAMES = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
_SHORTEST_SECRET, _SHORTEST_NAME = 8, 3
# Names of accounts and machines that say nothing of anybody.
_COMMON_NAMES = frozenset(
    {"root", "user", "admin", "ubuntu", "debian", "runner", "docker", "localhost", "model", "voice"}
)


def check_private(contents: Contents, card: str, repo: str) -> None:
    """Refuse to send what holds a path, a name of a user or a host, or a key of this machine.

    Args:
        contents: What is sent; of the weights, everything but the numbers is looked at.
        card: The model card.
        repo: The repository. What its name says is public.

    Raises:
        ConfigError: Naming the file and the place in it, and never the value of a key.
    """
    find = _finder(contents.folder, repo)
    for name in contents.files:
        for place, text in _texts_of(contents.folder / name):
            found = find(text, names=PurePosixPath(name).name not in _OF_OTHERS)
            if found:
                where = f"{name}, {place}" if place else name
                _refuse(contents.folder, where, found)
    found = find(card, names=False)  # the words of it that are not ours come from the files
    if found:
        _refuse(contents.folder, CARD_FILE, found)


def _refuse(folder: Path, where: str, found: str) -> None:
    msg = f"{folder}: not sent, since {where} holds {found}; rename the source or edit the file, and write it anew"
    raise ConfigError(msg)


def _finder(folder: Path, repo: str) -> Callable[..., str]:
    """Return what says what a text gives away, empty for nothing."""
    places = {str(Path.home()), str(folder.resolve().parent), os.getcwd()} - {"/"}  # noqa: PTH109 - as texts have it
    secrets = {value: f"the value of {name}" for name, value in os.environ.items() if _is_secret(name, value)}
    secrets |= dict.fromkeys(_hub_token(), "the token for the Hub")
    public = set(re.split(r"[^a-z0-9]+", repo.lower()))
    users = {name.lower(): "the user name" for name in _user_names()}
    hosts = {name.lower(): "the host name" for name in (socket.gethostname(), socket.gethostname().partition(".")[0])}
    words = {
        name: what
        for name, what in (users | hosts).items()
        if len(name) >= _SHORTEST_NAME and name not in public | _COMMON_NAMES
    }

    def find(text: str, *, names: bool) -> str:
        for secret, what in secrets.items():
            if secret in text:
                return what
        for what, pattern in _PATTERNS.items():
            if match := pattern.search(text):
                shown = text[match.start() :].split(maxsplit=1)[0][:60]
                return what if what == "a key" else f"{what} ({shown!r})"
        for place in places:
            if place in text:
                return f"a path ({place!r})"
        for word, what in words.items() if names else ():
            if re.search(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", text.lower()):
                return f"{what} of this machine ({word!r})"
        return ""

    return find


def _is_secret(name: str, value: str) -> bool:
    return bool(_SECRET_NAMES.search(name)) and len(value) >= _SHORTEST_SECRET and not value.startswith("/")


def _user_names() -> list[str]:
    try:
        return [getpass.getuser(), Path.home().name]
    except (OSError, KeyError, RuntimeError):  # a user without an entry in the system's list
        return []


def _hub_token() -> list[str]:
    try:
        from huggingface_hub import get_token
    except ImportError:
        return []
    token = get_token()
    return [token] if token else []


def _texts_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every text in a file with its place, as ``sources.0.name``."""
    if path.name == SPEAKERS:
        with open_companion(path, SPEAKERS) as voices:
            yield from (("a voice", name) for name in voices)
    elif path.suffix == ".json":
        yield from _strings(parse_json(read_small_file(path), str(path)))
    elif path.suffix not in (*_WEIGHTS, ".wav"):
        try:
            yield "", read_small_file(path).decode()
        except UnicodeDecodeError as error:
            msg = f"{path}: expected text in UTF-8, found other bytes at {error.start}; remove it or save it anew"
            raise ConfigError(msg) from error
    elif path.suffix in _WEIGHTS and path.name not in ("dvae.pth", "mel_stats.pth"):
        with open_checkpoint(path) as checkpoint:
            yield from _strings(checkpoint.document)


def _strings(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield place, str(key)
            yield from _strings(item, f"{place}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _strings(item, f"{place}.{index}".lstrip("."))
