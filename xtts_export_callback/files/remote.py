"""Names behind URLs that fsspec opens: ``hf://``, ``s3://``, ``gs://``, ``https://`` and others.

fsspec is imported when the first URL is used, and finds credentials by its own rules. They never get into a path, so
that no message, report or file can show them: what a URL holds besides scheme, host and path is kept apart. Errors of
the libraries beneath may quote a whole URL, so none of their texts is passed on.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from xtts_export_callback.errors import CheckpointError, ConfigError, MissingExtraError
from xtts_export_callback.extras import require

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    _Path = Path
else:
    _Path = type(Path())  # up to Python 3.11 only the class of this system can be derived from

T = TypeVar("T")

HTTP = ("http", "https")
_URL = r"(?s)([A-Za-z][A-Za-z0-9+.-]+)://([^/]*)(/[^?#]*)?(.*)"
_LOCAL = ("file", "local")
_NO_LOGIN = ("abfs", "abfss")  # abfs://CONTAINER@ACCOUNT: what stands before the @ is part of the place
_FILES = (".pth", ".pt", ".safetensors", ".json", ".yaml", ".yml", ".zip", ".wav")
_DELAYS = (0.2, 0.4, 0.8, 1.6, 3.2)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = (408, 425, 429)
_ABSENT = (401, 403, 404, 410)
_IDENTITY = (
    *("size", "ETag", "etag", "Content-MD5", "Digest", "Last-Modified", "LastModified", "last_modified", "mtime"),
    *("created", "generation", "VersionId", "blob_id", "xet_hash"),
)
"""What file systems say of a file's content in their ``info``; it changes when somebody writes the file anew."""

