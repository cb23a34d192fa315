"""`xtts-export merge` on the command line, and what all three commands that write do with damaged files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.benchmarks.files import write_run
from tests.models.command_line import complaint
from tests.models.least import EMBEDDING, load, save_all, state_dict
from tests.models.small_xtts import small_state, with_older_names, write_small
from xtts_export_callback import average_checkpoints, compare_checkpoints, export_checkpoint
from xtts_export_callback.cli.main import main


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    write_run(folder, files=2, scale="small")
    return folder


@pytest.mark.usefixtures("least_models")
def test_models_are_merged_by_method_and_the_effective_weights_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, base = save_all(tmp_path, [state_dict(seed) for seed in range(3)])
    options = ["--method", "task_arithmetic", "--base", str(base), "--scale", "0.5", "--weights", "3", "1"]
    assert main(["merge", str(a), str(b), *options, "--output", str(tmp_path / "m")]) == 0
    x, y, start = (state_dict(seed)[EMBEDDING].double() for seed in range(3))
    expected = start + 0.5 * (0.75 * (x - start) + 0.25 * (y - start))
    torch.testing.assert_close(load(tmp_path / "m")[EMBEDDING], expected.float())
    printed = capsys.readouterr().out
    assert "task_arithmetic: 0.5 x base + 0.375 x a + 0.125 x b" in printed
    assert "of float32, verified" in printed


@pytest.fixture
def older_and_newer(tmp_path: Path) -> list[Path]:
    """One model under the names of older versions of PyTorch and under the current ones."""
    older = write_small(tmp_path / "older" / "checkpoint_1.pth", with_older_names(small_state(1)))
    return [older, write_small(tmp_path / "newer" / "checkpoint_1.pth", small_state(1))]


@pytest.mark.parametrize("order", [1, -1])
def test_weights_under_older_names_are_merged_with_those_under_the_current_ones(
    older_and_newer: list[Path], tmp_path: Path, order: int
) -> None:
    paths = older_and_newer[::order]
    assert main(["merge", *map(str, paths), "--output", str(tmp_path / "m")]) == 0
    result, expected = load(tmp_path / "m"), load(export_checkpoint(older_and_newer[1]).path)
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_weights_under_older_names_are_averaged_with_those_under_the_current_ones(
    older_and_newer: list[Path], tmp_path: Path
) -> None:
    average_checkpoints(older_and_newer, tmp_path / "mean")
    assert load(tmp_path / "mean").keys() == load(export_checkpoint(older_and_newer[1]).path).keys()


def test_weights_under_older_names_are_compared_with_those_under_the_current_ones(older_and_newer: list[Path]) -> None:
    report = compare_checkpoints(*older_and_newer)
    assert not report.differ
    assert not report.only_a and not report.only_b


@pytest.mark.usefixtures("least_models")
def test_a_recipe_writes_beside_itself_with_paths_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_all(tmp_path / "voices", [state_dict(1), state_dict(2)])
    (tmp_path / "voices" / "both.yaml").write_text("models: [a/model.pth, b]", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["merge", "voices/both.yaml"]) == 0
    expected = (state_dict(1)[EMBEDDING].double() + state_dict(2)[EMBEDDING].double()) / 2
    assert torch.equal(load(tmp_path / "voices" / "both")[EMBEDDING], expected.float())


def test_options_of_models_do_not_go_with_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("models: [a, b]", encoding="utf-8")
    said = complaint(capsys, "merge", path, "--weights", "1", "2")
    assert f"--weights: expected models to merge, found the recipe {path}; write weights into the recipe" in said


@pytest.mark.usefixtures("least_models")
def test_models_without_an_output_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = save_all(tmp_path, [state_dict(1), state_dict(2)])
    assert "--output: expected a folder" in complaint(capsys, "merge", *paths)


@pytest.mark.usefixtures("least_models")
def test_an_existing_output_is_refused_and_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = save_all(tmp_path, [state_dict(1), state_dict(2)])
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_text("precious", encoding="utf-8")
    assert "it is not replaced" in complaint(capsys, "merge", *paths, "--output", tmp_path / "m")
    assert (tmp_path / "m" / "mine").read_text(encoding="utf-8") == "precious"


@pytest.mark.usefixtures("least_models")
@pytest.mark.parametrize("name", ["thesis.txt", "checkpoint_1000.pth"])
def test_force_replaces_no_folder_that_holds_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    paths = save_all(tmp_path, [state_dict(1), state_dict(2)])
    output = tmp_path / "m"
    merge = ["merge", *map(str, paths), "--output", str(output), "--force"]
    assert (main(merge), main(merge)) == (0, 0)
    (output / name).write_text("precious", encoding="utf-8")
    capsys.readouterr()
    assert f"that changed since ({name}); it is not replaced" in complaint(capsys, *merge)
    assert (output / name).read_text(encoding="utf-8") == "precious"


@pytest.mark.usefixtures("least_models")
def test_force_replaces_no_folder_of_somebody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = save_all(tmp_path, [state_dict(1), state_dict(2)])
    said = complaint(capsys, "merge", *paths, "--output", paths[0].parent, "--force")
    assert "contains files that this tool did not write" in said
    assert paths[0].exists()


@pytest.mark.usefixtures("least_models")
@pytest.mark.parametrize("output", [".", "..", ""])
def test_an_output_without_a_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    paths = save_all(tmp_path, [state_dict(1), state_dict(2)])
    monkeypatch.chdir(paths[0].parent)
    assert "name another output" in complaint(capsys, "merge", *paths, "--output", output, "--force")


@pytest.mark.usefixtures("least_models")
def test_the_plan_says_where_it_goes_and_that_something_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = save_all(tmp_path, [state_dict(1), state_dict(2)])
    assert main(["merge", *map(str, paths), "--output", str(tmp_path), "--dry-run"]) == 0
    assert f"to {tmp_path}, which exists" in capsys.readouterr().out


@pytest.mark.usefixtures("least_models")
def test_folders_with_dots_keep_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = save_all(tmp_path, [state_dict(1), state_dict(2)])
    folders = [paths[index].parent.rename(tmp_path / name) for index, name in enumerate(("v2.0.2", "v2.0.3"))]
    merge = ["merge", *map(str, folders), "--output", str(tmp_path / "m")]
    assert main(merge) == 0
    assert main(["merge", str(tmp_path / "m"), str(folders[0]), "--dry-run"]) == 0
    assert "0.5 x m + 0.5 x v2.0.2" in capsys.readouterr().out


@pytest.mark.usefixtures("least_models")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--weights", "-1e-3", "1e-3"], "merge: weights: -0.001 0.001 sum to 0"),
        (["--method", "ties"], "merge: base: expected a base for ties"),
        (["--density", "0.5"], "merge: density: expected a method that uses it (ties)"),
        (["--weights", "1"], "merge: weights: expected 2 numbers"),
        (["--weights", "1", "nan"], "merge: weights[1]: expected a finite number, found nan"),
        (["--base", "nowhere.pth", "--method", "interpolate"], "nowhere.pth: cannot be read"),
    ],
)
def test_wrong_options_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    paths = save_all(tmp_path, [state_dict(1), state_dict(2)])
    assert expected in complaint(capsys, "merge", *paths, *arguments, "--output", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_bad_usage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["merge", "a.pth", "b.pth", "--weights", "1", "x"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "xtts-export merge: argument --weights: invalid float value: 'x'; see xtts-export merge --help"


def damages(content: bytes) -> dict[str, bytes]:
    """Ways in which a file of this content may arrive."""
    directory = content.rfind(b"PK\x05\x06")
    pickle = content.find(b"\x80\x02}")
    return {
        "empty": b"",
        "a quarter": content[: len(content) // 4],
        "without its last byte": content[:-1],
        "no zip": b"\x80\x02" + content[2:],
        "text": b"not a model\n" * 50,
        "directory flipped": content[: directory - 40] + bytes(64) + content[directory + 24 :],
        "pickle flipped": content[: pickle + 40] + b"\xff\x93\x81" + content[pickle + 43 :],
        "twice": content + content,
    }


KINDS = list(damages(b"PK\x05\x06"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["export", "average", "merge"])
def test_a_damaged_file_is_one_line_and_leaves_nothing(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pristine, run)
    damaged, whole = run / "checkpoint_1000.pth", run / "checkpoint_2000.pth"
    damaged.write_bytes(damages(damaged.read_bytes())[kind])
    before = sorted(run.rglob("*"))
    sources = [damaged] if command == "export" else [whole, damaged]
    output = tmp_path / "output"
    if kind == "twice":  # the last directory counts, and it is whole
        assert main([command, *map(str, sources), "--output", str(output)]) in {0, 2}
        return
    assert str(damaged) in complaint(capsys, command, *sources, "--output", output)
    assert sorted(run.rglob("*")) == before
    assert sorted(tmp_path.iterdir()) == [run]


@pytest.mark.parametrize("command", ["export", "average", "merge"])
def test_damage_inside_a_tensor_is_found_while_merging(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    from xtts_export_callback.checkpoint import open_checkpoint

    run = tmp_path / "run"
    shutil.copytree(pristine, run)
    damaged, whole = run / "checkpoint_1000.pth", run / "checkpoint_2000.pth"
    with open_checkpoint(damaged) as opened:
        offset = opened.tensors["xtts.gpt.mel_head.weight"].storage.offset  # type: ignore[attr-defined]
    content = bytearray(damaged.read_bytes())
    content[offset] ^= 1
    damaged.write_bytes(content)
    sources = [damaged] if command == "export" else [whole, damaged]
    said = complaint(capsys, command, *sources, "--output", tmp_path / "output")
    assert f"{damaged}: record data/" in said
    assert "checksum" in said
    assert sorted(tmp_path.iterdir()) == [run]
