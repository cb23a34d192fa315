"""`xtts-export verify`: finds every fault, invents none, and says what the Trainer would resume from."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.files import LAYOUT, TRAINER_CONFIG
from tests.models.damage import forge
from tests.models.small_decoder import LAYERS, TOKENS, WIDTH, real_decoder
from tests.models.small_xtts import small_state, with_older_names, without_optimizer, write_small
from xtts_export_callback import average_checkpoints, export_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.inference_folder.layouts import layout_of
from xtts_export_callback.run.resume import trainers_choice
from xtts_export_callback.verification.layout import verify_layout
from xtts_export_callback.verification.model import verify_checkpoint
from xtts_export_callback.verification.run import verify_run
from xtts_export_callback.verification.zip_directory import directory_faults
from xtts_export_callback.xtts.expected_shapes import expected_tensors

HEAD = "xtts.gpt.text_head.weight"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pristine") / "run"
    for step in (1000, 2000):
        write_small(run / f"checkpoint_{step}.pth")
    export_checkpoint(run / "checkpoint_1000.pth")
    return run


@pytest.fixture
def run(pristine: Path, tmp_path: Path) -> Path:
    """A whole run: two checkpoints with the real names and shapes, and an export of the first."""
    return Path(shutil.copytree(pristine, tmp_path / "run"))


@pytest.fixture
def checkpoint(run: Path) -> Path:
    return run / "checkpoint_1000.pth"


@pytest.fixture
def folder(run: Path) -> Path:
    return run / "inference" / "checkpoint_1000"


def checks(path: Path) -> list[str]:
    return [fault.check for fault in verify_checkpoint(path).faults]


def flip(path: Path, offset: int, bits: int = 0x10) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ bits]))


def data_of(path: Path, record: str) -> int:
    """Where a record's bytes begin."""
    with zipfile.ZipFile(path) as archive:
        header = next(info for info in archive.infolist() if info.filename.endswith(record)).header_offset
    name, extra = struct.unpack_from("<2H", path.read_bytes(), header + 26)
    return header + 30 + int(name) + int(extra)


def directory_of(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return archive.start_dir


def edit(folder: Path, change: Any) -> None:
    path = folder / "export.json"
    provenance = json.loads(path.read_text(encoding="utf-8"))
    change(provenance)
    path.write_text(json.dumps(provenance, indent=2), encoding="utf-8")


# What is fine


def test_a_whole_checkpoint_and_its_export_have_no_fault(checkpoint: Path, folder: Path) -> None:
    assert verify_checkpoint(checkpoint).faults == ()
    assert verify_checkpoint(folder).faults == ()


def test_a_whole_run_has_no_fault(run: Path) -> None:
    report = verify_run(run)
    assert report.is_fine
    names = [model.path.name for model in report.models]
    assert names == ["checkpoint_1000.pth", "checkpoint_2000.pth", "checkpoint_1000"]


def test_weights_under_older_names_are_a_note(tmp_path: Path) -> None:
    report = verify_checkpoint(write_small(tmp_path / "checkpoint_1.pth", with_older_names(small_state(1))))
    assert report.faults == ()
    assert "weight_g, weight_v" in report.notes[0]


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"dtype": "bfloat16"}, {"format": "safetensors"}])
def test_exports_of_other_dtypes_and_formats_have_no_fault(
    checkpoint: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    export_checkpoint(checkpoint, tmp_path / "out", **options)
    assert verify_checkpoint(tmp_path / "out").faults == ()


# Damage to a file


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.01])
def test_a_truncated_file_is_found(checkpoint: Path, kept: float) -> None:
    os.truncate(checkpoint, int(checkpoint.stat().st_size * kept))
    assert checks(checkpoint) == ["file"]


def test_a_flipped_byte_in_data_is_found_with_the_tensor_it_hit(checkpoint: Path) -> None:
    flip(checkpoint, data_of(checkpoint, "/data/50"))
    (fault,) = verify_checkpoint(checkpoint).faults
    assert fault.check == "checksums"
    assert list(small_state()["model"])[50] in fault.message