_never = threading.Event()
_logins: dict[str, str] = {}


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a text names something that is not a path of this machine, but a URL."""
    return isinstance(path, RemotePath) or "://" in os.fspath(path)


def remote_path(url: str) -> Path:
    """Return the path of a URL; that of ``file://`` is one of this machine.

    Raises:
        ConfigError: When it is not a URL.
    """
    match = re.fullmatch(_URL, url)
    if match is None:
        msg = f"{url.partition('://')[0]:.40}://...: is not a URL; name a path, or SCHEME://PLACE/FILE"
        raise ConfigError(msg)
    scheme, host, place, query = match[1].lower(), match[2], match[3] or "", match[4]
    if scheme in _LOCAL:
        return Path(host + place)
    login, _, bare = host.rpartition("@")
    if scheme in _NO_LOGIN:
        login, bare = "", host
    path = RemotePath(f"{scheme}:/{bare}{place}")
    if login:
        _logins[f"{scheme}://{bare}"] = login
    if query or "//" in place:
        path.given = url.partition("#")[0] if scheme in HTTP else url
    return path


class RemotePath(_Path):
    """A path behind a URL. It is used as any other path; what is beside it has its scheme, host and login.

    Attributes:
        given: The URL as the user wrote it, where the path does not hold all of it; the paths made from this one do
            not have it.
    """

    given: str = ""

    def __str__(self) -> str:
        """Return the URL without login and query."""
        scheme, _, rest = super().__str__().replace(os.sep, "/").partition(":/")
        return f"{scheme}://{rest}"

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.given == getattr(other, "given", "")

    __hash__ = _Path.__hash__

    @property
    def scheme(self) -> str:
        """Such as ``"s3"``."""
        return self.parts[0].partition(":")[0]

    @property
    def url(self) -> str:
        """The URL with all that is needed to open it; not to be shown."""
        if self.given:
            return self.given
        shown = str(self)
        host = f"{self.scheme}://{self.parts[1]}" if len(self.parts) > 1 else shown
        return f"{self.scheme}://{_logins[host]}@{shown.partition('://')[2]}" if host in _logins else shown

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002 - as of any path
        """Return kind and size; all else is 0."""
        found = look(self)
        if found is None:
            raise FileNotFoundError(2, os.strerror(2), str(self))
        kind = stat.S_IFDIR if found.get("type") == "directory" else stat.S_IFREG
        return os.stat_result((kind | 0o666, 0, 0, 1, 0, 0, found.get("size") or 0, 0, 0, 0))

    def exists(self, **_: Any) -> bool:
        """Whether there is something that may be read."""
        return look(self) is not None or (self.scheme in HTTP and self.is_dir())

    def is_file(self, **_: Any) -> bool:
        """Whether there is a file that may be read; over HTTP everything is one."""
        found = look(self)
        return found is not None and found.get("type") != "directory"

    def is_dir(self, **_: Any) -> bool:
        """Whether there is a folder. HTTP has none: what has a ``config.json`` below it is taken for one."""
        if self.suffix.lower() in _FILES:
            return False
        if self.scheme in HTTP:
            return (self / "config.json").is_file()
        found = look(self)
        return found is not None and found.get("type") == "directory"

    def is_symlink(self) -> bool:
        """Return False: a URL is a place itself."""
        return False

    def open(self, *_: Any, **__: Any) -> Any:
        """Open the file to read its bytes from front to back."""
        from xtts_export_callback.files.remote_file import stream

        return attempt(self, lambda: stream(self))

    def read_bytes(self) -> bytes:
        """Return the content of a small file."""
        with self.open("rb") as file:
            return bytes(file.read())

    def iterdir(self) -> Generator[RemotePath, None, None]:
        """Yield what is in a folder; over HTTP nothing, since that has no lists of files."""
        if self.scheme in HTTP:
            return
        names = attempt(self, lambda: _list(self))
        for name in sorted({name.rstrip("/").rpartition("/")[2] for name in names}):
            if name and name != self.name:
                yield self / name

    def glob(self, pattern: str, **_: Any) -> Generator[RemotePath, None, None]:
        """Yield what is in a folder and has a name of that pattern."""
        yield from (entry for entry in self.iterdir() if fnmatchcase(entry.name, pattern))

    def rglob(self, pattern: str, **_: Any) -> Generator[RemotePath, None, None]:
        """Yield what is in a folder and those below it and has a name of that pattern."""
        for entry in self.iterdir():
            if fnmatchcase(entry.name, pattern):
                yield entry
            if entry.is_dir():
                yield from entry.rglob(pattern)

    @property
    def parent(self) -> RemotePath:
        """The folder that this lies in; that of a host or a bucket is the same."""
        return self if len(self.parts) <= 2 else super().parent

    def absolute(self) -> RemotePath:
        """Return the path itself."""
        return self

    def resolve(self, strict: bool = False) -> RemotePath:  # noqa: ARG002 - as of any path
        """Return the path itself."""
        return self

    def expanduser(self) -> RemotePath:
        """Return the path itself."""
        return self


def look(path: RemotePath, again: tuple[Any, str] | None = None) -> dict[str, Any] | None:
    """Ask for the size and the kind of a file.

    Args:
        path: The file.
        again: What `filesystem` says of it, to ask anew even where the answer is known.

    Returns:
        What fsspec's ``info`` says; None where there is nothing that may be read.

    Raises:
        CheckpointError: When there is no answer.
        MissingExtraError: When the package for this kind of URL is not installed.
    """

    def ask() -> dict[str, Any] | None:
        fs, name = again or filesystem(path)
        if again:
            fs.invalidate_cache()
        try:
            return dict(fs.info(name))
        except Exception as error:
            if _is_absent(_cause(error)):
                return None
            raise

    return attempt(path, ask)


def identity(info: dict[str, Any]) -> dict[str, Any]:
    """Return what tells a file from a later one of the same name."""
    return {key: info[key] for key in _IDENTITY if info.get(key) is not None}


def filesystem(path: RemotePath) -> tuple[Any, str]:
    """Return fsspec's file system for a path, and the path's name in it.

    Raises:
        ConfigError: For an unknown scheme.
        MissingExtraError: When fsspec or the package that it needs for this scheme is not installed.
    """
    try:
        import fsspec
        import fsspec.core

        options: dict[str, Any] = {}
        if path.scheme in HTTP:
            import aiohttp

            # By default a request ends after five minutes, however well it goes on.
            options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)}
        fs, name = fsspec.core.url_to_fs(path.url, **options)
    except ImportError as error:
        require("remote", str(path), "fsspec")
        package = _package(path.scheme)
        msg = f"{path}: {path.scheme}:// needs {package}, which is not installed; pip install {package}"
        raise MissingExtraError(msg) from error
    except ValueError:
        msg = f"{path}: fsspec knows no {path.scheme}://; name a path, or a URL such as hf://, s3://, gs:// or https://"
        raise ConfigError(msg) from None
    return fs, name


def _package(scheme: str) -> str:
    """Return the package that a scheme needs, as fsspec names it: "Install s3fs to access S3"."""
    from fsspec.registry import known_implementations

    if scheme in HTTP or scheme == "hf":
        return "aiohttp" if scheme in HTTP else "huggingface_hub"
    found = re.search(r"[Ii]nstall `?\"?([\w-]+)", str(known_implementations.get(scheme, {}).get("err", "")))
    return found[1] if found else "a package"


def _list(path: RemotePath) -> list[str]:
    fs, name = filesystem(path)
    return list(fs.ls(name, detail=False))


def attempt(path: RemotePath, do: Callable[[], T], *, verb: str = "read", stop: threading.Event = _never) -> T:
    """Call a function, again after a pause where the connection was at fault; the pauses grow.

    Args:
        path: What it reads, for messages.
        do: The function.
        verb: What it does, for messages.
        stop: Ends the pauses when it is set.

    Raises:
        CheckpointError: When it fails for another reason, or six times. The error of the library is left out: it may
            hold credentials.
    """
    for delay in (*_DELAYS, None):
        try:
            return do()
        except (CheckpointError, ConfigError, MissingExtraError):
            raise
        except Exception as error:
            if delay is None or not _is_transient(_cause(error)) or stop.wait(delay):
                msg = f"{path}: cannot be {verb} ({_reason(_cause(error))}); check the address and the credentials"
                raise CheckpointError(msg) from None
    raise AssertionError


def _cause(error: BaseException) -> BaseException:
    """Return what has happened: over HTTP fsspec calls every error a missing file."""
    return error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ is not None else error


def _status(error: BaseException) -> int | None:
    """Return the HTTP status in an error of aiohttp, httpx or requests."""
    found = getattr(error, "status", None)
    if not isinstance(found, int):
        found = getattr(getattr(error, "response", None), "status_code", None)
    return found if isinstance(found, int) else None


def _is_absent(error: BaseException) -> bool:
    return isinstance(error, (FileNotFoundError, PermissionError)) or _status(error) in _ABSENT


def _is_transient(error: BaseException) -> bool:
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _BROKEN
    if "Credential" in type(error).__name__:
        return False
    if isinstance(error, OSError) and error.errno in _FULL:
        return False
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError)
    return not isinstance(error, (*lasting, KeyError, AttributeError, NotImplementedError))


def _reason(error: BaseException) -> str:
    """Say why in a few words, without a text that may hold a URL."""
    status = _status(error)
    if status is not None:
        return f"HTTP status {status}"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and isinstance(error.errno, int) and error.errno > 0:
        return os.strerror(error.errno)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
