"""`xtts-export run`: programs that know nothing of us train with exports, and notice nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.models.trainings import REPOSITORY
from xtts_export_callback.checkpoint import open_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs replace our process on POSIX systems")

TIMEOUT = 180  # seconds
RUN = (sys.executable, "-m", "xtts_export_callback", "run")

# What a program can see of how it was started.
REPORT = """
import json, os, sys
seen = {"argv": sys.argv, "name": __name__, "file": __file__, "path": list(sys.path), "flags": list(sys.flags)}
heavy = ("torch", "TTS", "trainer", "coqpit", "xtts_export_callback")
seen["modules"] = [name for name in heavy if name in sys.modules]
"""


class Started(NamedTuple):
    """A program that has ended."""

    folder: Path
    code: int
    output: str

    @property
    def seen(self) -> Any:
        return json.loads((self.folder / "seen.json").read_text())

    def run_of(self, output: str) -> Path:
        """The run folder of a training."""
        (log,) = (self.folder / output).glob("light-*/trainer_0_log.txt")
        return log.parent


def environment(**changes: str) -> dict[str, str]:
    """With this checkout, and with `python3` being this Python, which `trainer.distribute` starts."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": paths, "TRAINER_TELEMETRY": "0", **changes}


def start(folder: Path, *command: str | Path, **changes: str) -> Started:
    """Run a command in a folder, which is made, to its end."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Started(folder, done.returncode, done.stdout)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# Without a training


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return write(tmp_path / "report.py", f"{REPORT}\nopen('seen.json', 'w').write(json.dumps(seen))\n")


def test_a_program_sees_the_same_as_without_us(report: Path, tmp_path: Path) -> None:
    arguments = [str(report), "--json", "-v", "--export.keep_last", "many", "-m", "a b", "--"]
    plain = start(tmp_path / "plain", sys.executable, *arguments)
    ours = start(tmp_path / "ours", *RUN, "--export.keep_last", "3", *arguments)

    assert (plain.code, ours.code, ours.output) == (0, 0, "")
    assert ours.seen == plain.seen
    assert ours.seen["argv"] == arguments


def test_a_module_sees_the_same_as_without_us(report: Path, tmp_path: Path) -> None:
    plain = start(tmp_path, sys.executable, "-m", "report", "x")
    expected = plain.seen
    ours = start(tmp_path, *RUN, "-m", "report", "x")

    assert (plain.code, ours.code) == (0, 0)
    assert ours.seen == expected


@pytest.mark.parametrize(
    ("last_line", "code"),
    [
        ("sys.exit(7)", 7),
        ("raise ValueError", 1),
        ("import signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_a_program_ends_as_without_us(tmp_path: Path, last_line: str, code: int) -> None:
    script = write(tmp_path / "ends.py", f"import os, sys\n{last_line}\n")

    assert start(tmp_path, *RUN, script).code == code


def test_signals_and_input_reach_the_program(tmp_path: Path) -> None:
    script = write(tmp_path / "reads.py", "import os\nprint(os.getpid(), input(), flush=True)\n")
    process = subprocess.Popen(
        [*RUN, str(script)], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    output, _ = process.communicate("hello\n", timeout=TIMEOUT)

    assert output.split() == [str(process.pid), "hello"]


def test_a_sitecustomize_of_the_user_runs_as_well(tmp_path: Path) -> None:
    write(tmp_path / "sitecustomize.py", "import builtins\nbuiltins.was_here = True\n")
    script = write(tmp_path / "asks.py", "import sys, sitecustomize\nprint(was_here, sitecustomize.__file__)\n")
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    ours = start(tmp_path, *RUN, script, PYTHONPATH=paths)

    assert ours.output.split() == ["True", str(tmp_path / "sitecustomize.py")]


def test_another_module_called_trainer_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    write(tmp_path / "trainer" / "__init__.py", "from trainer.callbacks import NAME\n")
    write(tmp_path / "trainer" / "callbacks.py", "NAME = 'mine'\n")
    script = write(tmp_path / "uses.py", "import trainer\nprint(trainer.NAME)\n")

    assert start(tmp_path, *RUN, script)[1:] == (0, "mine\n")


def test_a_python_without_this_package_says_so_in_one_line_and_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "xtts_export_callback.py", "raise ImportError('not installed')\n")
    (tmp_path / "trainer").mkdir()
    write(tmp_path / "trainer" / "__init__.py", "from trainer import callbacks\n")
    write(tmp_path / "trainer" / "callbacks.py", "class TrainerCallback: pass\n")
    script = write(tmp_path / "uses.py", "import trainer\nprint('went on')\n")
    code, output = start(tmp_path / "elsewhere", *RUN, script)[1:]

    assert code == 0, output
    assert output.splitlines() == [
        f"xtts-export run: no export in {sys.executable}: not installed; install xtts-export-callback there",
        "went on",
    ]


def refused(tmp_path: Path, *arguments: str | Path) -> str:
    """The one line with which a program is not started."""
    script = write(tmp_path / "started.py", "open('started', 'w')\n")
    given = arguments if arguments and arguments[-1] == "" else (*arguments, script)
    code, output = start(tmp_path, *RUN, *filter(None, given))[1:]
    assert (code, len(output.splitlines())) == (2, 1), output
    assert not (tmp_path / "started").exists()
    return output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--export.keep_lats", "3"], "export.keep_lats is not an option (did you mean keep_last?)"),
        (["--export.keep_last", "many"], "export.keep_last is 'many', allowed: a whole number, 0 or more"),
        (["--export.dtype=int4"], "export.dtype is 'int4', allowed: float32, float16, bfloat16, int8"),
        (["--export.enabled", "yes"], "export.enabled is 'yes', allowed: true, false"),
        (["--keep_last", "3"], "--keep_last: no such option; write --export.KEY VALUE before the program"),
        (["--options", "none.json"], "none.json: cannot be read"),
        (["--export.voice", "me.wav"], "export.voice is me.wav: no such file"),
        (["--export.keep_last", "3", ""], "no program is given"),
        (["nowhere.py", ""], "nowhere.py: no such script; name a Python file, or a module with -m"),
        (["-m", ""], "no program is given"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_the_program_starts(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    assert words in refused(tmp_path, *arguments)


def test_an_error_is_json_where_json_is_asked_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [*RUN, "--json", "nowhere.py"], env=environment(), capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["type"] == "ConfigError"


@pytest.mark.parametrize("content", [{"keep_last": 4}, {"epochs": 3, "export": {"keep_last": 4}}])
def test_options_come_from_a_file_and_from_the_command_line(tmp_path: Path, content: dict[str, Any]) -> None:
    from xtts_export_callback.training.launch import read_options

    file = write(tmp_path / "options.json", json.dumps(content))

    assert read_options(str(file), []) == {"enabled": True, "keep_last": 4}
    arguments = ["--export.keep_last", "5", "--export.folder=2", "--export.max_disk_gb", "1.5"]
    expected = {"enabled": True, "keep_last": 5, "folder": "2", "max_disk_gb": 1.5}
    assert read_options(str(file), arguments) == expected


# With trainings

TRAINS = f"""{REPORT}
import argparse
from pathlib import Path
from tests.models.small_decoder import small_decoder
from tests.models.stock import stock_trainer