def test_a_flipped_byte_in_the_structure_is_found(checkpoint: Path) -> None:
    flip(checkpoint, data_of(checkpoint, "/data.pkl") + 1000)
    assert checks(checkpoint) == ["file"]


def test_a_flipped_byte_in_a_record_that_no_tensor_uses_is_found(checkpoint: Path) -> None:
    flip(checkpoint, data_of(checkpoint, "/version"))
    assert checks(checkpoint) == ["checksums"]


@pytest.mark.parametrize("writer", ["torch", "ours"])
def test_a_flip_of_any_byte_of_the_directory_is_found(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": {name: torch.ones(2) for name in ("gpt.a", "gpt.b", "gpt.c")}}, path)
    if writer == "ours":
        from xtts_export_callback.checkpoint import open_checkpoint, write_pth

        with open_checkpoint(path) as source:
            write_pth(tmp_path / "ours.pth", {"model": source.tensors})
        path = tmp_path / "ours.pth"
    whole = path.read_bytes()
    assert not unsound(path)
    unnoticed = []
    for offset in range(directory_of(path), len(whole)):
        flipped = whole[offset] ^ 1 << offset % 8
        path.write_bytes(whole[:offset] + bytes([flipped]) + whole[offset + 1 :])
        if not unsound(path):
            unnoticed.append(offset)
    assert unnoticed == []


def unsound(path: Path) -> bool:
    """Whether anything about the archive itself is found wrong; that these are no XTTS models is not of interest."""
    return any(fault.check in ("file", "directory", "checksums") for fault in verify_checkpoint(path).faults)


def test_the_directory_of_an_archive_rewritten_by_another_program_is_fine(checkpoint: Path, tmp_path: Path) -> None:
    rewritten = tmp_path / "rewritten.pth"
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(rewritten, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    with RandomFile(rewritten) as file:
        assert directory_faults(file) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_value_that_is_not_finite_is_found_with_its_tensor_and_place(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    state = small_state()
    state["model"]["xtts.gpt.text_head.bias"] = torch.ones(TOKENS, dtype=dtype)
    state["model"]["xtts.gpt.text_head.bias"][4] = value
    (fault,) = verify_checkpoint(write_small(tmp_path / "checkpoint_1000.pth", state)).faults
    assert fault.check == "values"
    assert fault.message.startswith("xtts.gpt.text_head.bias: 1 value is NaN or infinite, the first at element 4")


def test_the_largest_finite_value_is_no_fault(tmp_path: Path) -> None:
    state = small_state()
    state["model"]["xtts.gpt.text_head.bias"] = torch.full((TOKENS,), torch.finfo(torch.float32).max)
    assert checks(write_small(tmp_path / "checkpoint_1000.pth", state)) == []


def test_nan_in_the_optimizer_is_found_where_it_is(tmp_path: Path) -> None:
    state = small_state()
    state["optimizer"][0]["state"][0]["exp_avg"] = torch.tensor([float("nan")])
    (fault,) = verify_checkpoint(write_small(tmp_path / "checkpoint_1000.pth", state)).faults
    assert fault.message.startswith("optimizer[0].state.0.exp_avg:")


def test_a_long_key_is_cut_where_a_tensor_is_named(tmp_path: Path) -> None:
    state = small_state()
    state["x" * 10_000] = [torch.tensor([float("nan")])]
    (fault,) = verify_checkpoint(write_small(tmp_path / "checkpoint_1000.pth", state)).faults
    assert fault.message.startswith("x" * 100 + "[0]: 1 value is NaN")


def test_what_is_not_read_is_noted_and_no_fault(tmp_path: Path) -> None:
    state = small_state()
    state["model"]["dvae._extra_state"] = {"version": 1}
    report = verify_checkpoint(write_small(tmp_path / "checkpoint_1000.pth", state))
    assert report.faults == ()
    assert "dvae._extra_state is a dict, which is not read: inference does not need it" in report.notes


def test_a_file_without_checksums_is_fine_and_says_what_that_means(tmp_path: Path) -> None:
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch always writes checksums")
    torch.serialization.set_crc32_options(False)
    try:
        path = write_small(tmp_path / "checkpoint_1000.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    report = verify_checkpoint(path)
    assert report.faults == ()
    assert any("holds no checksums" in note for note in report.notes)


# The model


def test_a_missing_tensor_is_found(tmp_path: Path) -> None:
    state = small_state()
    del state["model"]["xtts.gpt.gpt.h.1.ln_1.bias"]
    (fault,) = verify_checkpoint(write_small(tmp_path / "checkpoint_1000.pth", state)).faults
    assert fault == ("tensors", "gpt.gpt.h.1.ln_1.bias is missing")


def test_a_tensor_too_many_is_found(tmp_path: Path) -> None:
    state = small_state()
    state["model"]["xtts.gpt.gpt.h.2.ln_1.bias"] = torch.ones(WIDTH)
    (fault,) = verify_checkpoint(write_small(tmp_path / "checkpoint_1000.pth", state)).faults
    assert fault.message.startswith("gpt.gpt.h.2.ln_1.bias is not part of the model")


def test_another_shape_is_found_with_both_shapes(tmp_path: Path) -> None:
    state = small_state()
    state["model"]["xtts.gpt.final_norm.bias"] = torch.ones(7)
    (fault,) = verify_checkpoint(write_small(tmp_path / "checkpoint_1000.pth", state)).faults
    assert fault == ("tensors", "gpt.final_norm.bias is [7], the config asks for [8]")


def test_without_a_config_a_missing_tensor_is_still_found(tmp_path: Path) -> None:
    model = small_state()["model"]
    del model["xtts.gpt.gpt.h.1.ln_1.bias"]
    torch.save(model, tmp_path / "bare.pth")
    report = verify_checkpoint(tmp_path / "bare.pth")
    assert [fault.message for fault in report.faults] == ["gpt.gpt.h.1.ln_1.bias is missing"]
    assert any("no config" in note for note in report.notes)


def test_a_model_of_something_else_is_one_fault(tmp_path: Path) -> None:
    torch.save({"model": {"conv.weight": torch.ones(2)}}, tmp_path / "other.pth")
    assert checks(tmp_path / "other.pth") == ["tensors"]


def test_many_missing_tensors_are_one_line(tmp_path: Path) -> None:
    state = small_state()
    state["config"]["model_args"]["gpt_layers"] = LAYERS + 10
    (fault,) = verify_checkpoint(write_small(tmp_path / "checkpoint_1000.pth", state)).faults
    assert fault.message.startswith("120 tensors are missing, such as: gpt.gpt.h.2.")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gpt_layers", 1_000_000),
        ("gpt_layers", -1),
        ("gpt_n_model_channels", -8),
        ("d_vector_dim", -1),
        ("gpt_max_text_tokens", -2),
    ],
)
def test_a_size_out_of_bounds_is_found(tmp_path: Path, field: str, value: int) -> None:
    state = small_state()
    state["config"]["model_args"][field] = value
    (fault,) = verify_checkpoint(write_small(tmp_path / "checkpoint_1000.pth", state)).faults
    assert fault.message.startswith(f"config: model_args.{field} should be a whole number from ")


def test_positions_that_are_not_learned_are_no_size_out_of_bounds() -> None:
    args = {"gpt_layers": 1, "gpt_max_text_tokens": -1, "gpt_max_audio_tokens": -1}
    assert "gpt.text_pos_embedding.emb.weight" not in expected_tensors(args, TOKENS)


def test_an_object_that_weights_only_refuses_is_found(tmp_path: Path) -> None:
    state = small_state()
    state["callback"] = Path("/somewhere")
    path = write_small(tmp_path / "checkpoint_1000.pth", state)
    assert checks(path) == ["weights_only"]
    with pytest.raises(Exception, match=r"weights_only|WeightsUnpickler"):
        torch.load(path, weights_only=True)


def test_what_torch_itself_refuses_is_found_when_asked_to_load(checkpoint: Path) -> None:
    assert verify_checkpoint(checkpoint, load=True).faults == ()


def test_the_expected_tensors_are_those_of_a_real_full_size_checkpoint() -> None:
    layout = json.loads(LAYOUT.read_text(encoding="utf-8"))["model"]
    args = json.loads(TRAINER_CONFIG.read_text(encoding="utf-8"))["model_args"]
    real = {name.removeprefix("xtts."): tuple(shape) for name, (_, shape) in layout.items() if name.startswith("xtts.")}
    with real_decoder():
        assert expected_tensors(args, args["gpt_number_text_tokens"]) == real


@pytest.mark.integration
def test_the_expected_tensors_are_those_of_the_real_model() -> None:
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    for perceiver in (True, False):
        config = XttsConfig()
        args = config.model_args
        args.gpt_layers, args.gpt_n_model_channels, args.gpt_n_heads = 2, 64, 2
        args.decoder_input_dim, args.d_vector_dim = 64, 512
        args.gpt_number_text_tokens, args.gpt_num_audio_tokens = 50, 1026
        args.gpt_start_text_token, args.gpt_stop_text_token = 1, 0
        args.gpt_use_perceiver_resampler = perceiver
        model = Xtts(config)
        real = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        with real_decoder():
            assert expected_tensors(config.to_dict()["model_args"], 50) == real


# The folder


def test_a_wrong_vocabulary_is_found(folder: Path) -> None:
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    vocab["model"]["vocab"].popitem()
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    assert "vocabulary" in checks(folder)
    assert "5 tokens, the text embedding 6 rows" in verify_checkpoint(folder).faults[0].message


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "", ".", "..", "a/b", "a\0b"])
def test_a_provenance_that_lists_what_is_no_file_of_the_folder_is_found(folder: Path, name: str) -> None:
    provenance = json.loads((folder / "export.json").read_bytes())
    provenance["files"][name] = {"bytes": 1}
    (folder / "export.json").write_text(json.dumps(provenance), encoding="utf-8")
    assert checks(folder) == ["provenance"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_vocabulary_that_begins_with_a_byte_order_mark_is_found(folder: Path, encoding: str) -> None:
    text = (folder / "vocab.json").read_text(encoding="utf-8")
    (folder / "vocab.json").write_text(text, encoding=encoding)
    assert "vocabulary" in checks(folder)


def test_another_vocabulary_of_the_same_size_is_found_by_its_hash(folder: Path) -> None:
    text = (folder / "vocab.json").read_text(encoding="utf-8")
    (folder / "vocab.json").write_text(text.replace("token4", "tokem4", 1), encoding="utf-8")
    assert checks(folder) == ["provenance"]


def test_a_checkpoint_whose_vocabulary_has_another_size_is_found(tmp_path: Path) -> None:
    assert checks(write_small(tmp_path / "checkpoint_1000.pth", tokens=TOKENS - 1)) == ["vocabulary"]


@pytest.mark.parametrize("name", ["vocab.json", "config.json", "export.json"])
def test_a_missing_file_of_the_folder_is_found(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert any(name in fault.message and "missing" in fault.message for fault in verify_checkpoint(folder).faults)


def test_an_edited_step_in_the_provenance_is_found(folder: Path) -> None:
    edit(folder, lambda provenance: provenance["sources"][0].update(step=9999))
    (fault,) = verify_checkpoint(folder).faults
    assert fault == ("provenance", "export.json and model.pth differ in sources: one of them was edited")


def test_an_edited_hash_in_the_provenance_is_found(folder: Path) -> None:
    edit(folder, lambda provenance: provenance["files"]["config.json"].update(sha256="0" * 64))
    assert checks(folder) == ["provenance"]


def test_weights_exchanged_for_others_are_found(folder: Path, run: Path, tmp_path: Path) -> None:
    export_checkpoint(run / "checkpoint_2000.pth", tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.pth", folder / "model.pth")
    assert set(checks(folder)) == {"provenance"}


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_other_weights_with_the_same_checksums_are_found(run: Path, tmp_path: Path, kind: str) -> None:
    export_checkpoint(run / "checkpoint_1000.pth", tmp_path / "out", format=kind)
    forge(tmp_path / "out" / f"model.{kind}", "gpt.text_head.weight")
    (fault,) = verify_checkpoint(tmp_path / "out").faults
    assert fault.check == "provenance"
    assert "its BLAKE3 differs" in fault.message


def test_other_weights_in_a_folder_for_auralis_are_found(run: Path, tmp_path: Path) -> None:
    folder = export_checkpoint(run / "checkpoint_1000.pth", tmp_path / "out", layout="auralis").path
    assert verify_layout(folder, layout_of("auralis")).is_fine
    forge(folder / "core_xttsv2" / "xtts-v2.safetensors", "hifigan_decoder.waveform_decoder.conv_pre.weight")
    (fault,) = verify_layout(folder, layout_of("auralis")).faults
    assert "core_xttsv2/xtts-v2.safetensors does not hold the tensors that export.json describes" in fault.message


def test_a_note_says_where_other_weights_would_not_be_noticed(run: Path, tmp_path: Path) -> None:
    average_checkpoints([run / "checkpoint_1000.pth", run / "checkpoint_2000.pth"], tmp_path / "out")
    report = verify_checkpoint(tmp_path / "out")
    assert report.is_fine
    (note,) = report.notes
    assert note.startswith("model.pth was compared with its checksums alone, which show damage but not forgery")
    assert note.endswith("export.json holds no BLAKE3 of it")


def test_a_note_says_that_the_package_for_the_hash_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blake3", None)
    report = verify_checkpoint(folder)
    assert report.is_fine
    assert [note.rpartition(": ")[2] for note in report.notes] == ["the package blake3 is not installed"]


def test_a_note_names_weights_that_the_provenance_does_not_describe(folder: Path) -> None:
    edit(folder, lambda provenance: provenance["files"].pop("model.pth"))
    assert verify_checkpoint(folder).notes == (
        "export.json does not describe model.pth, so that nothing proves its weights",
    )


def test_other_weights_beside_the_provenance_of_those_that_are_gone_are_found(folder: Path) -> None:
    (folder / "model.pth").rename(folder / "best.pth")
    report = verify_checkpoint(folder)
    assert "model.pth is missing" in [fault.message for fault in report.faults]
    assert any(note.startswith("export.json does not describe best.pth") for note in report.notes)


def test_where_checksums_are_in_the_provenance_the_file_need_not_hold_them(run: Path, tmp_path: Path) -> None:
    folder = export_checkpoint(run / "checkpoint_1000.pth", tmp_path / "out", format="safetensors").path
    assert verify_checkpoint(folder).notes == ()
    (folder / "export.json").unlink()
    assert any(note.startswith("the file holds no checksums") for note in verify_checkpoint(folder).notes)


def test_an_edited_config_is_found(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["languages"] = ["tlh"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert any("differ in languages" in fault.message for fault in verify_checkpoint(folder).faults)


# The run


def test_the_resume_picks_what_the_trainer_picks(run: Path) -> None:
    from trainer.io import get_last_checkpoint

    shutil.copy(run / "checkpoint_1000.pth", run / "best_model_1500.pth")
    shutil.copy(run / "checkpoint_1000.pth", run / "best_model.pth")
    assert_picks_like(run, get_last_checkpoint)


@pytest.mark.parametrize(
    "names",
    [
        ["checkpoint_5.pth", "checkpoint_10.pth"],
        ["best_model_7.pth", "best_model.pth"],
        ["best_model_20.pth", "checkpoint_10.pth"],
        ["best_model_10.pth", "checkpoint_10.pth"],
        ["checkpoint_10.pth", "slim_checkpoint_200.pth"],
        ["best_model.pth"],
        ["checkpoint_3.pth", "best_model.pth"],
    ],
)
@pytest.mark.parametrize("parent", ["run", "checkpoint_99", "old_checkpoints"])
def test_the_resume_picks_what_the_trainer_picks_whatever_the_names(
    pristine: Path, tmp_path: Path, names: list[str], parent: str
) -> None:
    from trainer.io import get_last_checkpoint

    run = tmp_path / parent
    run.mkdir()
    for name in names:
        shutil.copy(pristine / "checkpoint_1000.pth", run / name)
    assert_picks_like(run, get_last_checkpoint)


def assert_picks_like(run: Path, get_last_checkpoint: Any) -> None:
    found = trainers_choice(run)
    assert (str(found.checkpoint), str(found.best)) == tuple(map(str, get_last_checkpoint(run)))


@pytest.mark.parametrize("name", ["voice [v2]", "voice *", "voice?"])
def test_a_run_that_the_trainer_takes_for_a_pattern_has_no_resume(run: Path, tmp_path: Path, name: str) -> None:
    moved = run.rename(tmp_path / name)
    report = verify_run(moved)
    assert report.resume.checkpoint is None
    assert "the Trainer treats the path as a pattern" in report.faults[0].message


def test_a_broken_checkpoint_that_the_resume_would_pick_is_named(run: Path) -> None:
    os.truncate(run / "checkpoint_2000.pth", 1000)
    report = verify_run(run)
    assert report.faults[0].message.startswith("the next resume uses checkpoint_2000.pth, which is broken")


def test_a_broken_checkpoint_that_no_resume_picks_is_no_fault_of_the_resume(run: Path) -> None:
    os.truncate(run / "checkpoint_1000.pth", 1000)
    report = verify_run(run)
    assert report.faults == ()
    assert not report.is_fine


def test_an_inference_model_that_the_resume_would_pick_is_named(run: Path, folder: Path) -> None:
    shutil.copy(folder / "model.pth", run / "slim_checkpoint_3000.pth")
    (fault,) = verify_run(run).faults
    assert "slim_checkpoint_3000.pth" in fault.message
    assert "lack the prefix xtts." in fault.message


def test_weights_alone_are_a_note_where_nothing_else_is_left(tmp_path: Path) -> None:
    write_small(tmp_path / "run" / "checkpoint_1000.pth", without_optimizer(small_state()))
    report = verify_run(tmp_path / "run")
    assert report.faults == ()
    assert report.notes == ("checkpoint_1000.pth holds weights only: training resumes with fresh optimizer moments",)


def test_a_newer_best_model_of_weights_alone_is_a_note_that_says_where_the_callback_goes_back_to(run: Path) -> None:
    write_small(run / "best_model_3000.pth", without_optimizer(small_state(3000)))
    report = verify_run(run)
    assert report.faults == ()
    assert report.notes == (
        "best_model_3000.pth holds weights only: the callback resumes from checkpoint_2000.pth, with optimizer state",
    )


def test_a_missing_optimizer_that_the_callback_did_not_leave_out_is_a_fault(run: Path) -> None:
    write_small(run / "checkpoint_3000.pth", {**small_state(3000), "optimizer": []})
    (fault,) = verify_run(run).faults
    assert "it holds no optimizer state" in fault.message


@pytest.mark.parametrize(
    ("parent", "found"), [("checkpoint_99_runs", "checkpoint_99"), ("best_model_5000", "best_model_5000")]
)
def test_a_number_in_a_folder_above_that_decides_the_pick_is_a_fault(
    run: Path, tmp_path: Path, parent: str, found: str
) -> None:
    moved = tmp_path / parent / "run"
    moved.parent.mkdir()
    shutil.copytree(run, moved)
    shutil.copy(moved / "checkpoint_1000.pth", moved / "best_model_1000.pth")
    shutil.copy(moved / "checkpoint_1000.pth", moved / "best_model_1500.pth")
    (fault,) = verify_run(moved).faults
    assert f"contains {found}, which the Trainer reads as the number" in fault.message


def test_a_number_in_a_folder_above_that_changes_no_pick_is_no_fault(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "checkpoint_99_runs" / "run"
    moved.mkdir(parents=True)
    shutil.copy(run / "checkpoint_1000.pth", moved)
    assert verify_run(moved).faults == ()


def test_a_link_that_leads_nowhere_is_a_fault_of_the_resume_that_picks_it(run: Path) -> None:
    (run / "checkpoint_5000.pth").symlink_to("nowhere.pth")
    report = verify_run(run)
    assert [fault.message.partition(";")[0] for fault in report.faults] == [
        "the next resume uses checkpoint_5000.pth, which is broken"
    ]


def test_a_best_model_link_that_leads_nowhere_is_a_fault_of_the_resume(run: Path) -> None:
    (run / "best_model.pth").symlink_to("nowhere.pth")
    assert "best_model.pth, a link that leads nowhere" in verify_run(run).faults[0].message


def test_a_run_of_exports_alone_is_fine_with_a_note(run: Path) -> None:
    for path in run.glob("*.pth"):
        path.unlink()
    report = verify_run(run)
    assert report.is_fine
    assert report.notes == ("holds exports only: there is no checkpoint to resume from",)


def test_exports_are_found_where_the_config_of_the_run_puts_them(run: Path) -> None:
    (run / "config.json").write_text(json.dumps({"export": {"folder": "slim"}}), encoding="utf-8")
    (run / "inference").rename(run / "slim")
    assert run / "slim" / "checkpoint_1000" in [model.path for model in verify_run(run).models]


# The command line


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_refused_for_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    assert main(["verify", str(tmp_path / "pipe.pth")]) == 2
    assert "not a regular file" in capsys.readouterr().err


def test_a_file_that_must_not_be_read_is_refused_and_not_called_broken(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def deny(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("xtts_export_callback.checkpoint.reader.RandomFile", deny)
    assert main(["verify", str(checkpoint)]) == 2
    assert capsys.readouterr().err.count("Permission denied") == 1


def test_a_folder_of_exports_is_refused_with_what_to_name_instead(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(run / "inference")]) == 2
    assert f"name the run {run}, or one of them" in capsys.readouterr().err


def test_the_command_exits_with_0_when_all_is_fine(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    tensors = len(small_state()["model"])
    first = run / "checkpoint_1000.pth"
    assert lines[0] == f"{first}: fine ({tensors} tensors, {size_of(first)})"
    assert lines[-1].endswith("the next resume uses checkpoint_2000.pth, best model checkpoint_2000.pth")


def size_of(path: Path) -> str:
    from xtts_export_callback.units import human_size

    return human_size(path.stat().st_size)


def test_the_command_exits_with_1_and_lists_all_faults(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for record in ("/data/1", "/data/2"):
        flip(checkpoint, data_of(checkpoint, record))
    assert main(["verify", str(checkpoint)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(": checksums: " in line for line in lines)


def test_json_is_all_that_is_printed(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(checkpoint, data_of(checkpoint, "/data/1"))
    assert main(["verify", "--json", str(checkpoint)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["fine"]
    assert report["reports"][0]["faults"][0]["check"] == "checksums"


@pytest.mark.parametrize("name", ["nothing.pth", "."])
def test_a_path_with_nothing_to_verify_is_refused_in_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_a_file_that_is_no_checkpoint_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_text("<html>404 Not Found</html>", encoding="utf-8")
    assert checks(path) == ["file"]
