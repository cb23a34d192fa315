"""`xtts-export inspect`: sizes that add up to the byte, and what a file is, without a look at its tensors."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.benchmarks.files import LAYOUT, layout, write_run
from xtts_export_callback import average_checkpoints, export_checkpoint, inspect_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.inspection.checkpoint import Share
from xtts_export_callback.inspection.run import RunReport, SavedReport, inspect_run
from xtts_export_callback.inspection.table import show_checkpoint, show_run
from xtts_export_callback.inspection.tree import Node, fold
from xtts_export_callback.run.lr_schedule import RESUME_KEY
from xtts_export_callback.tensors.tensor import Tensor, row_major
from xtts_export_callback.units import human_size
from xtts_export_callback.xtts.components import BY_KEY, component_of

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pristine") / "run"
    write_run(run, files=3, scale="small")
    return run


@pytest.fixture
def run(pristine: Path, tmp_path: Path) -> Path:
    """A run with checkpoints 1000, 2000 and 3000 with the real names and small shapes."""
    return Path(shutil.copytree(pristine, tmp_path / "run"))


@pytest.fixture
def checkpoint(run: Path) -> Path:
    return run / "checkpoint_1000.pth"


def sizes(path: Path) -> dict[str, int]:
    return {share.key: share.nbytes for share in inspect_checkpoint(path).shares}


def rewritten(path: Path, **fields: Any) -> Path:
    state = torch.load(path, weights_only=True)
    torch.save({**state, **fields}, path)
    return path


def weights_only(path: Path) -> Path:
    """Rewrite a checkpoint as the callback saves it without optimizer state."""
    return rewritten(path, optimizer=[], **{RESUME_KEY: {"learning_rates": [[5e-6]], "schedule": []}})


# Sizes


def test_the_sizes_of_a_training_checkpoint_add_up_to_the_file(checkpoint: Path) -> None:
    assert sum(sizes(checkpoint).values()) == checkpoint.stat().st_size


@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"format": "safetensors"}])
def test_the_sizes_of_an_export_add_up_to_the_file(checkpoint: Path, options: dict[str, str]) -> None:
    path = export_checkpoint(checkpoint, **options).path
    report = inspect_checkpoint(path)
    assert sum(share.nbytes for share in report.shares) == report.path.stat().st_size


def test_the_components_hold_what_torch_says_they_hold(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    expected: dict[str, int] = {}
    for name, tensor in state["model"].items():
        key = component_of(name.removeprefix("xtts."))
        expected[key] = expected.get(key, 0) + tensor.nbytes
    moments = state["optimizer"][0]["state"].values()
    for key in ("exp_avg", "exp_avg_sq"):
        expected[key] = sum(moment[key].nbytes for moment in moments)
    expected["training_state"] = sum(moment["step"].nbytes for moment in moments)
    found = sizes(checkpoint)
    container = found.pop("container")
    assert found == expected
    assert container == checkpoint.stat().st_size - sum(expected.values())


def test_the_components_of_a_full_size_checkpoint_have_the_known_sizes() -> None:
    found: dict[str, int] = {}
    for name, (dtype, shape) in json.loads(LAYOUT.read_text(encoding="utf-8"))["model"].items():
        elements = 1
        for size in shape:
            elements *= size
        key = component_of(name.removeprefix("xtts."))
        found[key] = found.get(key, 0) + elements * (8 if dtype == "int64" else 4)
    assert found["gpt"] == 1_753_681_724
    assert found["hifigan"] + found["speaker_encoder"] == 103_527_968
    assert found["mel_stats"] == 320
    assert found["dvae"] == 210_876_752
    assert found["mel_buffers"] == 500_352


def test_tied_tensors_and_views_count_their_storage_once(tmp_path: Path) -> None:
    storage = torch.zeros(1000)
    model = {"gpt.a": storage, "gpt.b": storage, "gpt.c": storage[:10], "gpt.gpt_inference.d": storage}
    torch.save({"model": model}, tmp_path / "tied.pth")
    found = sizes(tmp_path / "tied.pth")
    assert (found["gpt"], found["leftovers"]) == (4000, 0)


def test_what_a_slim_export_will_weigh_is_what_it_weighs(checkpoint: Path) -> None:
    promised = inspect_checkpoint(checkpoint).slim
    for dtype in ("float32", "float16", "bfloat16"):
        export_checkpoint(checkpoint, dtype=dtype, force=True)
        found = sizes(checkpoint.parent / "inference" / "checkpoint_1000")
        assert sum(found.values()) - found["container"] == promised[dtype]


# What a file is


def test_a_training_checkpoint_is_known_with_its_state(checkpoint: Path) -> None:
    report = inspect_checkpoint(checkpoint)
    assert (report.kind, report.resumable, report.prefix) == ("training", True, "xtts.")
    assert report.state["step"] == 1000
    assert report.state["eval_loss"] == 1.51
    assert report.state["date"] == "January 15, 2024"


def test_an_export_is_known_with_its_provenance_and_cannot_be_resumed(checkpoint: Path) -> None:
    report = inspect_checkpoint(export_checkpoint(checkpoint).path)
    assert (report.kind, report.resumable, report.prefix) == ("export", False, "")
    assert report.provenance is not None
    assert report.provenance["sources"][0]["name"] == "checkpoint_1000.pth"
    assert "model_args.xtts_checkpoint" in report.advice


def test_an_average_is_known(run: Path, tmp_path: Path) -> None:
    paths = [run / "checkpoint_1000.pth", run / "checkpoint_2000.pth"]
    assert inspect_checkpoint(average_checkpoints(paths, tmp_path / "mean").path).kind == "average"


def test_a_release_with_a_pickled_config_is_known_and_none_of_its_code_is_imported(tmp_path: Path) -> None:
    source = tmp_path / "make.py"
    source.write_text(
        "import sys, types, torch\n"
        "module = types.ModuleType('TTS.tts.configs.xtts_config')\n"
        "sys.modules[module.__name__] = module\n"
        "for name in ('TTS', 'TTS.tts', 'TTS.tts.configs'): sys.modules[name] = types.ModuleType(name)\n"
        "class XttsConfig: pass\n"
        "XttsConfig.__module__ = module.__name__\n"
        "module.XttsConfig = XttsConfig\n"
        "config = XttsConfig(); config.model_args = {'gpt_n_heads': 16}\n"
        "torch.save({'model': {'gpt.text_embedding.weight': torch.ones(6153, 2)}, 'config': config}, sys.argv[1])\n",
        encoding="utf-8",
    )
    path = tmp_path / "model.pth"
    subprocess.run([sys.executable, source, path], check=True)
    report = inspect_checkpoint(path)
    assert report.kind == "official"
    assert report.architecture is not None
    assert (report.architecture.heads, report.architecture.release) == (16, "XTTS v2.0.2")


def test_a_bare_state_dict_is_known(checkpoint: Path) -> None:
    model = torch.load(checkpoint, weights_only=True)["model"]
    torch.save({name.removeprefix("xtts."): tensor for name, tensor in model.items()}, checkpoint)
    assert inspect_checkpoint(checkpoint).kind == "bare"


@pytest.mark.parametrize("prefix", ["module.xtts.", "_orig_mod.xtts.", "xtts."])
def test_the_prefix_is_told_as_it_is_in_the_file(checkpoint: Path, prefix: str) -> None:
    model = torch.load(checkpoint, weights_only=True)["model"]
    rewritten(checkpoint, model={name.replace("xtts.", prefix, 1): tensor for name, tensor in model.items()})
    report = inspect_checkpoint(checkpoint)
    assert report.prefix == prefix
    assert report.architecture is not None
    assert report.architecture.layers == 30


@pytest.mark.parametrize(("missing", "reason"), [("optimizer", "no optimizer state"), ("step", "it has no step")])
def test_why_a_checkpoint_cannot_be_resumed_is_said(checkpoint: Path, missing: str, reason: str) -> None:
    report = inspect_checkpoint(rewritten(checkpoint, **{missing: None}))
    assert not report.resumable
    assert reason in " ".join(report.obstacles)


def test_weights_alone_as_the_callback_saves_them_can_be_resumed_with_fresh_moments(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = inspect_checkpoint(weights_only(checkpoint))
    assert (report.resumable, report.fresh_moments) == (True, True)
    assert main(["inspect", str(checkpoint)]) == 0
    assert "yes, with fresh optimizer moments" in capsys.readouterr().out


@pytest.mark.parametrize(("tokens", "release"), [(6153, "XTTS v2.0.2"), (6681, "XTTS v2.0.3"), (6682, None)])
def test_the_vocabulary_tells_the_release(tmp_path: Path, tokens: int, release: str | None) -> None:
    torch.save({"model": {"gpt.text_embedding.weight": torch.ones(tokens, 1)}}, tmp_path / "model.pth")
    architecture = inspect_checkpoint(tmp_path / "model.pth").architecture
    assert architecture is not None
    assert (architecture.text_tokens, architecture.release) == (tokens, release)


# The tree of tensors


def leaves(node: Node) -> list[Node]:
    return [node] if node.dtype else [leaf for child in node.children for leaf in leaves(child)]


def tensor(*shape: int) -> Tensor:
    from xtts_export_callback.tensors.dtypes import BY_NAME
    from xtts_export_callback.tensors.tensor import ArrayStorage

    return Tensor(ArrayStorage(b""), BY_NAME["float32"], shape, row_major(shape))


def test_equal_layers_are_one_node_that_keeps_their_bytes() -> None:
    tree = fold({f"h.{layer}.{name}": tensor(4) for layer in range(30) for name in ("weight", "bias")})
    (stack,) = tree.children
    (layers,) = stack.children
    assert (layers.name, layers.count, layers.tensors, layers.nbytes) == ("0 .. 29", 30, 60, 30 * 2 * 16)
    assert [leaf.nbytes for leaf in leaves(tree)] == [30 * 16, 30 * 16]


def test_a_layer_that_differs_stands_by_itself() -> None:
    shapes = {0: 4, 1: 4, 2: 5, 3: 4}
    tree = fold({f"h.{layer}.weight": tensor(size) for layer, size in shapes.items()})
    assert [child.name for child in tree.children[0].children] == ["0 .. 1", "2", "3"]


def test_the_tree_of_a_real_model_counts_every_tensor_and_byte(checkpoint: Path) -> None:
    report = inspect_checkpoint(checkpoint)
    tree = fold(report.tensors)
    assert tree.tensors == len(layout())
    assert tree.nbytes == sum(tensor.nbytes for tensor in report.tensors.values())
    assert sum(leaf.nbytes for leaf in leaves(tree)) == tree.nbytes


# A run


def test_a_run_says_which_checkpoints_are_exported(run: Path) -> None:
    export_checkpoint(run / "checkpoint_1000.pth", dtype="float16")
    exports = {saved.name: saved.export for saved in inspect_run(run).checkpoints}
    assert exports == {"checkpoint_1000": "float16", "checkpoint_2000": "", "checkpoint_3000": ""}


def test_an_export_of_other_content_is_stale(run: Path) -> None:
    export_checkpoint(run / "checkpoint_1000.pth")
    shutil.copy(run / "checkpoint_2000.pth", run / "checkpoint_1000.pth")
    assert inspect_run(run).checkpoints[0].export == "stale"


def test_what_could_be_freed_spares_the_next_resume_and_what_is_not_exported(run: Path) -> None:
    export_checkpoint(run / "checkpoint_1000.pth")
    export_checkpoint(run / "checkpoint_3000.pth")
    report = inspect_run(run)
    optimizer = report.checkpoints[1].optimizer_bytes
    assert [(each.path.name, each.what, each.nbytes) for each in report.removals] == [
        ("checkpoint_1000.pth", "checkpoint", (run / "checkpoint_1000.pth").stat().st_size),
        ("checkpoint_2000.pth", "optimizer", optimizer),
    ]
    assert report.freeable == sum(each.nbytes for each in report.removals)
    slim = inspect_checkpoint(run / "checkpoint_2000.pth").slim["float32"]
    assert report.freeable_after_export == (run / "checkpoint_2000.pth").stat().st_size - optimizer - slim


def test_the_best_model_is_kept_and_its_copy_is_not(run: Path) -> None:
    shutil.move(run / "checkpoint_2000.pth", run / "best_model_2000.pth")
    shutil.copy(run / "best_model_2000.pth", run / "best_model.pth")
    export_checkpoint(run / "best_model_2000.pth")
    report = inspect_run(run)
    assert {saved.name: saved.needed for saved in report.checkpoints if saved.needed} == {
        "best_model_2000": "best model",
        "checkpoint_3000": "next resume",
    }
    assert [each.path.name for each in report.removals if each.what == "copy"] == ["best_model.pth"]
    assert "best_model_2000.pth" not in {each.path.name for each in report.removals}


def needs(run: Path) -> dict[str, str]:
    return {saved.name: saved.needed for saved in inspect_run(run).checkpoints if saved.needed}


def test_where_the_newest_is_broken_the_newest_whole_one_is_kept(run: Path) -> None:
    for step in (1000, 2000, 3000):
        export_checkpoint(run / f"checkpoint_{step}.pth")
    os.truncate(run / "checkpoint_3000.pth", 100_000)
    assert needs(run) == {"checkpoint_2000": "next resume"}
    assert inspect_run(run).freeable == (run / "checkpoint_1000.pth").stat().st_size


def test_a_broken_best_model_is_no_best_model_to_keep(run: Path) -> None:
    shutil.copy(run / "checkpoint_1000.pth", run / "best_model_1000.pth")
    shutil.copy(run / "checkpoint_2000.pth", run / "best_model_2000.pth")
    os.truncate(run / "best_model_2000.pth", 100_000)
    assert needs(run) == {"best_model_1000": "best model", "checkpoint_3000": "next resume"}


def test_the_copy_of_a_broken_best_model_is_kept(run: Path) -> None:
    shutil.copy(run / "checkpoint_1000.pth", run / "best_model.pth")
    shutil.copy(run / "checkpoint_1000.pth", run / "best_model_1000.pth")
    with (run / "best_model_1000.pth").open("r+b") as file:
        file.seek(-22, os.SEEK_END)
        file.write(bytes(22))
    assert "best_model.pth" not in {removal.path.name for removal in inspect_run(run).removals}


def test_the_checkpoint_that_a_best_model_without_optimizer_falls_back_to_is_kept(run: Path) -> None:
    shutil.copy(run / "checkpoint_3000.pth", run / "best_model_4000.pth")
    weights_only(run / "best_model_4000.pth")
    assert needs(run) == {"best_model_4000": "best model", "checkpoint_3000": "next resume"}


def test_the_last_optimizer_state_is_kept_beside_newer_weights(run: Path) -> None:
    weights_only(run / "checkpoint_3000.pth")
    assert needs(run) == {"checkpoint_2000": "optimizer", "checkpoint_3000": "next resume"}


def test_a_link_is_not_counted_as_disk_that_could_be_freed(run: Path, tmp_path: Path) -> None:
    export_checkpoint(run / "checkpoint_1000.pth")
    shutil.move(run / "checkpoint_1000.pth", tmp_path / "elsewhere.pth")
    (run / "checkpoint_1000.pth").symlink_to(tmp_path / "elsewhere.pth")
    assert "checkpoint_1000.pth" not in {removal.path.name for removal in inspect_run(run).removals}


def test_a_link_that_leads_nowhere_is_in_the_list_with_the_reason(run: Path) -> None:
    (run / "checkpoint_5000.pth").symlink_to("nowhere.pth")
    last = inspect_run(run).checkpoints[-1]
    assert (last.name, last.nbytes) == ("checkpoint_5000", 0)
    assert "No such file" in last.fault


@pytest.mark.parametrize("sources", [["x"], [{"model_loss": {"eval_loss": "low"}}], [{"model_loss": "low"}], "x", []])
def test_an_edited_provenance_does_not_stop_the_list(
    run: Path, sources: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export_checkpoint(run / "checkpoint_1000.pth").path
    (run / "checkpoint_1000.pth").unlink()
    (folder / "export.json").write_text(json.dumps({"kind": "export", "sources": sources}), encoding="utf-8")
    assert main(["inspect", str(run)]) == 0
    assert re.search(r"checkpoint_1000 +1000 +- +- +yes", capsys.readouterr().out)


def test_exports_are_found_where_the_config_of_the_run_puts_them(run: Path) -> None:
    (run / "config.json").write_text(json.dumps({"export": {"folder": "slim"}}), encoding="utf-8")
    export_checkpoint(run / "checkpoint_1000.pth", run / "slim" / "checkpoint_1000")
    assert inspect_run(run).checkpoints[0].export == "float32"


@pytest.mark.parametrize("folder", ["../slim", "a/b", "..", "", 3, None, "a\\b"])
def test_a_folder_that_leads_out_of_the_run_is_not_followed(run: Path, folder: Any) -> None:
    (run / "config.json").write_text(json.dumps({"export": {"folder": folder}}), encoding="utf-8")
    assert inspect_run(run).folder == "inference"


def test_the_disk_a_run_takes_counts_a_hard_link_once(run: Path) -> None:
    before = inspect_run(run).nbytes
    os.link(run / "checkpoint_1000.pth", run / "linked.pth")
    assert inspect_run(run).nbytes == before
    assert before == sum(path.stat().st_size for path in run.iterdir() if path.name != "linked.pth")


def test_a_checkpoint_that_cannot_be_read_is_in_the_list_with_the_reason(run: Path) -> None:
    os.truncate(run / "checkpoint_2000.pth", 1000)
    faults = [saved.fault for saved in inspect_run(run).checkpoints]
    assert faults[0] == ""
    assert "truncated" in faults[1]


def test_an_export_whose_checkpoint_is_gone_is_in_the_list(run: Path) -> None:
    export_checkpoint(run / "checkpoint_1000.pth")
    (run / "checkpoint_1000.pth").unlink()
    first = inspect_run(run).checkpoints[0]
    assert (first.name, first.nbytes, first.export, first.eval_loss) == ("checkpoint_1000", 0, "float32", 1.51)


def test_averages_are_listed_beside_the_checkpoints(run: Path) -> None:
    paths = [run / "checkpoint_1000.pth", run / "checkpoint_2000.pth"]
    average_checkpoints(paths, run / "inference" / "average_last_2")
    assert list(inspect_run(run).others) == ["average_last_2"]


# Tables

FULL_SIZE = {
    "gpt": 1_753_681_724,
    "hifigan": 60_527_968,
    "speaker_encoder": 43_000_000,
    "mel_stats": 320,
    "dvae": 210_876_752,
    "mel_buffers": 500_352,
    "exp_avg": 1_753_681_724,
    "exp_avg_sq": 1_753_681_724,
    "training_state": 1_500,
    "container": 900_000,
}


def printed(width: int, show: Any, report: Any) -> list[str]:
    out = io.StringIO()
    show(report, console=Console(width=width, file=out, highlight=False, markup=False, emoji=False))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_no_size_and_no_name_of_a_checkpoint_is_cut_at_any_width(checkpoint: Path, width: int) -> None:
    shares = tuple(Share(key, 1, nbytes) for key, nbytes in FULL_SIZE.items())
    report = inspect_checkpoint(checkpoint)._replace(shares=shares, nbytes=sum(FULL_SIZE.values()))
    lines = printed(width, show_checkpoint, report)
    for key, nbytes in FULL_SIZE.items():
        assert any(re.match(f"{BY_KEY[key].title} +{human_size(nbytes)} ", line) for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_the_table_of_a_full_size_checkpoint_fits_the_terminal(checkpoint: Path, width: int) -> None:
    shares = tuple(Share(key, 1, nbytes) for key, nbytes in FULL_SIZE.items())
    report = inspect_checkpoint(checkpoint)._replace(shares=shares, nbytes=sum(FULL_SIZE.values()))
    lines = printed(width, show_checkpoint, report)
    facts = next(number for number, line in enumerate(lines) if line.startswith("inference needs"))
    assert facts < 4 * len(FULL_SIZE)
    assert max(map(len, lines[1:facts])) <= width


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_size_and_no_name_of_a_run_is_cut_at_any_width(width: int) -> None:
    saved = [
        SavedReport(f"best_model_{step}", step, "best_model", 5_579_999_999, 3.141, "", "float32", 1_860_000_000)
        for step in (1_234_567, 2_345_678)
    ]
    report = RunReport(Path("run"), tuple(saved), {"average_last_5": 1_860_000_000}, 20_000_000_000, (), 0)
    lines = printed(width, show_run, report)
    for step in (1_234_567, 2_345_678):
        assert any(re.match(rf"best_model_{step} .* 5\.58 GB +3\.141 +float32", line) for line in lines)
    assert any(re.match(r"inference/average_last_5 .* 1\.86 GB", line) for line in lines)


def test_a_broken_checkpoint_is_called_unreadable(run: Path) -> None:
    os.truncate(run / "checkpoint_3000.pth", 1000)
    (line,) = [line for line in printed(80, show_run, inspect_run(run)) if line.startswith("checkpoint_3000")]
    assert line.split()[-1] == "unreadable"


def test_what_is_piped_has_the_width_that_columns_asks_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["inspect", str(checkpoint)]) == 0
    assert "what it is for" not in capsys.readouterr().out


# The command line


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "xtts_export_callback", *map(str, arguments)]


def test_a_path_that_the_encoding_lacks_is_printed_with_escapes(checkpoint: Path) -> None:
    path = checkpoint.rename(checkpoint.with_name("stimme_\u00fc \u8a9e.pth"))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command("inspect", path), check=False, cwd=REPOSITORY, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"stimme_\\xfc \\u8a9e.pth" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the stream")
@pytest.mark.parametrize("name", ["run", "run/checkpoint_1000.pth"])
def test_a_closed_stdout_is_no_error(run: Path, name: str) -> None:
    shell = ["sh", "-c", '"$@" >&-', "sh", *command("inspect", run.parent / name)]
    done = subprocess.run(shell, check=False, cwd=REPOSITORY, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe breaks differently")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("form", [[], ["--json"], ["--tensors"]])
def test_a_reader_that_stops_early_ends_the_command_quietly(checkpoint: Path, form: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("inspect", checkpoint, *form),
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_folder_of_exports_is_refused_with_what_to_name_instead(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_checkpoint(run / "checkpoint_1000.pth")
    assert main(["inspect", str(run / "inference")]) == 2
    assert f"name the run {run}, or one of them, such as {run / 'inference' / 'checkpoint_1000'}" in (
        capsys.readouterr().err
    )


def test_the_command_prints_every_component_and_the_sum(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint)]) == 0
    out = capsys.readouterr().out
    for word in ("GPT", "HiFi-GAN", "speaker encoder", "DVAE", "first moments", "second moments", "container"):
        assert word in out
    assert f"{checkpoint.stat().st_size:,}" in out


def test_the_command_prints_the_tree(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint), "--tensors"]) == 0
    assert "h.0 .. 29  (30 equal)" in capsys.readouterr().out


def test_json_is_all_that_is_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run / "checkpoint_1000.pth"), "--json", "--tensors"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sum(part["bytes"] for part in report["components"].values()) == report["bytes"]
    assert len(report["tensors"]) == len(layout())
    assert main(["inspect", str(run), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["checkpoints"]) == 3


def test_json_has_no_nan(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewritten(checkpoint, model_loss={"train_loss": float("nan"), "eval_loss": float("inf")})
    assert main(["inspect", str(checkpoint), "--json"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report["train_loss"] is None


def test_a_name_that_looks_like_markup_is_printed_as_it_is(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint.rename(checkpoint.with_name("[bold]x.pth"))
    assert main(["inspect", str(path)]) == 0
    assert "[bold]x.pth" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nothing.pth"], ["{run}", "--tensors"], ["{run}/config.json"], ["{empty}"]])
def test_wrong_input_is_refused_in_one_line(
    run: Path, tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["inspect", *(argument.format(run=run, empty=tmp_path / "empty") for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_a_damaged_file_is_refused(checkpoint: Path) -> None:
    os.truncate(checkpoint, 1000)
    with pytest.raises(CheckpointError, match="truncated"):
        inspect_checkpoint(checkpoint)


@pytest.mark.parametrize("form", [[], ["--json"], ["--tensors"]])
def test_inspecting_imports_neither_numpy_nor_torch(checkpoint: Path, form: list[str]) -> None:
    code = (
        "import sys; from xtts_export_callback.cli.main import main; assert main(sys.argv[1:]) == 0;"
        "assert not {'numpy', 'torch', 'TTS', 'safetensors'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "inspect", str(checkpoint), *form]
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def test_inspecting_reads_no_tensor(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a tensor was read")

    monkeypatch.setattr("xtts_export_callback.tensors.tensor.FileStorage.reader", refuse)
    assert inspect_checkpoint(checkpoint).nbytes == checkpoint.stat().st_size


def test_a_dvae_alone_is_called_that_with_where_it_goes(tmp_path: Path) -> None:
    names = [name.removeprefix("dvae.") for name in layout() if name.startswith("dvae.")]
    torch.save({name: torch.ones(2) for name in names}, tmp_path / "dvae.pth")
    report = inspect_checkpoint(tmp_path / "dvae.pth")
    assert report.kind == "dvae"
    assert report.advice == "set it in a training config: model_args.dvae_checkpoint = dvae.pth"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("mel_stats.pth", torch.ones(80), "found one tensor, as mel_stats.pth holds; name a checkpoint"),
        ("speakers_xtts.pth", {"A": {"gpt_cond_latent": torch.ones(1, 2, 3)}}, "holds voices of speakers"),
        ("list.pth", [torch.ones(3)], "expected a dict with a state_dict, found a list"),
        ("empty.pth", {"model": {}}, "the state_dict is empty; use a file that holds a model"),
    ],
)
def test_a_file_of_something_else_is_refused_by_what_it_is(
    tmp_path: Path, name: str, content: Any, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / name)
    assert main(["inspect", str(tmp_path / name)]) == 2
    assert expected in capsys.readouterr().err
