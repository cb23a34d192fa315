"""Real programs that train, run plainly and then by `xtts-export run`: what they do, and how they end.

    python -m tests.training.programs [NAME ...] [--dir DIR]

Every program trains the tiny XTTS by the real `GPTTrainer`, or a small VITS, as scripts and web interfaces do it; none
but the last knows of this package. Takes some minutes; prints a row for each program.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.models.trainings import REPOSITORY
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import XttsExportError

# How a training script builds it; beside the programs, as a module of theirs.
COMMON = """
import inspect, json, os, sys
from pathlib import Path
PATH = list(sys.path)  # torch adds a random folder
from trainer import Trainer, TrainerArgs
from TTS.tts.datasets import load_tts_samples
from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer, GPTTrainerConfig

VALUES = json.loads(Path(__file__).with_name("values.json").read_text())

def samples(config):
    takes_list = "datasets" in inspect.signature(load_tts_samples).parameters
    data = config.datasets if takes_list else config
    return load_tts_samples(data, eval_split=True, eval_split_size=config.eval_split_size)

def make(output, config=None, callbacks=None, args=None, **fields):
    config = config or GPTTrainerConfig()
    config.from_dict({**VALUES, "output_path": output, **fields})
    train, evaluate = samples(config)
    return Trainer(
        args or TrainerArgs(), config, output_path=output, model=GPTTrainer(config), train_samples=train,
        eval_samples=evaluate, callbacks=callbacks, parse_command_line_args=False,
    )

def report(**more):
    argv = [word for word in sys.argv if not word.startswith("--group_id")]  # with the time in it
    seen = {"argv": argv, "file": sys.modules["__main__"].__file__, "path": PATH, **more}
    Path("seen.json").write_text(json.dumps(seen))
"""

_DISTRIBUTED = """
import os, signal
from common import TrainerArgs, make, report
from tests.models.stock import let_gloo_in
let_gloo_in()
args = TrainerArgs()
args.parse_known_args(arg_prefix="")
url = "tcp://127.0.0.1:" + os.environ["TEST_PORT"]
"""

PROGRAMS = {
    "own callbacks": """
from common import make, report
events = []
keys = ("on_init_start", "on_init_end", "on_epoch_start", "on_epoch_end", "on_train_step_start", "on_train_step_end")
trainer = make("out", callbacks={key: lambda trainer, key=key: events.append(key) for key in keys})
trainer.fit()
report(events=events)
""",
    "own arguments": """
import argparse, sys
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, required=True)
parser.add_argument("--export.dtype", dest="dtype")
parser.add_argument("voices", nargs="+")
own = parser.parse_args()
from common import make, report
make("out", epochs=own.epochs).fit()
report(parsed=vars(own))
sys.exit(3)
""",
    "trainer.distribute": f"""
{_DISTRIBUTED}
make("out", args=args, distributed_backend="gloo", distributed_url=url).fit()
if args.rank == 0:
    report(rank=os.environ["RANK"])
""",
    "distribute, ended": f"""
{_DISTRIBUTED}
def end(trainer):
    if args.rank == 0 and trainer.total_steps_done == 1:
        os.killpg(os.getpgid(0), signal.SIGTERM)  # as a cluster ends a job: all of its processes
callbacks = {{"on_train_step_start": end}}
make("out", args=args, callbacks=callbacks, num_loader_workers=1, distributed_backend="gloo", distributed_url=url).fit()
""",
    "trains twice": """
from common import make, report
for output in ("out", "out_again"):
    make(output).fit()
report()
""",
    "web interface": """
import threading, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from common import make, report

class Button(BaseHTTPRequestHandler):
    def do_POST(self):  # in a thread of its own, as gradio calls what a button does
        make("out").fit()
        report(thread=threading.current_thread() is threading.main_thread())
        self.send_response(200)
        self.end_headers()

server = ThreadingHTTPServer(("127.0.0.1", 0), Button)
threading.Thread(target=server.serve_forever, daemon=True).start()
urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/train", data=b"").close()
server.shutdown()
""",
    "VITS": """
from common import VALUES, Trainer, TrainerArgs, report, samples
from TTS.tts.configs.vits_config import VitsConfig
from TTS.tts.models.vits import Vits, VitsArgs
small = VitsArgs(hidden_channels=32, hidden_channels_ffn_text_encoder=32, num_layers_text_encoder=1,
    num_layers_posterior_encoder=1, num_layers_flow=1, upsample_initial_channel_decoder=32, use_sdp=False)
config = VitsConfig(output_path="out", run_name="tiny", model_args=small, batch_size=2, eval_batch_size=2, epochs=1,
    eval_split_size=2, save_step=2, save_n_checkpoints=2, num_loader_workers=0, num_eval_loader_workers=0,
    test_sentences=[], use_phonemes=False, compute_input_seq_cache=False, dashboard_logger="tensorboard")
config.from_dict({"datasets": VALUES["datasets"]})
train, evaluate = samples(config)
model = Vits.init_from_config(config)
Trainer(TrainerArgs(), config, output_path="out", model=model, train_samples=train[:4], eval_samples=evaluate,
    parse_command_line_args=False).fit()
report()
""",
    "is terminated": """
import os, signal
from common import make
def end(trainer):
    if trainer.total_steps_done == 3:
        os.kill(os.getpid(), signal.SIGTERM)
make("out", callbacks={"on_train_step_start": end}, num_loader_workers=1).fit()
""",
    "has the callback": """