parser = argparse.ArgumentParser()
parser.add_argument("--export.keep_last")
parser.add_argument("words", nargs="*")
seen["parsed"] = vars(parser.parse_args())
seen["events"] = []
callbacks = {{"on_epoch_end": lambda trainer: seen["events"].append(trainer.epochs_done)}}
with small_decoder():
    trainer = stock_trainer(Path("out"), callbacks=callbacks)
    trainer.fit()
seen["trained"] = [trainer.total_steps_done, sorted(vars(trainer.callbacks))]
Path("seen.json").write_text(json.dumps(seen))
sys.exit(7)
"""


class Pair(NamedTuple):
    plain: Started
    ours: Started


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A script with its own callbacks and its own command line, without us and with us."""
    folder = tmp_path_factory.mktemp("pair")
    script = write(folder / "train.py", TRAINS)
    arguments = [script, "--export.keep_last", "of the script", "a", "b"]
    yield Pair(
        start(folder / "plain", sys.executable, *arguments),
        start(folder / "ours", *RUN, "--export.keep_last", "1", *arguments),
    )
    shutil.rmtree(folder)


@pytest.mark.integration
def test_a_training_script_sees_and_does_the_same_with_exports_as_without(pair: Pair) -> None:
    assert (pair.plain.code, pair.ours.code) == (7, 7), pair.ours.output
    assert pair.ours.seen == pair.plain.seen
    assert pair.ours.seen["events"] == [0, 1]


