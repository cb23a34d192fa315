"""Paths behind URLs, and files that are read in ranges."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.file_server import FileServer
from tests.models.generated import SPECIFICATION
from tests.models.loopback import allow_loopback
from xtts_export_callback.errors import CheckpointError, ConfigError, MissingExtraError
from xtts_export_callback.files import remote, remote_file
from xtts_export_callback.files.json_file import read_json_object
from xtts_export_callback.files.paths import as_path, expanded
from xtts_export_callback.files.remote import RemotePath
from xtts_export_callback.files.remote_file import RemoteFile, open_remote, read_small

CONTENT = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_loopback(monkeypatch)
    monkeypatch.setattr(remote, "_DELAYS", (0.01,) * 5)
    monkeypatch.setattr(remote, "_logins", {})  # the login of one test is not that of another


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file.bin").write_bytes(CONTENT)
    with FileServer(folder) as running:
        yield running


def remote_of(url: str) -> RemotePath:
    path = as_path(url)
    assert isinstance(path, RemotePath)
    return path


# Paths


@pytest.mark.parametrize(
    "url",
    [
        "hf://anna/voice/best_model.pth",
        "hf://anna/voice@main/best_model.pth",
        "s3://bucket/runs/best_model.pth",
        "https://example.org:8080/a/best_model.pth",
        "memory://a/best_model.pth",
        "abfs://container@account.dfs.core.windows.net/best_model.pth",
    ],
)
def test_a_url_stays_what_it_is(url: str) -> None:
    path = remote_of(url)

    assert (str(path), path.url) == (url, url)
    assert (path.name, path.stem, path.suffix) == ("best_model.pth", "best_model", ".pth")
    assert str(path.with_name("config.json")) == url.replace("best_model.pth", "config.json")
    assert path.parent / "best_model.pth" == path
    assert expanded(path) is path


def test_login_and_query_are_used_but_never_shown() -> None:
    path = remote_of("https://anna:hunter2@example.org/a/model.pth?X-Amz-Signature=abcdef#top")

    assert f"{path} {path!r} {path.parent} {os.fspath(path)}".count("hunter2") == 0
    assert str(path) == "https://example.org/a/model.pth"
    assert path.url == "https://anna:hunter2@example.org/a/model.pth?X-Amz-Signature=abcdef"


def test_what_lies_beside_a_file_has_its_login_but_not_its_query() -> None:
    path = remote_of("https://anna:hunter3@example.com/a/model.pth?signature=abcdef")

    assert remote_of(str(path)).with_name("vocab.json").url == "https://anna:hunter3@example.com/a/vocab.json"


def test_two_urls_that_differ_in_their_query_are_two_files() -> None:
    assert remote_of("https://example.org/get?id=1") != remote_of("https://example.org/get?id=2")


def test_a_url_of_this_machine_is_a_path_of_it(tmp_path: Path) -> None:
    path = as_path(f"file://{tmp_path}/model.pth")

    assert path == tmp_path / "model.pth"
    assert not isinstance(path, RemotePath)


def test_a_path_is_no_url(tmp_path: Path) -> None:
    assert as_path(tmp_path) == tmp_path
    assert as_path("C:/models/model.pth") == Path("C:/models/model.pth")


def test_what_only_looks_like_a_url_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^a b://...: is not a URL; name a path, or SCHEME://PLACE/FILE$"):
        as_path("a b://model.pth")


def test_an_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^ftq://a/model.pth: fsspec knows no ftq://; name a path, or a URL such as"):
        as_path("ftq://a/model.pth").exists()


@pytest.mark.parametrize(
    ("url", "package", "blocked"),
    [
        ("s3://a/model.pth", "s3fs", "s3fs"),
        ("gs://a/model.pth", "gcsfs", "gcsfs"),
        ("hf://a/b/model.pth", "huggingface_hub", "huggingface_hub"),
        ("https://a/model.pth", "aiohttp", "aiohttp"),
    ],
)
def test_a_missing_package_is_named(url: str, package: str, blocked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == blocked]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, blocked, None)
    known: dict[str, Any] = {}  # file systems that other tests have used
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.setattr(registry, "_registry", known)
    monkeypatch.setattr(registry, "registry", known)

    with pytest.raises(MissingExtraError) as raised:
        as_path(url).exists()

    scheme = url.partition("://")[0]
    assert str(raised.value) == f"{url}: {scheme}:// needs {package}, which is not installed; pip install {package}"


# Reading


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_file, "PIECE", 1000)
    monkeypatch.setattr(remote_file, "_GAP", 10)


_NUMBERS = st.integers(0, len(CONTENT))
_RANGES = st.lists(st.tuples(_NUMBERS, _NUMBERS).map(lambda pair: (min(pair), max(pair))), max_size=5)


@given(expected=_RANGES, read=_RANGES)
@SPECIFICATION
def test_what_is_read_is_what_the_file_holds_whatever_was_announced(
    expected: list[tuple[int, int]], read: list[tuple[int, int]]
) -> None:
    fsspec.filesystem("memory").pipe_file("/ranges/file.bin", CONTENT)
    with pytest.MonkeyPatch.context() as patch, open_remote(remote_of("memory://ranges/file.bin")) as file:
        patch.setattr(remote_file, "PIECE", 1000)
        file.expect(expected)
        for start, stop in read:
            assert file.read(start, stop - start) == CONTENT[start:stop]


@pytest.mark.usefixtures("small_pieces")
def test_each_announced_byte_comes_once_and_no_other(server: FileServer) -> None:
    with open_remote(remote_of(f"{server.url}/file.bin")) as file:
        while "file.bin" not in server.sent:  # it counts a byte after it has sent it
            time.sleep(0.001)
        server.sent.clear()
        file.expect([(100, 5000), (5005, 30_000), (50_000, 50_100)])
        for start in [*range(100, 29_900, 700), 50_000]:
            assert file.read(start, 100) == CONTENT[start : start + 100]

    assert server.sent["file.bin"] == 29_900 + 100


@pytest.mark.usefixtures("small_pieces")
def test_a_file_of_many_pieces_takes_the_memory_of_a_few(server: FileServer) -> None:
    with open_remote(remote_of(f"{server.url}/file.bin")) as file:
        assert isinstance(file, RemoteFile)
        file.expect([(0, len(CONTENT))])
        for start in range(0, len(CONTENT), 100):
            file.read(start, 100)
            assert len(file._pieces) <= remote_file._KEPT


@pytest.mark.usefixtures("small_pieces")
def test_a_broken_connection_is_taken_up_again(server: FileServer) -> None:
    with open_remote(remote_of(f"{server.url}/file.bin")) as file:
        server.broken, server.break_from = 10, 500
        file.expect([(0, len(CONTENT))])

        assert file.read(0, len(CONTENT)) == CONTENT
    assert server.broken_so_far == 10


def test_a_server_that_stays_broken_is_named_in_one_line(server: FileServer) -> None:
    path = remote_of(f"{server.url}/file.bin")
    with open_remote(path) as file:
        server.broken, server.break_from = 1000, 1
        with pytest.raises(CheckpointError) as raised:
            file.read(0, 1000)

    assert str(raised.value) == (
        f"{path}: cannot be read (client payload error); check the address and the credentials"
    )
    assert server.broken_so_far == 6


def test_an_answer_that_will_not_change_is_not_asked_for_again(server: FileServer) -> None:
    server.failing["file.bin"] = 403

    with pytest.raises(CheckpointError, match="no such file, or no permission to read it"):
        open_remote(remote_of(f"{server.url}/file.bin"))

    assert len(server.requests) == 2  # fsspec asks for the head, then for the file


def test_a_missing_file_is_named(server: FileServer) -> None:
    with pytest.raises(CheckpointError, match=r"/no.pth: no such file, or no permission to read it; check the address"):
        open_remote(remote_of(f"{server.url}/no.pth"))


def test_a_login_in_the_url_opens_the_file(server: FileServer) -> None:
    server.password = "anna:hunter2"
    with open_remote(remote_of(f"{server.url.replace('//', '//anna:hunter2@')}/file.bin")) as file:
        assert file.read(5, 5) == CONTENT[5:10]


def test_no_error_shows_login_or_query(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{server.url.replace('//', '//anna:hunter2@')}/file.bin?token=s3cr3t"
    with open_remote(remote_of(url)) as file:
        server.failing["file.bin"] = 500
        with pytest.raises(CheckpointError) as raised:
            file.read(0, 10)
    import traceback

    shown = "".join(traceback.format_exception(raised.value))
    assert "HTTP status 500" in shown
    assert "hunter2" not in shown
    assert "s3cr3t" not in shown


@pytest.mark.usefixtures("small_pieces")
def test_a_file_that_changes_while_it_is_read_is_noticed(server: FileServer) -> None:
    with open_remote(remote_of(f"{server.url}/file.bin")) as file:
        file.expect([(0, len(CONTENT))])
        file.read(0, 5000)
        (server.folder / "other").write_bytes(CONTENT)
        (server.folder / "other").replace(server.folder / "file.bin")

        with pytest.raises(CheckpointError, match="has changed while it was read; run the command again"):
            file.read(5000, len(CONTENT) - 5000)


@pytest.mark.parametrize("announces", [True, False])
def test_a_server_without_ranges_is_read_through_and_said(
    server: FileServer, announces: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server.ranges, server.announces = False, announces
    path = remote_of(f"{server.url}/file.bin")
    with open_remote(path) as file:
        assert file.size == len(CONTENT)
        assert file.read(50_000, 100) == CONTENT[50_000:50_100]
        assert file.path == path

    expected = f"{path}: the server sends no parts of a file; all 102,400 bytes are downloaded to a temporary file"
    assert [record.getMessage() for record in caplog.records if record.name.startswith("xtts")] == [expected]


def test_a_copy_that_does_not_fit_is_refused_before_it_begins(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ranges = False
    usage: Any = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(remote_file.shutil, "disk_usage", lambda _: usage)

    with pytest.raises(CheckpointError, match="a copy of all its 102,400 bytes does not fit"):
        open_remote(remote_of(f"{server.url}/file.bin"))
    assert not any(request.startswith("GET") for request in server.requests)


# Small files, folders


def test_json_is_read_from_a_url(server: FileServer) -> None:
    (server.folder / "config.json").write_text('{"a": 1}')

    assert read_json_object(as_path(f"{server.url}/config.json")) == {"a": 1}


def test_a_small_file_that_is_too_large_is_refused(server: FileServer) -> None:
    with pytest.raises(ConfigError, match="expected at most 100 bytes"):
        read_small(remote_of(f"{server.url}/file.bin"), 100)


def test_a_folder_behind_http_is_one_with_a_config(server: FileServer) -> None:
    voice = server.folder / "voice"
    voice.mkdir()
    (voice / "config.json").write_text("{}")

    assert as_path(f"{server.url}/voice").is_dir()
    assert not as_path(f"{server.url}/other").is_dir()


def test_a_folder_elsewhere_lists_its_files() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/listed/run/a.pth", b"a")
    memory.pipe_file("/listed/run/inference/x/model.pth", b"a")

    path = as_path("memory://listed/run")

    assert path.is_dir()
    assert [str(each) for each in path.iterdir()] == ["memory://listed/run/a.pth", "memory://listed/run/inference"]
