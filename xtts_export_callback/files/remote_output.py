"""Write a file or a folder to a URL: first on this disk, where it is verified, then file by file."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from xtts_export_callback.errors import ConfigError, OutputExistsError, VerificationError
from xtts_export_callback.files.remote import HTTP, RemotePath, attempt, filesystem, look

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_free(target: RemotePath) -> None:
    """Refuse an output that exists, or that cannot be written. Nothing behind a URL is ever replaced.

    Raises:
        ConfigError: For HTTP.
        OutputExistsError: When there is something already.
    """
    if target.scheme in HTTP:
        msg = f"{target}: HTTP has no way to write files; name a folder of this disk, or a URL such as s3:// or hf://"
        raise ConfigError(msg)
    if target.exists():
        msg = f"{target}: exists already; name another output, or remove it there first"
        raise OutputExistsError(msg)


@contextmanager
def uploaded(target: RemotePath, *, last: str) -> Iterator[Path]:
    """Give a path of this disk to write to, whose content is at the URL when the block ends without an error.

    Args:
        target: The file or the folder to create.
        last: Name of the file that shows that a folder is complete: it is sent after all others.

    Yields:
        The path, in the folder for temporary files.

    Raises:
        CheckpointError: When a file cannot be written.
        VerificationError: When it has another size there.
    """
    with TemporaryDirectory(prefix="xtts-export-") as folder:
        local = Path(folder, target.name)
        yield local
        files = [local] if local.is_file() else [path for path in local.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path.name == last, path)):
            _send(path, target / path.relative_to(local))


def _send(path: Path, target: RemotePath) -> None:
    where = filesystem(target)
    attempt(target, partial(where[0].put_file, str(path), where[1]), verb="written")
    found = (look(target, where) or {}).get("size")
    if found != path.stat().st_size:
        msg = f"{target}: has {found} bytes, expected {path.stat().st_size}; remove it and write it again"
        raise VerificationError(msg)
