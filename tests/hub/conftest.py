"""What the tests of the Hub share: an inference folder, a Hub, and the command as somebody types it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.models.hub_server import Hub
from tests.models.small_xtts import write_small
from xtts_export_callback import export_checkpoint

TOKEN = "hf_PlantedTokenOfSomebody"
SECRET = "planted-secret-of-a-bucket"
USER, HOST = "gretchen", "gretchens-workstation"
ROOT = Path(__file__).parents[2]
CODE = f"""import signal, socket, sys
socket.gethostname = lambda: {HOST!r}
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv.pop(1))
from tests.models.small_decoder import small_decoder
from xtts_export_callback.cli.main import main
with small_decoder():
    sys.exit(main(["push", *sys.argv[1:]]))"""


def write_speakers(path: Path, *names: str) -> None:
    latents = {"gpt_cond_latent": torch.ones(1, 4, 8), "speaker_embedding": torch.ones(1, 4, 1)}
    torch.save(dict.fromkeys(names, latents), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The export of a checkpoint, with the voices of the release."""
    checkpoint = write_small(tmp_path / "run" / "checkpoint_1000.pth")
    write_speakers(checkpoint.with_name("speakers_xtts.pth"), "Ana Florence", "Alma María")
    return export_checkpoint(checkpoint).path


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    server = hub.start()
    yield hub
    server.shutdown()
    server.server_close()


Start = Callable[..., subprocess.Popen[str]]
Push = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def start(hub: Hub, tmp_path: Path) -> Start:
    """Start ``xtts-export push`` in a process of a user who has keys in the environment."""
    home = tmp_path / "home" / USER
    home.mkdir(parents=True)
    names = {"HOME": str(home), "USER": USER, "LOGNAME": USER, "AWS_SECRET_ACCESS_KEY": SECRET}
    names |= {"HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}
    # Its own protocol for chunks is for servers that we have not.
    environment = {**os.environ, **names, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def started(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CODE, str(ROOT), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, encoding="utf-8", **pipes)

    return started


@pytest.fixture
def push(start: Start) -> Push:
    """Run ``xtts-export push`` to its end."""

    def done(*arguments: object) -> subprocess.CompletedProcess[str]:
        process = start(*arguments)
        output, complaints = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, output, complaints)

    return done


def interrupt(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, complaints = process.communicate(timeout=30)
    return process.returncode, complaints
