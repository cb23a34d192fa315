"""What the tests share: the tiny model's files, configs to train it with, and no network."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from tests.models.file_systems import CLONING, can_mount, mounted
from tests.models.small_decoder import small_decoder
from tests.models.trainings import close_trainer_logs, lines_logged_by
from xtts_export_callback.demo.tiny_model import TinyAssets, tiny_trainer_config, write_tiny_assets

# No test asserts how long something takes, and a busy machine must fail none.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the packages of others warn in integration tests; warnings about our own lines stay errors."""
    for item in items:
        if item.get_closest_marker("integration"):
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            item.add_marker(pytest.mark.filterwarnings("error:::(xtts_export_callback|tests)"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Expect small decoders in every test, and in its fixtures, but for those that train a real model."""
    if {"tiny_assets", "demo"} & set(getattr(item, "fixturenames", ())):
        return (yield)
    with small_decoder():
        return (yield)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything works offline: whoever opens a connection fails."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            message = f"a test opened a connection to {address}"
            raise AssertionError(message)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def tiny_assets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyAssets]:
    """Generated speech, vocabulary, DVAE and mel statistics."""
    folder = tmp_path_factory.mktemp("assets")
    yield write_tiny_assets(folder)
    shutil.rmtree(folder)


@pytest.fixture
def tiny_config(tiny_assets: TinyAssets, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A function that makes configs for the tiny model, with fields of ``XttsExportTrainerConfig`` as arguments.

    Every config gets an output folder of its own, because the Trainer names its run folders by the minute. Runs are
    removed after the test: a checkpoint takes 0.3 GB. One epoch is 5 steps; ``save_best_after`` is set so that the only
    checkpoints are those a test asks for.
    """
    outputs: list[Path] = []

    def make(**fields: Any) -> Any:
        outputs.append(tmp_path / f"training{len(outputs) + 1}")
        return tiny_trainer_config(tiny_assets, outputs[-1], **{"save_best_after": 1_000_000, **fields})

    yield make
    close_trainer_logs()
    for output in outputs:
        shutil.rmtree(output, ignore_errors=True)


@pytest.fixture
def light(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that trains the light model: options of the export, then fields of the config."""
    from tests.models.light import light_run

    outputs: list[Path] = []

    def run(export: dict[str, Any] | None = None, **fields: Any) -> Path:
        outputs.append(tmp_path / f"out{len(outputs)}")
        return light_run(outputs[-1], export, **fields)

    yield run
    close_trainer_logs()
    for output in outputs:
        shutil.rmtree(output, ignore_errors=True)


@pytest.fixture(scope="session", params=CLONING)
def cloning_disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own on which files can share blocks."""
    if not can_mount(request.param):
        pytest.skip(f"needs root, Linux and mkfs.{request.param}")
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(mounted(request.param, tmp_path_factory.mktemp("disk"), 1 << 30))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"{request.param} cannot be mounted here: {error}")
        yield disk


@pytest.fixture
def cloning_folder(cloning_disk: Path) -> Iterator[Path]:
    """An empty folder on that file system."""
    folder = cloning_disk / "folder"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What the training log says of us."""
    with lines_logged_by("trainer.xtts_export") as lines:
        yield lines


class Demo(NamedTuple):
    output: Path
    run: Path
    printed: str


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One run of the demo."""
    output = tmp_path_factory.mktemp("demo") / "output"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "200")
        from xtts_export_callback.demo.demo import run_demo

        run = run_demo(output)
    yield Demo(output, run, printed.getvalue())
    close_trainer_logs()
    shutil.rmtree(output)