@pytest.mark.integration
def test_the_config_of_the_run_is_as_without_us(pair: Pair) -> None:
    plain, ours = (started.run_of("out") / "config.json" for started in pair)

    assert ours.read_bytes() == plain.read_bytes()
    assert "export" not in json.loads(ours.read_text())


@pytest.mark.integration
def test_the_trainer_s_files_are_as_without_us_and_the_exports_beside_them(pair: Pair) -> None:
    plain, ours = (started.run_of("out") for started in pair)

    names = {path.name for path in plain.iterdir()}
    assert {path.name for path in ours.iterdir()} == {*names, "inference"}
    exports = sorted(path.name for path in (ours / "inference").glob("checkpoint_*"))
    assert exports == ["checkpoint_6"]  # keep_last of the command line
    with open_checkpoint(ours / "checkpoint_6.pth") as full, open_checkpoint(plain / "checkpoint_6.pth") as without:
        assert full.document["config"] == without.document["config"]
        assert full.tensors.keys() == without.tensors.keys()


TRAINS_OFTEN = """
import threading
from pathlib import Path
from tests.models.small_decoder import small_decoder
from tests.models.stock import Vits, stock_trainer
from xtts_export_callback import ExportConfig, export_callbacks

def train(name, **options):
    with small_decoder():
        stock_trainer(Path(name), **options).fit()

thread = threading.Thread(target=train, args=["thread"])
thread.start()
thread.join()
train("again")
train("vits", model=Vits)
train("vits_again", model=Vits)
train("own", callbacks=export_callbacks(ExportConfig(enabled=True, folder="mine")))
"""


