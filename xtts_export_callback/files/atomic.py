"""Files and folders that appear whole or not at all.

Both are made under a hidden temporary name beside their final one, synced and then renamed. The name begins with a dot
and ends with the writer's process id, so that nothing that globs for checkpoints takes it for one and a later run can
tell a leftover from work in progress.
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
"""Seconds without a change after which another machine's work is given up: a container restarts under a new name."""
_AT_FDCWD, _RENAME_NOREPLACE, _RENAME_EXCHANGE = -100, 1, 2  # linux/fs.h
_given_out: set[str] = set()  # names of this process: its other threads may be at work on them


@contextmanager
def whole_file(path: Path, *, force: bool = False, like: Path | None = None) -> Iterator[Path]:
    """Write a file that appears under its name only when the block ends without an error.

    Args:
        path: The final name.
        force: Replace a file of that name.
        like: A file whose mode and owner the new one gets, as far as that is permitted. It must still be there when
            the block ends. The block creates its file with a mode of 0o600 then.

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
        check: Raises for a folder that must not be replaced. Called before the block, and again with the folder that
            is about to go, which may be under another name by then.
        mode: Permissions of the folder, also while it is filled; narrowed by the umask.

    Yields:
        The temporary folder, created and empty. Removed when the block raises.

    Raises:
        OutputExistsError: When ``path`` exists and ``force`` is not given, or it is a file or a link.
    """

    def check_folder(there: Path) -> None:
        if there.is_symlink() or not there.is_dir():
            msg = f"{path}: a file or a link, expected a folder to replace; name another output"
            raise OutputExistsError(msg)
        if check is not None:
            check(there)

    _check_free(path, force=force)
    if path.exists() or path.is_symlink():
        check_folder(path)
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.mkdir(mode)
    try:
        yield temporary
        sync_directory(temporary)
        try:
            _move_into_place(temporary, path)
        except OutputExistsError:
            if not force:
                raise
            _replace_folder(temporary, path, check_folder)
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
            with contextlib.suppress(OutputExistsError):  # a link to nothing may be somebody's; then both stay
                _move_into_place(entry, final)
                if entry.exists():  # a second name is how a file gets its own where there is no other way
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
    """A hidden name beside ``path`` that `remove_leftovers` cleans up once this process is gone."""
    name = f".{path.name}.{kind}-{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    _given_out.add(name)
    return path.with_name(name)


def take_mode_and_owner(path: Path, like: Path) -> None:
    """Give a file the mode and the owner of another, as far as that is permitted.

    Raises:
        OSError: When the other file is not there.
    """
    stat = like.stat()
    if sys.platform != "win32":
        for owner in (stat.st_uid, -1):  # whoever may not give a file away can often still choose its group
            try:
                os.chown(path, owner, stat.st_gid)
            except OSError:
                continue
            break
    with contextlib.suppress(OSError):  # a file system without modes
        path.chmod(stat.st_mode & 0o7777)


def hard_link(path: Path, link: Path) -> None:
    """Give a file a second name. Of a symbolic link it is the file that gets it: the link may be a relative one.

    Raises:
        OSError: Where that cannot be done, as between two file systems.
    """
    os.link(path.resolve(), link)


def _move_into_place(temporary: Path, path: Path) -> None:
    """Give what is whole its name in one step, and never in place of something else.

    Raises:
        OutputExistsError: When something has that name.
    """
    try:
        if _rename(temporary, path, _RENAME_NOREPLACE) or _link(temporary, path):
            return
        _check_free(path, force=False)
        temporary.rename(path)  # of a folder, and of everything on Windows, it replaces nothing that holds anything
    except OSError as error:
        if not os.path.lexists(path):
            raise
        raise OutputExistsError(_EXISTS.format(path)) from error


def _link(temporary: Path, path: Path) -> bool:
    """Give a file its name where `_rename` cannot; its temporary one goes later. False where links cannot be made."""
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
    """Put a folder in the place of another, which is checked once nobody can reach it by its name any more."""
    if _exchange(temporary, path):
        try:
            check(temporary)
        except BaseException:
            _exchange(temporary, path)
            raise
        return
    # Where two folders cannot be swapped in one step, the old one is set aside first and comes back
    # (`remove_leftovers`) should we be killed in between.
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
    """Swap two names in one step; False where that cannot be done."""
    try:
        return _rename(first, second, _RENAME_EXCHANGE)
    except OSError:
        return False


def _rename(first: Path, second: Path, flag: int) -> bool:
    """``renameat2`` of Linux; False where there is none, or none for this file system.

    Raises:
        FileExistsError: When ``second`` is there and must not be.
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
        return True  # it changes under our eyes
    return max(changes) > time.time() - _ABANDONED
