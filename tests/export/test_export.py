"""`xtts-export export` and `export_checkpoint` on files laid out like real ones."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.benchmarks.files import layout, speaks, write_run
from tests.models.command_line import complaint
from tests.models.small_xtts import small_state, with_older_names, write_small
from xtts_export_callback import export_checkpoint
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import CheckpointError, ConfigError, OutputExistsError
from xtts_export_callback.inference_folder.provenance import read_provenance

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    write_run(folder, files=2, scale="small")
    return folder


@pytest.fixture
def run(pristine: Path, tmp_path: Path) -> Path:
    """A run with checkpoints 1000 and 2000, with the real names and tiny shapes."""
    folder = tmp_path / "run"
    shutil.copytree(pristine, folder)
    return folder


@pytest.fixture
def checkpoint(run: Path) -> Path:
    return run / "checkpoint_1000.pth"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_checkpoint_becomes_a_folder_of_what_speaks(checkpoint: Path) -> None:
    result = export_checkpoint(checkpoint)
    assert result.path == checkpoint.parent / "inference" / "checkpoint_1000"
    assert result.written
    with open_checkpoint(result.path) as slim:
        assert list(slim.tensors) == [name.removeprefix("xtts.") for name in layout() if speaks(name)]
        assert (slim.document["step"], slim.document["epoch"]) == (1000, 2)
        assert slim.document["model_loss"] == {"train_loss": pytest.approx(1.41), "eval_loss": pytest.approx(1.51)}


def test_weights_are_copied_without_numpy_and_torch(checkpoint: Path) -> None:
    code = (
        "import sys; from tests.models.small_decoder import small_decoder\n"
        "from xtts_export_callback.cli.main import main\n"
        "with small_decoder(): assert main(sys.argv[1:]) == 0\n"
        "assert not {'numpy', 'torch', 'TTS', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "export", str(checkpoint), "-q"], check=True, cwd=REPOSITORY)
    assert (checkpoint.parent / "inference" / "checkpoint_1000" / "model.pth").is_file()


def test_the_source_is_never_touched(checkpoint: Path) -> None:
    before = digest(checkpoint), checkpoint.stat().st_mtime_ns
    export_checkpoint(checkpoint)
    export_checkpoint(checkpoint, dtype="float16", force=True)
    assert (digest(checkpoint), checkpoint.stat().st_mtime_ns) == before


def test_exporting_twice_does_nothing_the_second_time(checkpoint: Path) -> None:
    first = export_checkpoint(checkpoint)
    written = (first.path / "model.pth").stat().st_mtime_ns
    second = export_checkpoint(checkpoint)
    assert not second.written
    assert (second.path / "model.pth").stat().st_mtime_ns == written


def test_a_renamed_checkpoint_is_known_again_by_its_content(checkpoint: Path, tmp_path: Path) -> None:
    first = export_checkpoint(checkpoint)
    renamed = checkpoint.rename(checkpoint.with_name("my.best.voice.pth"))
    assert not export_checkpoint(renamed, first.path).written


def test_another_export_in_its_place_is_refused_without_force(checkpoint: Path) -> None:
    export_checkpoint(checkpoint)
    with pytest.raises(OutputExistsError, match="--force"):
        export_checkpoint(checkpoint, dtype="float16")
    assert export_checkpoint(checkpoint, dtype="float16", force=True).provenance["dtype"] == "float16"


def test_what_is_not_an_export_is_refused_even_if_it_is_empty(checkpoint: Path) -> None:
    folder = checkpoint.parent / "inference" / "checkpoint_1000"
    folder.mkdir(parents=True)
    with pytest.raises(OutputExistsError):
        export_checkpoint(checkpoint)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cast_rounds_floats_and_leaves_integers_alone(checkpoint: Path, dtype: str) -> None:
    import torch

    result = export_checkpoint(checkpoint, dtype=dtype)
    full = torch.load(checkpoint, weights_only=True)["model"]
    for name, tensor in torch.load(result.path / "model.pth", weights_only=True)["model"].items():
        source = full[f"xtts.{name}"]
        expected = source.to(getattr(torch, dtype)) if source.is_floating_point() else source
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)


def test_safetensors_hold_the_same_values_and_the_same_document(checkpoint: Path) -> None:
    from safetensors.numpy import load_file

    folder = checkpoint.parent / "safe"
    export_checkpoint(checkpoint, folder, format="safetensors")
    values = load_file(folder / "model.safetensors")
    with open_checkpoint(checkpoint) as full, open_checkpoint(folder) as slim:
        for name, array in values.items():
            assert np.array_equal(array, full.tensors[f"xtts.{name}"].read())
        assert slim.document["step"] == 1000


def test_an_export_of_an_export_is_the_same_model(checkpoint: Path) -> None:
    first = export_checkpoint(checkpoint)
    second = export_checkpoint(first.path, checkpoint.parent / "again")
    with open_checkpoint(first.path) as a, open_checkpoint(second.path) as b:
        assert a.fingerprint() == b.fingerprint()


def test_wrapped_and_compiled_models_lose_their_prefixes(checkpoint: Path) -> None:
    import torch

    state = torch.load(checkpoint, weights_only=True)
    state["model"] = {f"module._orig_mod.{name}": tensor for name, tensor in state["model"].items()}
    torch.save(state, checkpoint)
    with open_checkpoint(export_checkpoint(checkpoint).path) as slim:
        assert list(slim.tensors) == [name.removeprefix("xtts.") for name in layout() if speaks(name)]


def test_weights_under_older_names_are_exported_under_the_current_ones_bit_for_bit(tmp_path: Path) -> None:
    current = export_checkpoint(write_small(tmp_path / "new" / "checkpoint_1.pth", small_state(1))).path
    older = export_checkpoint(write_small(tmp_path / "old" / "checkpoint_1.pth", with_older_names(small_state(1)))).path
    expected, found = (torch.load(folder / "model.pth", weights_only=True)["model"] for folder in (current, older))
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("prefix", ["", "xtts.", "module.xtts."])
def test_the_prefix_that_was_stripped_is_told_also_where_names_are_older(tmp_path: Path, prefix: str) -> None:
    state = with_older_names(small_state(1))
    state["model"] = {
        f"{prefix}{name.removeprefix('xtts.')}": tensor for name, tensor in reversed(state["model"].items())
    }
    folder = export_checkpoint(write_small(tmp_path / "checkpoint_1.pth", state)).path
    assert read_provenance(folder)["stripped_prefix"] == [prefix]


def test_leftovers_of_a_test_run_are_dropped_without_blowing_up_the_file(checkpoint: Path) -> None:
    """`GPTTrainer.test_run` leaves second names for the GPT that share its storages."""
    import torch

    plain = export_checkpoint(checkpoint, checkpoint.parent / "plain")
    state = torch.load(checkpoint, weights_only=True)
    for name, tensor in list(state["model"].items()):
        if name.startswith("xtts.gpt.gpt.h."):
            state["model"][name.replace("xtts.gpt.gpt", "xtts.gpt.gpt_inference.transformer")] = tensor
    state["model"]["xtts.gpt.gpt.wte.weight"] = state["model"]["xtts.gpt.mel_embedding.weight"]
    torch.save(state, checkpoint)
    result = export_checkpoint(checkpoint)
    assert "gpt.gpt.wte" in result.provenance["dropped"]
    with open_checkpoint(plain.path) as a, open_checkpoint(result.path) as b:
        assert list(a.tensors) == list(b.tensors)
    weights = [folder.path / "model.pth" for folder in (plain, result)]
    assert weights[1].stat().st_size < weights[0].stat().st_size + 2000


def test_two_names_for_one_tensor_are_refused(checkpoint: Path) -> None:
    import torch

    state = torch.load(checkpoint, weights_only=True)
    state["model"]["gpt.text_head.bias"] = state["model"]["xtts.gpt.text_head.bias"]
    torch.save(state, checkpoint)
    with pytest.raises(CheckpointError, match=r"two tensors are called gpt\.text_head\.bias"):
        export_checkpoint(checkpoint)


def test_another_model_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "vits.pth"
    torch.save({"model": {"text_encoder.emb.weight": torch.zeros(2, 2)}, "config": {"model": "vits"}}, path)
    with pytest.raises(CheckpointError, match=r"no tensor gpt\.text_embedding\.weight.*not an XTTS v2 checkpoint"):
        export_checkpoint(path)


def test_companions_that_lie_near_come_along(checkpoint: Path) -> None:
    voices = {"Ana": {"gpt_cond_latent": torch.rand(1, 4, 8), "speaker_embedding": torch.rand(1, 8, 1)}}
    stats = torch.rand(80)
    torch.save(voices, checkpoint.parent / "speakers_xtts.pth")
    torch.save(stats, checkpoint.parent / "mel_stats.pth")
    folder = export_checkpoint(checkpoint).path
    assert torch.equal(torch.load(folder / "mel_stats.pth", weights_only=True), stats)
    (voice,) = torch.load(folder / "speakers_xtts.pth", weights_only=True).items()
    assert voice[0] == "Ana"
    assert list(voice[1]) == ["gpt_cond_latent", "speaker_embedding"]
    assert all(torch.equal(latent, voices["Ana"][key]) for key, latent in voice[1].items())


def test_only_the_vocabulary_that_fits_is_taken(checkpoint: Path) -> None:
    state_vocab = Path(json.loads((checkpoint.parent / "config.json").read_text())["model_args"]["tokenizer_file"])
    right = (checkpoint.parent / "vocab.json").read_bytes()
    other = json.loads(right)
    other["model"]["vocab"]["one more"] = 99
    (checkpoint.parent / "vocab.json").write_text(json.dumps(other))
    if state_vocab.exists():  # the one that the config names still fits
        assert (export_checkpoint(checkpoint).path / "vocab.json").read_bytes() == right


def test_a_vocabulary_that_does_not_fit_is_refused_with_both_numbers(checkpoint: Path, tmp_path: Path) -> None:
    other = json.loads((checkpoint.parent / "vocab.json").read_text())
    other["model"]["vocab"]["one more"] = 99
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match=r"expected a vocab\.json of 3 tokens, found .*other\.json has 100"):
        export_checkpoint(checkpoint, vocab=tmp_path / "other.json")


def test_two_exports_of_one_checkpoint_are_the_same_bytes(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = export_checkpoint(checkpoint, checkpoint.parent / "a").path
    second = export_checkpoint(checkpoint, checkpoint.parent / "b").path
    for name in ("model.pth", "config.json", "vocab.json", "export.json"):
        assert digest(first / name) == digest(second / name), name


def test_provenance_hashes_every_file(checkpoint: Path) -> None:
    folder = export_checkpoint(checkpoint).path
    provenance = read_provenance(folder)
    assert provenance is not None
    assert {*provenance["files"], "export.json"} == {entry.name for entry in folder.iterdir()}
    assert provenance["files"]["vocab.json"]["sha256"] == digest(folder / "vocab.json")
    with open_checkpoint(folder) as written:
        assert provenance["files"]["model.pth"]["fingerprint"] == written.fingerprint()


def test_the_command_exports_a_whole_run_and_skips_what_is_done(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run / "checkpoint_1000.pth")]) == 0
    assert main(["export", str(run)]) == 0
    output = capsys.readouterr().out
    assert "exported already, skipped (not read again)" in output
    assert output.splitlines()[-1].startswith("1 exported (")
    assert sorted(entry.name for entry in (run / "inference").iterdir()) == ["checkpoint_1000", "checkpoint_2000"]


def test_several_checkpoints_go_into_one_output(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--output", str(tmp_path / "out")]) == 0
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["checkpoint_1000", "checkpoint_2000"]


def test_a_truncated_checkpoint_ends_with_one_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with checkpoint.open("r+b") as file:
        file.truncate(checkpoint.stat().st_size // 2)
    line = complaint(capsys, "export", checkpoint)
    assert str(checkpoint) in line
    assert "truncated" in line
    assert not (checkpoint.parent / "inference").exists()


def test_a_checkpoint_that_fails_does_not_keep_the_others_from_being_exported(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (run / "checkpoint_1000.pth").open("r+b") as file:
        file.truncate(1000)
    assert main(["export", str(run)]) == 2
    captured = capsys.readouterr()
    assert [path.name for path in (run / "inference").iterdir()] == ["checkpoint_2000"]
    assert len(captured.err.splitlines()) == 1
    assert captured.out.splitlines()[-1].endswith("0 skipped, 1 failed")


@pytest.mark.parametrize("sources", [["x"], "x", [], None])
def test_an_edited_provenance_is_another_export(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], sources: object
) -> None:
    path = export_checkpoint(checkpoint).path / "export.json"
    provenance = {**json.loads(path.read_text(encoding="utf-8")), "sources": sources}
    path.write_text(json.dumps(provenance), encoding="utf-8")
    assert "exists and is not this export" in complaint(capsys, "export", checkpoint)


@pytest.mark.parametrize("shape", [(), (3,), (3, 2, 1)])
def test_a_text_embedding_that_is_no_matrix_ends_with_one_line(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...]
) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["model"]["xtts.gpt.text_embedding.weight"] = torch.ones(shape)
    torch.save(state, checkpoint)
    assert f"expected [tokens, channels], found {list(shape)}" in complaint(capsys, "export", checkpoint)


def test_a_vocabulary_in_the_home_of_somebody_unknown_is_looked_for_beside_the_checkpoint(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["config"]["model_args"]["tokenizer_file"] = "~nosuchuser/x/vocab.json"
    torch.save(state, checkpoint)
    assert export_checkpoint(checkpoint).written


def test_the_export_goes_where_the_config_of_the_run_puts_exports(checkpoint: Path) -> None:
    config = {**json.loads((checkpoint.parent / "config.json").read_bytes()), "export": {"folder": "slim"}}
    (checkpoint.parent / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert export_checkpoint(checkpoint).path == checkpoint.parent / "slim" / "checkpoint_1000"


def test_a_flipped_bit_in_the_weights_ends_with_one_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_checkpoint(checkpoint) as opened:
        storage = opened.tensors["xtts.gpt.mel_embedding.weight"].storage
        offset = storage.offset  # type: ignore[attr-defined]
    content = bytearray(checkpoint.read_bytes())
    content[offset] ^= 1
    checkpoint.write_bytes(content)
    line = complaint(capsys, "export", checkpoint)
    assert "checksum" in line
    assert not (checkpoint.parent / "inference").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["export", "nowhere.pth"], "nowhere.pth"),
        (["export", "RUN/vocab.json"], "not a checkpoint"),
        (["export", "RUN/checkpoint_1000.pth", "--vocab", "nowhere.json"], "nowhere.json"),
        (["export", "RUN/checkpoint_1000.pth", "--config", "RUN/nowhere.json"], "nowhere.json: cannot be read"),
        (["average", "RUN", "--last", "5"], "expected at least 5 checkpoints, found 2 (steps: 1000, 2000)"),
        (
            ["average", "RUN/checkpoint_1000.pth", "--output", "out"],
            "expected at least 2 checkpoints to average, found 1",
        ),
        (["average", "RUN/checkpoint_1000.pth", "RUN/checkpoint_2000.pth"], "--output"),
    ],
)
def test_bad_input_ends_with_exit_code_2_and_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    line = complaint(capsys, *(argument.replace("RUN", str(run)) for argument in arguments))
    assert expected in line


def test_bad_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", "x.pth", "--dtype", "float64"])
    assert stopped.value.code == 2
    assert "float32" in capsys.readouterr().err


def test_ctrl_c_exits_with_130_and_leaves_nothing(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from xtts_export_callback.checkpoint import writer

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_verify_job", interrupt)
    assert main(["export", str(checkpoint)]) == 130
    assert not (checkpoint.parent / "inference").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_file_command_imports_torch(checkpoint: Path, run: Path) -> None:
    import subprocess

    code = (
        "import sys; from tests.models.small_decoder import small_decoder; "
        "from xtts_export_callback.cli.main import main; "
        "small = small_decoder(); small.__enter__(); "
        f"main(['export', {str(checkpoint)!r}]); main(['average', {str(run)!r}, '--last', '2']); "
        "sys.exit('torch' in sys.modules or 'TTS' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root, timeout=120).returncode == 0


def test_overrides_reach_the_training_also_when_a_run_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    import xtts_export_callback.train_gpt_xtts as recipe

    calls: list[tuple[object, dict[str, object]]] = []
    monkeypatch.setattr(recipe, "train", lambda config, **options: calls.append((config, options)))
    assert main(["train", "--continue", "runs/x", "--coqpit.epochs", "3"]) == 0
    assert main(["train", "voice.json", "--output", "runs", "--coqpit.export.enabled", "true"]) == 0
    assert calls == [
        (None, {"output": None, "continue_run": "runs/x", "overrides": ["--coqpit.epochs", "3"]}),
        ("voice.json", {"output": "runs", "continue_run": None, "overrides": ["--coqpit.export.enabled", "true"]}),
    ]


def test_a_checkpoint_without_its_optimizer_is_known_again_by_its_export(run: Path, checkpoint: Path) -> None:
    from xtts_export_callback.inspection.run import inspect_run
    from xtts_export_callback.training.worker import drop_optimizer

    state = torch.load(checkpoint, weights_only=True)
    window = "torch_mel_spectrogram_dvae.mel_stft.spectrogram.window"
    state["model"][window] = torch.hann_window(4)  # a view of a larger storage, as torch makes it
    torch.save(state, checkpoint)
    export_checkpoint(checkpoint)
    assert drop_optimizer(run=str(run), keep=1)["names"] == ["checkpoint_1000.pth"]
    assert [saved.export for saved in inspect_run(run).checkpoints] == ["float32", ""]
    assert not export_checkpoint(checkpoint).written


def test_an_export_of_an_earlier_version_is_known_again(checkpoint: Path) -> None:
    from xtts_export_callback.checkpoint import fingerprint

    path = export_checkpoint(checkpoint).path / "export.json"
    provenance = json.loads(path.read_text(encoding="utf-8"))
    with open_checkpoint(checkpoint) as opened:
        earlier = f"sha256:{fingerprint._hash(opened.tensors, fingerprint._as_it_lies)}"
    provenance["sources"][0]["fingerprint"] = earlier
    path.write_text(json.dumps(provenance), encoding="utf-8")
    assert not export_checkpoint(checkpoint).written


def test_a_model_file_in_a_run_hides_none_of_its_checkpoints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(run / "checkpoint_1000.pth", run / "model.pth")
    assert main(["export", str(run)]) == 0
    assert main(["average", str(run), "--last", "2"]) == 0
    names = sorted(entry.name for entry in (run / "inference").iterdir())
    assert names == ["average_last_2", "checkpoint_1000", "checkpoint_2000"]


def unnamed(checkpoint: Path) -> None:
    """Have the config of a checkpoint name a vocabulary that is not there."""
    state = torch.load(checkpoint, weights_only=True)
    state["config"]["model_args"]["tokenizer_file"] = "/nowhere/vocab.json"
    torch.save(state, checkpoint)


def test_a_link_in_the_cache_of_the_hub_gives_the_export_its_own_name(checkpoint: Path, tmp_path: Path) -> None:
    unnamed(checkpoint)
    snapshot, blobs = tmp_path / "models--me--voice" / "snapshots" / "abc", tmp_path / "models--me--voice" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, (name, source) in enumerate((("model.pth", checkpoint), ("vocab.json", checkpoint.parent))):
        shutil.copy(source / name if source.is_dir() else source, blobs / str(number))
        (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    assert export_checkpoint(snapshot).path == snapshot / "inference" / "abc"


def test_the_vocabulary_beside_the_file_that_a_link_leads_to_is_found(checkpoint: Path, tmp_path: Path) -> None:
    unnamed(checkpoint)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "latest.pth"
    link.symlink_to(checkpoint)
    exported = export_checkpoint(link).path
    assert exported == tmp_path / "links" / "inference" / "latest"
    assert (exported / "vocab.json").read_bytes() == (checkpoint.parent / "vocab.json").read_bytes()


@pytest.mark.parametrize("epoch", ["253402300800", "-99999999999999", "²", "x"])
def test_a_date_for_reproducible_builds_that_is_none_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], epoch: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert "SOURCE_DATE_EPOCH: expected seconds from 1970" in complaint(
        capsys, "export", write_small(tmp_path / "checkpoint_1.pth")
    )


def test_a_config_with_tensors_and_keys_of_all_kinds_is_exported_and_verified(tmp_path: Path) -> None:
    state = small_state(1)
    state["config"] |= {1: 2, "b": 3, None: 4, "w": torch.ones(2), "languages": torch.ones(2)}
    path = write_small(tmp_path / "checkpoint_1.pth", state)
    assert main(["export", str(path), "--output", str(tmp_path / "out")]) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0
