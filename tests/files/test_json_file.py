"""Small JSON files of others: what is read, what is refused in one line, and that nothing is waited for."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from tests.benchmarks.files import write_run
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import MOST_BYTES, parse_json, read_json_object, read_small_file
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.merge.yaml import load_yaml
from xtts_export_callback.run.checkpoints import DEFAULT_FOLDER, exports_folder
from xtts_export_callback.training.recipe_config import read_config


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


ODD = [pipe, folder, device, unix_socket, dangling]


@pytest.fixture
def odd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is no regular file, under the name that the test wants; a short path, as sockets need it."""
    name, make = request.param
    monkeypatch.chdir(tmp_path)
    make(Path(name))
    return Path(name)


@pytest.mark.parametrize("odd", [("config.json", make) for make in ODD], indirect=True)
def test_what_is_no_regular_file_is_refused_and_not_waited_for(odd: Path) -> None:
    for read in (read_small_file, read_json_object, load_yaml, read_config):
        with pytest.raises(ConfigError, match=r"^config\.json: (not a regular file|cannot be read)"):
            read(odd)  # type: ignore[operator]
    assert exports_folder(Path()) == DEFAULT_FOLDER


@pytest.mark.parametrize("odd", [("export.json", make) for make in ODD], indirect=True)
def test_a_folder_whose_provenance_is_no_regular_file_is_not_ours(odd: Path) -> None:
    assert read_provenance(odd.parent) is None


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "export.json"])
@pytest.mark.parametrize("make", [pipe, device])
def test_no_command_waits_for_what_is_no_regular_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, make: object
) -> None:
    run = tmp_path / "run"
    write_run(run, files=1, scale="small", first=1)
    assert main(["export", str(run / "checkpoint_1000.pth")]) == 0
    exported = run / "inference" / "checkpoint_1000"
    for place in (run, exported):
        (place / name).unlink(missing_ok=True)
        make(place / name)  # type: ignore[operator]
    capsys.readouterr()
    assert main(["verify", str(exported)]) == 1
    main(["verify", str(run)])
    assert main(["inspect", str(exported)]) == 0
    assert main(["inspect", str(run)]) == 0
    main(["compare", str(exported), str(run / "checkpoint_1000.pth")])
    assert main(["export", str(run / "checkpoint_1000.pth"), "--output", str(tmp_path / "again")]) in {0, 2}
    assert len(capsys.readouterr().err.splitlines()) <= 2


def test_a_file_of_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "vocab.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=f"expected at most {MOST_BYTES} bytes"):
        read_small_file(tmp_path / "vocab.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", "expected a JSON object, found list"),
        ("1" * 1_000_000, "an integer of 1000000 digits"),
        ('{"a": ' * 65 + "1" + "}" * 65, "nested deeper"),
        ("[" * 100_000, "is not JSON"),
        ("\\xff", "is not JSON"),
    ],
)
def test_what_is_no_json_object_ends_with_one_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=expected) as raised:
        read_json_object(tmp_path / "config.json")
    assert len(str(raised.value).splitlines()) == 1


def test_a_config_of_the_trainer_may_hold_infinity() -> None:
    assert parse_json('{"max_audio_len": Infinity}', "config.json") == {"max_audio_len": float("inf")}


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": 1, "a": 2}'])
def test_strict_json_is_what_every_reader_takes(text: str) -> None:
    with pytest.raises(ConfigError, match="is not JSON"):
        parse_json(text, "vocab.json", strict=True)


def test_a_path_with_a_null_character_ends_with_one_line() -> None:
    with pytest.raises(ConfigError, match="null"):
        read_small_file(Path("a\0b"))


def test_json_is_read_as_python_reads_it(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "ü"], "b": {"c": -3}}
    (tmp_path / "config.json").write_text(json.dumps(value), encoding="utf-8")
    assert read_json_object(tmp_path / "config.json") == value
