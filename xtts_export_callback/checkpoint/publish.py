"""Files and folders that appear whole or not at all.

Both are made under a hidden temporary name beside their final one, synced and then renamed. The name begins with a dot
and ends with the writer's process id, so that nothing that globs for checkpoints takes it for one and a later run can
tell a leftover from work in progress.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import shutil
import sys
import time
import uuid
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.checkpoint.files import sync_directory
from xtts_export_callback.errors import OutputExistsError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_ABANDONED = 24 * 3600
"""Seconds without a change after which another machine's work is given up: a container restarts under a new name."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def whole_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Write a file that appears under its name only when the block ends without an error.

    Args:
        path: The final name.
        force: Replace a file of that name.

    Yields:
        The temporary path to create. It is renamed at the end, and removed when the block raises.

    Raises:
        OutputExistsError: When ``path`` exists and ``force`` is not given, or it is a folder.
    """
    _check_free(path, force=force)
    if path.is_dir():
        msg = f"{path}: a folder, expected the name of a file; name another output"
        raise OutputExistsError(msg)
    temporary = temporary_name(path)
    try:
        yield temporary
        _check_free(path, force=force)  # something may have appeared meanwhile
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Fill a folder that appears under its name only when the block ends without an error.

    Args:
        path: The final name.
        force: Replace a folder of that name; it stays in place and whole until the new one is.

    Yields:
        The temporary folder, created and empty. Removed when the block raises.

    Raises:
        OutputExistsError: When ``path`` exists and ``force`` is not given, or it is a file or a link.
    """
    _check_free(path, force=force)
    if path.is_symlink() or path.is_file():
        msg = f"{path}: a file or a link, expected a folder to replace; name another output"
        raise OutputExistsError(msg)
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        sync_directory(temporary)
        _check_free(path, force=force)
        _move_into_place(temporary, path)
        sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:  # those that hold nothing after all
            with contextlib.suppress(OSError):
                parent.rmdir()


def remove_leftovers(directory: Path) -> list[str]:
    """Clean up after writers that were killed.

    A folder that was set aside to be replaced comes back if the new one never arrived; everything else temporary is
    removed. What belongs to a process that still runs is left alone, and so is another machine's work of the last day.

    Args:
        directory: Where outputs are published. It need not exist.

    Returns:
        The names that were cleaned up.
    """
    cleaned = []
    for entry in sorted(directory.glob(".*")):
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None:
            continue
        final = directory / match["name"]
        if _is_in_progress(entry, match["host"], int(match["pid"])):
            if match["kind"] == "old" and entry.is_file() and not final.exists():
                # It only seems to be when a container was restarted under another name, or the process id is now
                # somebody else's. A second link takes nothing from one who really holds it.
                with contextlib.suppress(OSError):
                    os.link(entry, final)
            continue
        if match["kind"] == "old" and not final.exists():
            entry.rename(final)
        elif entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        cleaned.append(match["name"])
    return cleaned


def _check_free(path: Path, *, force: bool) -> None:
    if not force and (path.exists() or path.is_symlink()):
        msg = f"{path}: exists already; name another output or replace it with --force"
        raise OutputExistsError(msg)


def temporary_name(path: Path, kind: str = "tmp") -> Path:
    """A hidden name beside ``path`` that `remove_leftovers` cleans up once this process is gone."""
    return path.with_name(f".{path.name}.{kind}-{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _move_into_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
    elif not _exchange(temporary, path):
        # Where two folders cannot be swapped in one step, the old one is set aside first and comes back
        # (`remove_leftovers`) should we be killed in between.
        aside = temporary_name(path, "old")
        path.rename(aside)
        try:
            temporary.rename(path)
        except BaseException:
            aside.rename(path)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (``renameat2`` of Linux); False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    result = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(result == 0)


def _is_in_progress(entry: Path, host: str, pid: int) -> bool:
    if host == _HOST:
        return pid != os.getpid() and _is_running(pid)  # nothing of ours is under way while we clean up
    try:
        changes = [path.lstat().st_mtime for path in (entry, *entry.rglob("*"))]
    except OSError:
        return True  # it changes under our eyes
    return max(changes) > time.time() - _ABANDONED


def _is_running(pid: int) -> bool:
    if sys.platform == "win32":
        return _is_running_on_windows(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and waits to be asked for its exit code, as the init of a container may never do."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state == b"Z"


def _is_running_on_windows(pid: int) -> bool:
    """``os.kill`` with signal 0 sends Ctrl-C there."""
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    synchronize, access_denied, timed_out = 0x100000, 5, 0x102
    handle = kernel32.OpenProcess(synchronize, False, pid)
    if not handle:
        return bool(ctypes.get_last_error() == access_denied)  # type: ignore[attr-defined]
    state = kernel32.WaitForSingleObject(handle, 0)
    kernel32.CloseHandle(handle)
    return bool(state == timed_out)