from common import make, report
from xtts_export_callback import ExportConfig, XttsExportTrainerConfig, export_callbacks
config = XttsExportTrainerConfig(export=ExportConfig(enabled=True, folder="mine"))
make("out", config, callbacks=export_callbacks(config)).fit()
report()
""",
}
_ARGUMENTS = {"own arguments": ["--epochs", "1", "--export.dtype", "of the program", "ann", "ben"]}
_ENDED = {"is terminated": "checkpoint_4", "distribute, ended": "checkpoint_2"}  # what is saved after that step
_TIMEOUT = 600  # seconds
_ROW = "{:<20} {:>10}  {:<12} {:<12} {:<16} {}"


class Ended(NamedTuple):
    """A program that has ended, and its folder."""

    folder: Path
    code: int
    output: str

    def configs(self) -> list[Any]:
        """What each run's config.json holds."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("out*/tiny-*/config.json"))]

    def files(self) -> list[str]:
        """The files at the root of each run, and what the program has seen."""
        runs = sorted(self.folder.glob("out*/tiny-*"))
        names = [f"{run.parent.name}/{path.name}" for run in runs for path in run.iterdir() if path.is_file()]
        # the event file of TensorBoard has time and process in its name
        return sorted(name.partition(".tfevents")[0] for name in names)

    def seen(self) -> Any:
        """What the program has noted."""
        path = self.folder / "seen.json"
        return json.loads(path.read_text()) if path.exists() else None

    def exports(self) -> list[str]:
        """Exports whose every tensor matches its checksum."""
        found = []
        for folder in sorted(self.folder.glob("out*/tiny-*/*/*/")):
            with open_checkpoint(folder) as checkpoint:
                for tensor in checkpoint.tensors.values():
                    tensor.read()
            found.append(f"{folder.parent.name}/{folder.name}")
        return found


def free_port() -> str:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def start(folder: Path, name: str, script: Path, *, port: str, by_us: bool) -> Ended:
    """Run a program to its end."""
    folder.mkdir()
    ours = ["-m", "xtts_export_callback", "run", "--export.save_on_terminate", "true"] if by_us else []
    program = [str(script), *_ARGUMENTS.get(name, [])]
    if script.read_text().count("let_gloo_in"):
        program = ["-m", "trainer.distribute", "--script", str(script), "--gpus", "0,1"]
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = {"PYTHONPATH": str(REPOSITORY), "PATH": paths, "TRAINER_TELEMETRY": "0", "TEST_PORT": port}
    done = subprocess.run(
        [sys.executable, *ours, *program],
        cwd=folder,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_TIMEOUT,
        check=False,
        start_new_session=True,
    )
    return Ended(folder, done.returncode, done.stdout)


def differences(name: str, plain: Ended, ours: Ended) -> list[str]:
    """What is not as it should be."""
    wrong = []
    expected_code = 3 if name == "own arguments" else -signal.SIGTERM if name in _ENDED else 0
    if not plain.code == ours.code == expected_code:
        wrong.append(f"exit codes\n{plain.output[-2000:]}\n---\n{ours.output[-3000:]}")
    if plain.configs() != ours.configs():
        wrong.append("config.json")
    saved = _ENDED.get(name, "")
    if saved and not {f"out/{saved}.pth", f"inference/{saved}"} <= {*ours.files(), *ours.exports()}:
        wrong.append(f"not saved: {ours.files()} {ours.exports()}\n{ours.output[-3000:]}")
    if plain.files() != ours.files() and name not in _ENDED:
        wrong.append(f"files: {plain.files()} {ours.files()}")
    if plain.seen() != ours.seen():
        wrong.append(f"seen: {plain.seen()} {ours.seen()}")
    told = "trained without exports" in ours.output
    if told != (name == "VITS"):
        wrong.append(f"told: {told}")
    expected = {"VITS": {""}, "has the callback": {"mine"}}.get(name, {"inference"})
    if {export.partition("/")[0] for export in ours.exports() or [""]} != expected:
        wrong.append(f"exports\n{ours.output[-3000:]}")
    return wrong


def main() -> None:
    """Run the programs that the command line names."""
    from xtts_export_callback.demo.tiny_model import tiny_trainer_config, write_tiny_assets

    parser = argparse.ArgumentParser(description="Real programs, plainly and by xtts-export run.")
    parser.add_argument("names", nargs="*", metavar="NAME", default=[*PROGRAMS], help=", ".join(PROGRAMS))
    parser.add_argument("--dir", type=Path, help="where to train (default: a temporary folder)")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="xtts-export-programs-", dir=options.dir))
    bad = 0
    try:
        values = tiny_trainer_config(
            write_tiny_assets(base / "assets"), base, save_step=2, save_n_checkpoints=2, save_best_after=0
        ).to_dict()
        del values["export"]
        (base / "values.json").write_text(json.dumps(values))
        (base / "common.py").write_text(COMMON)
        print(_ROW.format("program", "exit codes", "config.json", "files, seen", "exports", ""), flush=True)
        for name in options.names:
            script = base / f"{re.sub(r'[^a-z]+', '_', name.lower())}.py"
            script.write_text(PROGRAMS[name])
            port = free_port()  # it is in the config.json
            plain = start(base / "plain", name, script, port=port, by_us=False)
            ours = start(base / "ours", name, script, port=port, by_us=True)
            try:
                wrong = differences(name, plain, ours)
                exports = str(len(ours.exports()))
            except XttsExportError as error:
                wrong, exports = [str(error)], "?"
            parts = [
                "differs" if any(w.startswith(p) for w in wrong) else "same" for p in ("config", ("files", "seen"))
            ]
            print(_ROW.format(name, f"{plain.code} {ours.code}", *parts, exports, "; ".join(wrong)), flush=True)
            bad += bool(wrong)
            shutil.rmtree(plain.folder)
            shutil.rmtree(ours.folder)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"{len(options.names)} programs, {bad} wrong")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
