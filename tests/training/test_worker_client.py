"""The helper process that does the work: jobs and answers, its end, and what must not be run or taken for an answer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.small_decoder import real_decoder
from xtts_export_callback.files.random_access import Moved, RandomFile
from xtts_export_callback.training import worker_client
from xtts_export_callback.training.worker_client import Helper, HelperError, HungError


def use_helper(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A helper whose tasks are written in a test."""
    program = f"from xtts_export_callback.training import worker\n{code}\nworker.main()"
    monkeypatch.setattr(worker_client, "COMMAND", (sys.executable, "-c", program))


@pytest.fixture
def helper() -> Iterator[Helper]:
    """A helper, started as it is outside tests."""
    with real_decoder():
        helper = Helper()
        yield helper
        helper.close()


def test_a_job_is_done_in_another_process(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    use_helper(monkeypatch, "import os\nworker.TASKS['who'] = lambda: {'pid': os.getpid()}")
    pid = helper.perform("who")["pid"]
    assert pid == helper.pid != os.getpid()
    assert helper.perform("who")["pid"] == pid


def test_an_error_in_a_job_is_one_line_and_the_helper_lives_on(helper: Helper, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(HelperError, match=r"no\.pth: cannot be read") as caught:
            helper.perform(
                "export",
                source=str(tmp_path / "no.pth"),
                known_as=str(tmp_path / "no.pth"),
                target=str(tmp_path / "out"),
                stored={"dtype": "float32"},
            )
        assert "\n" not in str(caught.value)
        assert helper.pid is not None


def test_a_helper_that_dies_is_started_again_once(
    helper: Helper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    use_helper(
        monkeypatch,
        f"""
import os, pathlib
def once():
    mark = pathlib.Path({str(mark)!r})
    if not mark.exists():
        mark.touch()
        os._exit(9)
    return {{'done': True}}
worker.TASKS['once'] = once
""",
    )
    assert helper.perform("once")["done"]


def test_a_job_that_kills_every_helper_fails_and_the_next_one_is_done(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_helper(
        monkeypatch,
        "import os\nworker.TASKS['die'] = lambda: os._exit(9)\nworker.TASKS['live'] = lambda: {'alive': True}",
    )
    with pytest.raises(HelperError, match="ended with exit code 9"):
        helper.perform("die")
    assert helper.perform("live")["alive"]


def test_a_helper_that_cannot_be_started_says_what_to_do(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_client, "COMMAND", ("/no/such/python",))
    with pytest.raises(HelperError, match=r"cannot be started.*xtts-export export RUN"):
        helper.perform("who")


def test_the_last_words_of_a_helper_that_cannot_run_are_in_the_error(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_client, "COMMAND", (sys.executable, "-c", "raise SystemExit('no numpy here')"))
    with pytest.raises(HelperError, match="exit code 1: no numpy here"):
        helper.perform("who")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")
def test_ctrl_c_does_not_reach_the_helper(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    use_helper(monkeypatch, "import os\nworker.TASKS['group'] = lambda: {'group': os.getpgid(0)}")
    assert helper.perform("group")["group"] != os.getpgid(0)
    assert helper.pid is not None
    os.kill(helper.pid, signal.SIGINT)
    assert helper.perform("group")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")
def test_stopping_the_helper_removes_what_it_had_half_written(
    helper: Helper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_helper(
        monkeypatch,
        f"""
import pathlib, time
from xtts_export_callback.files.atomic import whole_directory
def slow():
    with whole_directory(pathlib.Path({str(tmp_path)!r}) / 'out') as folder:
        (folder / 'half').touch()
        time.sleep(60)
worker.TASKS['slow'] = slow
""",
    )
    errors: list[HelperError] = []

    def perform() -> None:
        try:
            helper.perform("slow")
        except HelperError as error:
            errors.append(error)

    thread = threading.Thread(target=perform)
    thread.start()
    while not list(tmp_path.glob(".out.tmp-*/half")):
        assert thread.is_alive()
    helper.stop()
    thread.join()
    assert "stopped" in str(errors[0])
    assert list(tmp_path.iterdir()) == []


def test_the_helper_imports_neither_torch_nor_coqui(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    use_helper(
        monkeypatch,
        """
import sys
def modules():
    import xtts_export_callback.merge.average
    return {'names': sorted({name.partition('.')[0] for name in sys.modules})}
worker.TASKS['modules'] = modules
""",
    )
    assert not {"torch", "TTS", "trainer", "coqpit", "transformers"} & set(helper.perform("modules")["names"])


# What a helper must not take for its own


SHADOWS = ("isal.py", "numpy.py", "queue.py", "json.py", "pathlib.py", "typing.py", "dataclasses.py", "enum.py")


def shadow(folder: Path, mark: Path) -> None:
    """Files called like modules that the helper needs, which leave a mark when they are run."""
    folder.mkdir(exist_ok=True)
    for name in SHADOWS:
        (folder / name).write_text(f"open({str(mark)!r}, 'a').write({name!r})\n")


def asks_for(helper: Helper, name: str) -> str:
    """The error of a job about a file that is not there."""
    with pytest.raises(HelperError) as caught:
        helper.perform("copy", source=f"/{name}", target=f"/{name}-2")
    return str(caught.value)


@pytest.mark.parametrize("python_path", ["", ".", f"{os.pathsep}/nowhere", "{cwd}"])
def test_modules_of_the_working_directory_are_not_run(
    helper: Helper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python_path: str
) -> None:
    shadow(tmp_path / "cwd", tmp_path / "mark")
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("PYTHONPATH", python_path.format(cwd=tmp_path / "cwd"))
    assert "'/nowhere-there'" in asks_for(helper, "nowhere-there")
    assert not (tmp_path / "mark").exists()


def test_backports_beside_the_package_do_not_replace_the_standard_library(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    shadow(site, tmp_path / "mark")
    for name in ("isal.py", "numpy.py"):  # these are no modules of the standard library
        (site / name).unlink()
    package = Path(worker_client.__file__).parents[1]
    shutil.copytree(package, site / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
import dataclasses, enum, json, logging, pathlib, queue, subprocess, sys, tempfile, typing
sys.path.insert(0, {str(site)!r})
from xtts_export_callback.training import worker_client
assert worker_client.__file__.startswith({str(site)!r})
helper = worker_client.Helper()
try:
    helper.perform("copy", source="/nowhere-there", target="/nowhere")
except worker_client.HelperError as error:
    print(error)
helper.close()
"""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-E", "-c", code]  # the training itself takes no notice of the variable
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "'/nowhere-there'" in printed.stdout
    assert not (tmp_path / "mark").exists()


def test_what_only_pythonpath_names_is_found(helper: Helper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", f"/nowhere{os.pathsep}{tmp_path}")
    asks_for(helper, "nowhere-there")
    assert (tmp_path / "mark").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a list of processes in /proc")
def test_the_helper_can_be_told_in_a_list_of_processes(helper: Helper) -> None:
    asks_for(helper, "nowhere-there")
    assert b"xtts_export_callback.training.worker" in Path(f"/proc/{helper.pid}/cmdline").read_bytes()


@pytest.mark.parametrize(
    "printed",
    ["hello\n", "hello", '{"ok": true, "nbytes": 1}\n', "[" * 100_000 + "\n", "[]\n", "\n" * 10, "\udcff\n"],
    ids=["a line", "half a line", "an answer", "deep", "a list", "empty lines", "no text"],
)
def test_what_is_printed_as_python_starts_is_no_answer(
    helper: Helper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, printed: str
) -> None:
    content = printed.encode(errors="surrogateescape")
    code = f"import sys; sys.stdout.buffer.write({content!r}); sys.stdout.flush()\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for number in range(3):
        assert f"'/nowhere-{number}'" in asks_for(helper, f"nowhere-{number}")


def test_what_a_job_prints_is_no_answer(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    use_helper(
        monkeypatch,
        """
import os
def prints():
    os.write(1, b'{"job": 1, "ok": true, "is": "printed"}' + bytes([10]))
    return {'is': 'answered'}
worker.TASKS['prints'] = prints
""",
    )
    assert helper.perform("prints")["is"] == "answered"


# Hanging


HANGS = """
import os, signal, time
from xtts_export_callback.files.random_access import Moved
def stop():
    os.kill(os.getpid(), signal.SIGSTOP)
def moves():
    for _ in range(60):
        time.sleep(0.05)
        Moved.nbytes += 1
    return {'done': True}
worker.TASKS.update(stop=stop, moves=moves)
worker._BEAT = 0.1
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")
def test_a_helper_without_progress_is_given_up_and_the_next_job_done(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_helper(monkeypatch, HANGS)
    monkeypatch.setattr(worker_client, "GIVEN_UP_AFTER", 1.0)
    with pytest.raises(HungError, match="no progress for 1 s and was given up"):
        helper.perform("stop")
    monkeypatch.setattr(worker_client, "GIVEN_UP_AFTER", 60.0)
    assert helper.perform("moves")["done"]


def test_a_slow_helper_that_gets_on_is_waited_for(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    use_helper(monkeypatch, HANGS)
    helper.perform("moves")  # whatever it takes to start
    monkeypatch.setattr(worker_client, "GIVEN_UP_AFTER", 1.5)
    assert helper.perform("moves")["done"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")
def test_a_helper_that_is_stopped_cleans_up_when_it_is_ended(
    helper: Helper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_helper(
        monkeypatch,
        f"""
import os, pathlib, signal
from xtts_export_callback.files.atomic import whole_directory
def slow():
    with whole_directory(pathlib.Path({str(tmp_path)!r}) / 'out') as folder:
        (folder / 'half').touch()
        os.kill(os.getpid(), signal.SIGSTOP)
        signal.pause()
worker.TASKS['slow'] = slow
""",
    )
    monkeypatch.setattr(worker_client, "GIVEN_UP_AFTER", 1.0)
    with pytest.raises(HungError):
        helper.perform("slow")
    assert list(tmp_path.iterdir()) == []


def test_every_byte_that_is_read_written_and_synced_is_progress(tmp_path: Path) -> None:
    counts = [Moved.nbytes]
    with RandomFile(tmp_path / "one", create=True) as one, RandomFile(tmp_path / "two", create=True) as two:
        for step in (
            lambda: one.write_at(bytes(100), 0),
            lambda: one.read(0, 100),
            lambda: two.copy_range_from(one, 0, 0, 100),
            two.sync,
        ):
            step()
            counts.append(Moved.nbytes)
    assert counts == sorted(set(counts)) or not sys.platform.startswith("linux")
