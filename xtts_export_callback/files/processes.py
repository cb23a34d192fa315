"""Tell whether another process still runs: it may still be writing its temporary files."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether a process of this machine still runs; a zombie counts as ended."""
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
    """Whether a process has ended and nobody has read its exit code; the init of a container may never do so."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state == b"Z"


def _is_running_on_windows(pid: int) -> bool:
    """Ask Windows itself: there, ``os.kill`` with signal 0 sends Ctrl-C."""
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    synchronize, access_denied, timed_out = 0x100000, 5, 0x102
    handle = kernel32.OpenProcess(synchronize, False, pid)
    if not handle:
        return bool(ctypes.get_last_error() == access_denied)  # type: ignore[attr-defined]
    state = kernel32.WaitForSingleObject(handle, 0)
    kernel32.CloseHandle(handle)
    return bool(state == timed_out)
