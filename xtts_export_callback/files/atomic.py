"""Files and folders that appear whole or not at all.

Both are written under a hidden temporary name beside the final one, synced and then renamed. The temporary name begins
with a dot, so that a search for checkpoints does not match it, and holds the writer's process id, so that a later run
can tell a leftover from work in progress.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
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

from xtts_export_callback.errors import OutputExistsError
from xtts_export_callback.files.processes import is_running
from xtts_export_callback.files.random_access import sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_ABANDONED = 24 * 3600
"""Seconds without a change after which another machine's work is abandoned: a restarted container has a new name."""
_AT_FDCWD, _RENAME_NOREPLACE, _RENAME_EXCHANGE = -100, 1, 2  # linux/fs.h
_given_out: set[str] = set()  # names that this process uses, perhaps in another thread


@contextmanager
def whole_file(path: Path, *, force: bool = False, like: Path | None = None) -> Iterator[Path]:
    """Write a file that appears under its name only when the block ends without an error.

    Args:
        path: The final name.
        force: Replace a file of that name.
        like: Copy mode and owner from this file, as far as permitted. It must still exist when the block ends, and
            the block must create its own file with mode 0o600.

    Yields:
        The temporary path to create. It is renamed at the end, and removed when the block raises.

    Raises:
        OutputExistsError: When ``path`` exists and ``force`` is not given, or when it is a folder.
    """
    _check_free(path, force=force)
    if path.is_dir():
        msg = f"{path}: is a folder, expected the name of a file; name another output"
        raise OutputExistsError(msg)
    temporary = temporary_name(path)
    try:
        yield temporary
        if like is not None:
            take_mode_and_owner(temporary, like)
        if force:
            temporary.replace(path)
        else:
            _move_into_place(temporary, path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_directory(
    path: Path, *, force: bool = False, check: Callable[[Path], None] | None = None, mode: int = 0o777
) -> Iterator[Path]:
    """Fill a folder that appears under its name only when the block ends without an error.

    Args:
        path: The final name.
        force: Replace a folder of that name; it stays in place and whole until the new one is.
        check: Raises for a folder that must not be replaced. Called before the block, and again just before the
            folder is removed, when it may have another name.
        mode: Permissions of the folder from the start, narrowed by the umask.

    Yields:
        The temporary folder, created and empty. Removed when the block raises.

    Raises:
        OutputExistsError: When ``path`` exists and ``force`` is not given, or when it is a file or a link.
    """

    def check_folder(there: Path) -> None:
        if there.is_symlink() or not there.is_dir():
            msg = f"{path}: is a file or a link, expected a folder to replace; name another output"
            raise OutputExistsError(msg)
        if check is not None:
            check(there)

    _check_free(path, force=force)
    if path.exists() or path.is_symlink():
        check_folder(path)
    with temporary_directory(path, mode=mode) as temporary:
        yield temporary
        sync_directory(temporary)
        try:
            _move_into_place(temporary, path)
        except OutputExistsError:
            if not force:
                raise
            _replace_folder(temporary, path, check_folder)
        sync_directory(path.parent)


@contextmanager
def temporary_directory(path: Path, *, mode: int = 0o777) -> Iterator[Path]:
    """Give a hidden folder beside ``path``, whose parents are created; what is left of both at the end is removed.

    Args:
        path: The output that the folder is for.
        mode: Permissions of the folder, narrowed by the umask.

    Yields:
        The folder, created and empty.
    """
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.mkdir(mode)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:  # those that are still empty
            with contextlib.suppress(OSError):
                parent.rmdir()


def remove_leftovers(directory: Path) -> list[str]:
    """Clean up after writers that were killed.

    A folder that was set aside gets its name back if its replacement never arrived; every other temporary file or
    folder is removed. Those of a running process stay, and so do those that another machine changed in the last day.

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
                # The writer may be gone: a container was restarted with a new host name, or another process now has
                # the id. A second link does no harm if the writer is still at work.
                with contextlib.suppress(OSError):
                    os.link(entry, final)
            continue
        if match["kind"] == "old" and not final.exists():
            with contextlib.suppress(OutputExistsError):  # a dangling link of the user has the name: both stay
                _move_into_place(entry, final)
                if entry.exists():  # `_link` has kept the temporary name
                    entry.unlink()
                cleaned.append(match["name"])
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        cleaned.append(match["name"])
    return cleaned


_EXISTS = "{}: exists already; name another output or replace it with --force"


def _check_free(path: Path, *, force: bool) -> None:
    if not force and (path.exists() or path.is_symlink()):
        raise OutputExistsError(_EXISTS.format(path))


def temporary_name(path: Path, kind: str = "tmp") -> Path:
    """Return a hidden name beside ``path``, which `remove_leftovers` cleans up once this process has ended."""
    name = f".{path.name}.{kind}-{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    _given_out.add(name)
    return path.with_name(name)


def take_mode_and_owner(path: Path, like: Path) -> None:
    """Give a file the mode and the owner of another, as far as permitted.

    Raises:
        OSError: When the other file does not exist.
    """
    stat = like.stat()
    if sys.platform != "win32":
        for owner in (stat.st_uid, -1):  # without the right to set the owner, the group can often be set
            try:
                os.chown(path, owner, stat.st_gid)
            except OSError:
                continue
            break
    with contextlib.suppress(OSError):  # a file system without modes
        path.chmod(stat.st_mode & 0o7777)


def hard_link(path: Path, link: Path) -> None:
    """Give a file a second name. A symbolic link is resolved first, because it may be relative.

    Raises:
        OSError: When that fails, as between two file systems.
    """
    os.link(path.resolve(), link)


def _move_into_place(temporary: Path, path: Path) -> None:
    """Give a finished file or folder its final name in one step, without replacing anything.

    Raises:
        OutputExistsError: When something has that name.
    """
    try:
        if _rename(temporary, path, _RENAME_NOREPLACE) or _link(temporary, path):
            return
        _check_free(path, force=False)
        temporary.rename(path)  # replaces at most an empty folder, on Windows nothing
    except OSError as error:
        if not os.path.lexists(path):
            raise
        raise OutputExistsError(_EXISTS.format(path)) from error


def _link(temporary: Path, path: Path) -> bool:
    """Give a file its final name by a hard link; its temporary name is removed later. False where links fail."""
    if temporary.is_dir():
        return False
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def _replace_folder(temporary: Path, path: Path, check: Callable[[Path], None]) -> None:
    """Replace a folder by another. The old one is checked once it has lost its name, so that nobody can add to it."""
    if _exchange(temporary, path):
        try:
            check(temporary)
        except BaseException:
            _exchange(temporary, path)
            raise
        return
    # Where two folders cannot be swapped in one step, the old one is set aside first; if we are killed in between,
    # `remove_leftovers` gives it its name back.
    check(path)
    aside = temporary_name(path, "old")
    path.rename(aside)
    try:
        check(aside)
        temporary.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where that fails."""
    try:
        return _rename(first, second, _RENAME_EXCHANGE)
    except OSError:
        return False


def _rename(first: Path, second: Path, flag: int) -> bool:
    """Call ``renameat2`` of Linux; False where the system or this file system lacks it.

    Raises:
        FileExistsError: When ``second`` exists and must not.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # an old C library
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), flag) == 0:
        return True
    if ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(second))
    return False


def _is_in_progress(entry: Path, host: str, pid: int) -> bool:
    if host == _HOST:
        return entry.name in _given_out if pid == os.getpid() else is_running(pid)
    try:
        changes = [path.lstat().st_mtime for path in (entry, *entry.rglob("*"))]
    except OSError:
        return True  # it is changing right now
    return max(changes) > time.time() - _ABANDONED
