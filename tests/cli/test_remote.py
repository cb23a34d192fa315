"""Commands on checkpoints behind URLs: HTTP with ranges, S3, the Hub, and fsspec's memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from tests.models.command_line import complaint
from tests.models.file_server import FileServer
from tests.models.loopback import allow_loopback
from tests.models.small_decoder import START
from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import export_checkpoint, inspect_checkpoint
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.export.export import export_opened
from xtts_export_callback.files import remote, remote_file
from xtts_export_callback.inference_folder.provenance import read_provenance

pytestmark = pytest.mark.usefixtures("here")

VOICE = {"gpt_cond_latent": torch.ones(1, 4, 8), "speaker_embedding": torch.ones(1, 8, 1)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, connections to this machine alone, and pieces that suit the size of the files."""
    allow_loopback(monkeypatch)
    monkeypatch.setattr(remote, "_DELAYS", (0.01,) * 5)
    monkeypatch.setattr(remote_file, "PIECE", 1 << 14)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints with a vocabulary and a voice beside them; what their configs name is gone."""
    folder = tmp_path_factory.mktemp("made") / "written"
    for step in (1000, 2000):
        state = small_state(step)
        state["optimizer"][0]["state"]["padding"] = torch.zeros(1 << 20)  # most of a real file is not for speaking
        write_small(folder / f"checkpoint_{step}.pth", state)
    torch.save({"Anna": VOICE}, folder / "speakers_xtts.pth")
    return folder.rename(folder.with_name("served"))


@pytest.fixture
def served(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "served"))


@pytest.fixture
def server(served: Path) -> Iterator[FileServer]:
    with FileServer(served) as running:
        yield running


def contents(folder: Path) -> dict[str, bytes]:
    """The files of an export, less what names times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in ("config.json", "vocab.json")}


def weights(path: Path) -> dict[str, bytes]:
    with open_checkpoint(path) as checkpoint:
        return {name: tensor.read().tobytes() for name, tensor in checkpoint.tensors.items()}


def assert_same_export(found: Path, expected: Path) -> None:
    assert sorted(path.name for path in found.iterdir()) == sorted(path.name for path in expected.iterdir())
    assert weights(found) == weights(expected)
    assert contents(found) == contents(expected)
    assert main(["verify", str(found), "-q"]) == 0


def test_an_export_from_a_url_is_that_of_the_file(server: FileServer, served: Path, here: Path) -> None:
    main(["export", str(served / "checkpoint_1000.pth"), "--output", "from_disk", "-q"])

    assert main(["export", f"{server.url}/checkpoint_1000.pth", "-q"]) == 0

    assert_same_export(here / "inference" / "checkpoint_1000", here / "from_disk")
    provenance = read_provenance(here / "inference" / "checkpoint_1000")
    assert provenance is not None
    assert provenance["sources"][0]["name"] == "checkpoint_1000.pth"