@pytest.fixture(scope="module")
def often(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A program that trains five times: in a thread, again, twice another model, and with the callback."""
    folder = tmp_path_factory.mktemp("often")
    script = write(folder / "program.py", TRAINS_OFTEN)
    yield start(folder, *RUN, "--export.save_on_terminate", "true", script)
    shutil.rmtree(folder)


def exports(run: Path, folder: str = "inference") -> list[str]:
    return sorted(path.name for path in (run / folder).glob("checkpoint_*"))


@pytest.mark.integration
@pytest.mark.parametrize("name", ["thread", "again"])
def test_every_training_of_a_process_is_exported_in_any_thread(often: Started, name: str) -> None:
    assert often.code == 0, often.output
    assert exports(often.run_of(name)) == ["checkpoint_2", "checkpoint_4", "checkpoint_6"]


@pytest.mark.integration
def test_saving_on_terminate_in_another_thread_is_refused_in_one_line(often: Started) -> None:
    (line,) = [line for line in often.output.splitlines() if "save_on_terminate" in line]
    assert line.endswith("save_on_terminate is without effect: training does not run in the main thread")


@pytest.mark.integration
def test_another_model_is_left_alone_and_told_so_once(often: Started) -> None:
    (line,) = [line for line in often.output.splitlines() if "Vits" in line]
    assert line.endswith("EXPORT : Vits is not the GPT of XTTS: trained without exports")
    assert [name for name in ("vits", "vits_again") if (often.run_of(name) / "inference").exists()] == []


@pytest.mark.integration
def test_a_trainer_with_the_callback_keeps_its_own(often: Started) -> None:
    run = often.run_of("own")
    assert exports(run, "mine") == ["checkpoint_2", "checkpoint_4", "checkpoint_6"]
    assert not (run / "inference").exists()


# In two processes

DISTRIBUTED = """
import os, sys
from pathlib import Path
from trainer import TrainerArgs
from tests.models.small_decoder import small_decoder
from tests.models.stock import let_gloo_in, stock_trainer
from xtts_export_callback.training import worker_client

let_gloo_in()
args = TrainerArgs()
args.parse_known_args(arg_prefix="")
with small_decoder():
    worker_client.COMMAND = (sys.executable, "-c", Path("helper.py").read_text())
    url = "tcp://127.0.0.1:" + os.environ["TEST_PORT"]
    stock_trainer(Path("out"), args=args, distributed_backend="gloo", distributed_url=url).fit()
Path(f"ended{args.rank}").touch()
"""
# A helper that exports nothing before it is allowed to.
WAITING_HELPER = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})  # some versions of the Trainer bring a package of the same name
from tests.models.small_decoder import run_helper
from xtts_export_callback.training import worker

export = worker.TASKS["export"]

def wait(**arguments):
    Path("waits").write_text(str(os.getpid()))
    while not Path("go").exists():
        time.sleep(0.02)
    return export(**arguments)

worker.TASKS["export"] = wait
run_helper()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Distributed(NamedTuple):
    run: Path
    output: str
    finished_before_any_export: list[str]


def comes_true(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + TIMEOUT
    while not (found := condition()):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"did not get there: {process.communicate()[0][-3000:]}")
        time.sleep(0.02)
    return found


def helper_in(folder: Path) -> int:
    """Process id of the helper that waits, 0 before there is one."""
    note = folder / "waits"
    return int(note.read_text() or 0) if note.exists() else 0


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distributed]:
    """`trainer.distribute` with two processes, whose helper is killed, and exports nothing before one has ended."""
    folder = tmp_path_factory.mktemp("distributed")
    write(folder / "train.py", DISTRIBUTED)
    write(folder / "helper.py", WAITING_HELPER)
    command = [*RUN, "-m", "trainer.distribute", "--script", "train.py", "--gpus", "0,1"]
    settings = environment(TEST_PORT=str(free_port()), CUDA_VISIBLE_DEVICES="")
    process = subprocess.Popen(
        command, cwd=folder, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    killed = comes_true(lambda: helper_in(folder), process)
    os.kill(killed, signal.SIGKILL)
    comes_true(lambda: helper_in(folder) not in (0, killed), process)
    comes_true((folder / "ended1").exists, process)
    (log,) = (folder / "out").glob("light-*/trainer_0_log.txt")
    comes_true((log.parent / "checkpoint_6.pth").exists, process)  # the last one, saved with no export done
    finished = [*exports(log.parent), *(["ended0"] if (folder / "ended0").exists() else [])]
    (folder / "go").touch()
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    assert (folder / "ended0").exists(), output
    yield Distributed(log.parent, output, finished)
    shutil.rmtree(folder)


@pytest.mark.integration
def test_of_two_processes_none_waits_for_an_export_while_training(distributed: Distributed) -> None:
    assert distributed.finished_before_any_export == []


@pytest.mark.integration
def test_of_two_processes_the_first_exports_after_its_helper_was_killed(distributed: Distributed) -> None:
    log = (distributed.run / "trainer_0_log.txt").read_text()
    assert "it is restarted" in log
    assert {"checkpoint_4", "checkpoint_6"} <= set(exports(distributed.run)), log
    assert [path.name for path in (distributed.run / "inference").iterdir() if path.name.startswith(".")] == []


@pytest.mark.integration
def test_of_two_processes_the_second_writes_its_log_alone(distributed: Distributed) -> None:
    assert "EXPORT" not in (distributed.run / "trainer_1_log.txt").read_text()