def test_inspect_reads_the_structure_alone(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"{server.url}/checkpoint_1000.pth", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["kind"] == "training"
    assert server.sent["checkpoint_1000.pth"] < (server.folder / "checkpoint_1000.pth").stat().st_size / 10


def test_export_reads_the_inference_part_alone_and_once(
    server: FileServer, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_file, "_KEPT", 24)  # fewer pieces than the part has, as at full size

    export_checkpoint(f"{server.url}/checkpoint_1000.pth", here / "out")

    model = (here / "out" / "model.pth").stat().st_size
    structure = 2 * 200_000
    assert (
        server.sent["checkpoint_1000.pth"] < model + structure < (server.folder / "checkpoint_1000.pth").stat().st_size
    )


def test_ten_broken_connections_end_in_a_right_file(server: FileServer, served: Path, here: Path) -> None:
    expected = export_checkpoint(served / "checkpoint_1000.pth", here / "from_disk").path
    with open_checkpoint(f"{server.url}/checkpoint_1000.pth") as source:
        server.broken, server.break_from = 10, 1 << 13

        found = export_opened(source, here / "out").path

    assert server.broken_so_far == 10
    assert_same_export(found, expected)


def test_a_file_that_changes_while_it_is_exported_leaves_nothing(server: FileServer, served: Path, here: Path) -> None:
    seen: list[int] = []

    def exchange(name: str, start: int) -> None:
        seen.append(start)
        if name.startswith("checkpoint") and len(seen) == 25:
            shutil.copy(served / "checkpoint_2000.pth", served / "other.pth")
            (served / "other.pth").replace(served / "checkpoint_1000.pth")

    server.before_range = exchange

    with pytest.raises(CheckpointError, match="has changed while it was read; run the command again"):
        export_checkpoint(f"{server.url}/checkpoint_1000.pth", here / "out")
    assert list(here.iterdir()) == []


def test_damage_in_a_remote_file_is_found(server: FileServer, served: Path, here: Path) -> None:
    damaged = bytearray((served / "checkpoint_1000.pth").read_bytes())
    with open_checkpoint(served / "checkpoint_1000.pth") as checkpoint:
        storage: Any = checkpoint.tensors["xtts.gpt.mel_head.weight"].storage
        damaged[storage.offset] ^= 1
    (served / "checkpoint_1000.pth").write_bytes(damaged)

    with pytest.raises(CheckpointError, match=r"the file is damaged, download it again"):
        export_checkpoint(f"{server.url}/checkpoint_1000.pth", here / "out")


def test_a_server_without_ranges_is_read_through(
    server: FileServer, served: Path, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = export_checkpoint(served / "checkpoint_1000.pth", here / "from_disk").path
    server.ranges = server.announces = False

    found = export_checkpoint(f"{server.url}/checkpoint_1000.pth", here / "out").path

    assert_same_export(found, expected)
    assert "the server sends no parts of a file" in caplog.text


@pytest.mark.parametrize("options", [["--dtype", "float16"], ["--dtype", "int8"], ["--format", "safetensors"]])
def test_other_types_and_formats_read_about_as_much(server: FileServer, here: Path, options: list[str]) -> None:
    assert main(["export", f"{server.url}/checkpoint_1000.pth", "--output", "plain", "-q"]) == 0
    plain = server.sent.pop("checkpoint_1000.pth")

    assert main(["export", f"{server.url}/checkpoint_1000.pth", "--output", "out", "-q", *options]) == 0

    assert server.sent["checkpoint_1000.pth"] < 1.1 * plain


def test_average_merge_and_compare_take_urls(server: FileServer, served: Path, here: Path) -> None:
    urls = [f"{server.url}/checkpoint_{step}.pth" for step in (1000, 2000)]
    files = [str(served / f"checkpoint_{step}.pth") for step in (1000, 2000)]
    for command in ("average", "merge"):
        assert main([command, *files, "--output", f"{command}_files", "-q"]) == 0
        assert main([command, *urls, "--output", f"{command}_urls", "-q"]) == 0
        assert weights(here / f"{command}_urls") == weights(here / f"{command}_files")
    assert main(["compare", *urls, "-q"]) == 1
    assert main(["compare", urls[0], files[0], "-q"]) == 0


def test_a_recipe_names_urls(server: FileServer, here: Path) -> None:
    models = "".join(f"  - path: {server.url}/checkpoint_{step}.pth\n" for step in (1000, 2000))
    (here / "recipe.yaml").write_text(f"method: linear\nmodels:\n{models}")

    assert main(["merge", "recipe.yaml", "--output", "merged", "-q"]) == 0


def test_verify_reads_every_byte_and_says_what_it_does_not_compare(
    server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", f"{server.url}/checkpoint_1000.pth"]) == 0

    out = capsys.readouterr().out
    assert f"{server.url}/checkpoint_1000.pth: fine" in out
    assert "the file lies behind a URL" in out


def test_an_inference_folder_behind_a_url_is_verified(server: FileServer, served: Path) -> None:
    export_checkpoint(served / "checkpoint_1000.pth", served / "voice")

    assert main(["verify", f"{server.url}/voice", "-q"]) == 0
    assert inspect_checkpoint(f"{server.url}/voice").kind == "export"


def test_a_missing_file_ends_in_one_line(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("inspect", "export", "verify"):
        line = complaint(capsys, command, f"{server.url}/none.pth")
        assert f"{server.url}/none.pth: no such file" in line


def test_a_page_in_place_of_a_file_is_named(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    (server.folder / "page.pth").write_text("<!DOCTYPE html><html></html>")

    assert "is a web page (HTML)" in complaint(capsys, "inspect", f"{server.url}/page.pth")


def test_nothing_that_is_printed_or_written_holds_a_credential(
    server: FileServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.password = "anna:hunter2"
    url = f"{server.url.replace('//', '//anna:hunter2@')}/checkpoint_1000.pth?token=s3cr3t"

    assert main(["export", url, "--output", "out", "-v"]) == 0
    assert main(["inspect", url, "--json"]) == 0
    server.failing["checkpoint_1000.pth"] = 500
    assert main(["export", url, "--output", "other", "-v", "--json"]) == 2

    printed = capsys.readouterr()
    written = b"".join(path.read_bytes() for path in here.rglob("*") if path.is_file())
    everything = f"{printed.out}{printed.err}".encode() + written
    assert b"out" in everything
    assert b"hunter2" not in everything
    assert b"s3cr3t" not in everything


# The Hub


def test_a_model_on_the_hub_is_read_in_ranges(server: FileServer, served: Path, here: Path) -> None:
    pytest.importorskip("huggingface_hub")
    expected = export_checkpoint(served / "checkpoint_1000.pth", here / "from_disk").path
    sizes = {path.name: path.stat().st_size for path in served.iterdir()}
    files = [{"type": "file", "oid": "0" * 40, "size": size, "path": name} for name, size in sizes.items()]
    repository = {"id": "anna/voice", "modelId": "anna/voice", "sha": "0" * 40, "private": False, "siblings": []}
    server.prefix = "anna/voice/resolve/main/"
    server.pages = {
        "/api/models/anna/voice": {**repository, "tags": [], "downloads": 0, "likes": 0},
        "/api/models/anna/voice/revision/main": {**repository, "tags": [], "downloads": 0, "likes": 0},
        "/api/models/anna/voice/tree/main": files,
        "/api/models/anna/voice/tree/main/": files,
    }
    # Another process: the address of the Hub is read when its package is imported.
    command = [*START, "xtts_export_callback", "export", "hf://anna/voice/checkpoint_1000.pth", "--output", "out", "-v"]
    settings = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_planted", "HF_HUB_DISABLE_TELEMETRY": "1"}

    done = subprocess.run(
        command,
        env={**os.environ, **settings, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert_same_export(here / "out", expected)
    assert server.sent["checkpoint_1000.pth"] < sizes["checkpoint_1000.pth"]
    written = b"".join(path.read_bytes() for path in here.rglob("*") if path.is_file())
    assert b"hf_planted" not in written + f"{done.stdout}{done.stderr}".encode()


# Elsewhere


def upload(fs: Any, folder: Path, target: str) -> None:
    for path in folder.iterdir():
        fs.pipe_file(f"{target}/{path.name}", path.read_bytes())


def test_memory_is_read_like_a_server(served: Path, here: Path) -> None:
    upload(fsspec.filesystem("memory"), served, "/models/anna")
    expected = export_checkpoint(served / "checkpoint_1000.pth", here / "from_disk").path

    assert_same_export(export_checkpoint("memory://models/anna/checkpoint_1000.pth", here / "out").path, expected)


def test_a_run_behind_a_url_is_one(served: Path, here: Path) -> None:
    upload(fsspec.filesystem("memory"), served, "/models/run")

    assert main(["average", "memory://models/run", "--last", "2", "--output", "mean", "-q"]) == 0
    assert main(["export", "memory://models/run", "--output", "all", "-q"]) == 0
    assert sorted(path.name for path in (here / "all").iterdir()) == ["checkpoint_1000", "checkpoint_2000"]
    assert main(["inspect", "memory://models/run", "-q"]) == 0


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A bucket on a server of moto on the loopback address."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    settings = {
        "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
        "AWS_SECRET_ACCESS_KEY": "planted-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        allow_loopback(patch)
        server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {**settings, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("bucket")
        yield fs
        fs.clear_instance_cache()
        server.stop()


@pytest.mark.filterwarnings("ignore")  # of botocore
def test_a_bucket_is_read_like_a_server(s3: Any, served: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upload(s3, served, "bucket/anna")
    expected = export_checkpoint(served / "checkpoint_1000.pth", here / "from_disk").path

    assert main(["export", "s3://bucket/anna/checkpoint_1000.pth", "--output", "out", "-v"]) == 0

    assert_same_export(here / "out", expected)
    written = b"".join(path.read_bytes() for path in here.rglob("*") if path.is_file())
    shown = capsys.readouterr()
    assert b"planted" not in (written + f"{shown.out}{shown.err}".encode()).lower()


@pytest.mark.filterwarnings("ignore")  # of botocore
def test_an_object_that_is_written_anew_is_noticed(
    s3: Any, served: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(s3, served, "bucket/changing")
    fetch, calls = remote_file._range, []

    def exchange(*args: Any) -> bytes:
        calls.append(args)
        if len(calls) == 25:
            s3.pipe_file("bucket/changing/checkpoint_1000.pth", (served / "checkpoint_2000.pth").read_bytes())
        return fetch(*args)

    monkeypatch.setattr(remote_file, "_range", exchange)

    with pytest.raises(CheckpointError, match="has changed while it was read"):
        export_checkpoint("s3://bucket/changing/checkpoint_1000.pth", here / "out")
    assert list(here.iterdir()) == []


# Outputs


def in_memory(folder: str) -> dict[str, bytes]:
    fs = fsspec.filesystem("memory")
    return {name.rpartition("/")[2]: fs.cat_file(name) for name in fs.find(folder)}


def test_an_export_is_written_to_a_url(served: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", str(served / "checkpoint_1000.pth"), "--output", "from_disk", "-q"])

    assert main(["export", str(served / "checkpoint_1000.pth"), "--output", "memory://out/anna"]) == 0

    assert "memory://out/anna: " in capsys.readouterr().out
    assert in_memory("/out/anna").keys() == {path.name for path in (here / "from_disk").iterdir()}
    assert main(["verify", "memory://out/anna", "-q"]) == 0
    assert main(["compare", "memory://out/anna", "from_disk", "-q"]) == 0
    assert [path.name for path in here.iterdir()] == ["from_disk"]


def test_a_mean_is_written_to_a_url(served: Path) -> None:
    files = [str(served / f"checkpoint_{step}.pth") for step in (1000, 2000)]

    assert main(["average", *files, "--output", "memory://out/mean", "-q"]) == 0
    assert main(["verify", "memory://out/mean", "-q"]) == 0


def test_what_is_at_a_url_is_never_replaced(served: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fsspec.filesystem("memory").pipe_file("/out/taken/notes.txt", b"the user's")
    source = str(served / "checkpoint_1000.pth")

    for force in ([], ["--force"]):
        line = complaint(capsys, "export", source, "--output", "memory://out/taken", *force)
        assert "memory://out/taken: exists already; name another output, or remove it there first" in line
    assert in_memory("/out/taken") == {"notes.txt": b"the user's"}


def test_http_is_not_written_to(served: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "export", served / "checkpoint_1000.pth", "--output", "https://example.org/voice")

    assert "HTTP has no way to write files" in line


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["evaluate", "x", "--config", "c", "--output"], "--output"),
        (["report", "x", "--output"], "--output"),
        (["report"], "RUN"),
        (["prune"], "RUN"),
        (["compare", "a", "b", "--plot"], "--plot"),
    ],
)
def test_what_has_to_be_on_this_disk_is_named(
    command: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command, "s3://anna:hunter2@bucket/page"])

    assert left.value.code == 2
    shown = capsys.readouterr().err
    assert f"{option} s3://bucket/page: expected a path of this disk" in shown
    assert "hunter2" not in shown
