"""Every program takes what we write for it, and is not given what it would refuse."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.benchmarks.files import vocabulary
from tests.models.command_line import complaint
from tests.models.damage import forge
from tests.models.programs import ACCEPTS
from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import average_checkpoints, export_checkpoint
from xtts_export_callback.cli import options
from xtts_export_callback.cli.main import main
from xtts_export_callback.demo.speech_samples import write_wav
from xtts_export_callback.demo.tiny_model import tiny_vocabulary
from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.inference_folder.auralis import tokenizer
from xtts_export_callback.inference_folder.layouts import LAYOUTS
from xtts_export_callback.verification.layout import verify_layout

WITHOUT_LATENTS = sorted(LAYOUTS.keys() - {"xtts-finetune-webui"})
"""Layouts that need no latents of a voice, which only a model of Coqui's own sizes can compute."""
NEED_CLIP = ("ebook2audiobook", "openedai-speech")


def write_speakers(folder: Path) -> None:
    latents = {"gpt_cond_latent": torch.ones(1, 4, 8), "speaker_embedding": torch.ones(1, 4, 1)}
    torch.save({"Ana Florence": latents}, folder / "speakers_xtts.pth")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two checkpoints, whose base model's voices lie beside it."""
    run = tmp_path / "training" / "run"
    for step in (1, 2):
        write_small(run / f"checkpoint_{step}.pth")
    shutil.copy(run / "checkpoint_2.pth", run / "best_model.pth")
    write_speakers(run.parent)
    return run


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    import numpy as np

    path = tmp_path / "me.wav"
    write_wav(path, np.sin(np.arange(8 * 22050) / 20))
    return path


def official(folder: Path) -> Path:
    """The layout of the release: no prefix, every file beside the weights."""
    state = small_state(5)
    folder.mkdir()
    model = {name.removeprefix("xtts."): tensor for name, tensor in state["model"].items() if name.startswith("xtts.")}
    torch.save({"model": model}, folder / "model.pth")
    tokens = model["gpt.text_embedding.weight"].shape[0]
    (folder / "vocab.json").write_text(json.dumps(vocabulary(tokens)), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(state["config"]), encoding="utf-8")
    torch.save(torch.ones(80), folder / "mel_stats.pth")
    torch.save({"codebook.embed": torch.ones(4, 4)}, folder / "dvae.pth")
    write_speakers(folder)
    return folder


def pack(source: str, run: Path, output: Path, layout: str, voice: Path | None) -> None:
    """Write a layout from a run, a bare ``best_model.pth``, an average or a release, by the command line."""
    given = ["--layout", layout, *(["--voice", str(voice)] if voice else []), "--output", str(output)]
    if source == "average":
        assert main(["average", str(run), "--last", "2", *given]) == 0
        return
    if source == "bare best_model.pth":
        run = shutil.copytree(run, run.with_name("downloaded"))
        for path in run.glob("checkpoint_*"):
            path.unlink()
    paths = {"run": run / "checkpoint_1.pth", "bare best_model.pth": run / "best_model.pth"}
    path = official(run.with_name("release")) if source == "official release" else paths[source]
    assert main(["export", str(path), *given]) == 0


@pytest.mark.parametrize("source", ["run", "bare best_model.pth", "average", "official release"])
@pytest.mark.parametrize("layout", WITHOUT_LATENTS)
def test_a_program_accepts_what_was_written_for_it(
    run: Path, clip: Path, tmp_path: Path, layout: str, source: str
) -> None:
    output = tmp_path / "program" / "voices" / ("mine.zip" if layout == "ebook2audiobook" else "mine")
    pack(source, run, output, layout, clip if layout in NEED_CLIP else None)

    assert ACCEPTS[layout](output)
    assert verify_layout(output, LAYOUTS[layout]).faults == ()


def test_every_layout_has_a_program_that_checks_it_and_a_name_on_the_command_line() -> None:
    assert list(LAYOUTS) == list(ACCEPTS) == list(options.LAYOUTS)


def test_by_default_the_result_lies_beside_the_plain_export(run: Path, clip: Path) -> None:
    checkpoint = run / "checkpoint_1.pth"
    assert export_checkpoint(checkpoint, layout="alltalk").path == run / "inference" / "checkpoint_1-alltalk"
    archive = export_checkpoint(checkpoint, layout="ebook2audiobook", voice=clip).path
    assert archive == run / "inference" / "checkpoint_1-ebook2audiobook.zip"


def test_the_dvae_is_that_of_the_checkpoint(run: Path) -> None:
    torch.save({"codebook.embed": torch.zeros(4, 4)}, run / "dvae.pth")
    folder = export_checkpoint(run / "checkpoint_1.pth", layout="alltalk").path

    found = torch.load(folder / "dvae.pth", weights_only=True)
    saved = torch.load(run / "checkpoint_1.pth", weights_only=True)["model"]
    expected = {name.removeprefix("dvae."): tensor for name, tensor in saved.items() if name.startswith("dvae.")}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_mel_statistics_are_those_of_the_model_in_full_precision(run: Path) -> None:
    folder = export_checkpoint(run / "checkpoint_1.pth", layout="alltalk", dtype="float16").path
    saved = torch.load(run / "checkpoint_1.pth", weights_only=True)["model"]

    assert torch.equal(torch.load(folder / "mel_stats.pth", weights_only=True), saved["xtts.mel_stats"])


@pytest.mark.parametrize(
    ("layout", "file", "remedy"),
    [
        ("alltalk", "speakers_xtts.pth", "export with --voice WAV"),
        ("realtimetts", "speakers_xtts.pth", "https://huggingface.co/coqui/XTTS-v2"),
        ("ebook2audiobook", "ref.wav", "export with --voice WAV, a recording of 6 to 30 s of the voice"),
        ("openedai-speech", "sample.wav", "--voice"),
        ("xtts-finetune-webui", "speakers_xtts.pth", "--voice"),
    ],
)
def test_one_line_names_a_file_that_is_nowhere_and_where_to_get_it(
    run: Path, capsys: pytest.CaptureFixture[str], layout: str, file: str, remedy: str
) -> None:
    (run.parent / "speakers_xtts.pth").unlink()
    line = complaint(capsys, "export", run / "checkpoint_1.pth", "--layout", layout)

    assert line.startswith(f"xtts-export: {file}: {LAYOUTS[layout].program} needs it")
    assert remedy in line
    assert list((run / "inference").glob("*")) == []


def test_an_inference_folder_has_no_dvae_and_the_line_says_what_has(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export_checkpoint(run / "checkpoint_1.pth").path
    line = complaint(capsys, "export", folder, "--layout", "alltalk")

    assert line.startswith("xtts-export: dvae.pth: AllTalk needs it")
    assert "name a full checkpoint" in line


class _Boobytrap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("layout", ["", "realtimetts"])
def test_a_malicious_file_of_voices_is_refused_by_name_and_not_copied(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    trap = tmp_path / "sprung"
    (run.parent / "speakers_xtts.pth").write_bytes(pickle.dumps({"Ana": _Boobytrap(trap)}))
    code = main(["export", str(run / "checkpoint_1.pth"), *(["--layout", layout] if layout else [])])

    assert code == (2 if layout else 0)
    assert "speakers_xtts.pth" in "".join(capsys.readouterr())
    assert not trap.exists()
    assert list(run.rglob("speakers_xtts.pth")) == []


def test_a_dvae_that_holds_more_than_tensors_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, trap = official(tmp_path / "release"), tmp_path / "sprung"
    torch.save({"codebook.embed": torch.ones(4, 4), "extra": _Boobytrap(trap)}, folder / "dvae.pth")
    line = complaint(capsys, "export", folder, "--layout", "alltalk", "--output", tmp_path / "mine")

    assert f"dvae.pth was left out: {folder / 'dvae.pth'}: expected the weights of a DVAE by name" in line
    assert not trap.exists()


@pytest.mark.parametrize("layout", WITHOUT_LATENTS)
def test_verify_names_each_file_that_is_missing(
    run: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    voice = clip if layout in NEED_CLIP else None
    whole = export_checkpoint(run / "checkpoint_1.pth", tmp_path / "whole.zip", layout=layout, voice=voice).path
    for file in LAYOUTS[layout].files:
        damaged = tmp_path / "damaged.zip"
        if whole.is_dir():
            shutil.copytree(whole, damaged)
            (damaged / file).unlink()
        else:
            with zipfile.ZipFile(whole) as old, zipfile.ZipFile(damaged, "w") as new:
                for name in set(old.namelist()) - {file}:
                    new.writestr(name, old.read(name))
        assert main(["verify", "--layout", layout, str(damaged)]) == 1
        assert f"layout: {file} is missing, which {LAYOUTS[layout].program} needs" in capsys.readouterr().out
        shutil.rmtree(damaged) if damaged.is_dir() else damaged.unlink()


@pytest.fixture
def archive(run: Path, clip: Path, tmp_path: Path) -> Path:
    """A ZIP for ebook2audiobook."""
    return export_checkpoint(run / "checkpoint_1.pth", tmp_path / "a.zip", layout="ebook2audiobook", voice=clip).path


def faults_of(archive: Path) -> list[str]:
    return [fault.message for fault in verify_layout(archive, LAYOUTS["ebook2audiobook"]).faults]


def exchange(archive: Path, name: str, content: bytes) -> None:
    """Put other bytes of the same length in place of a file in a ZIP, and correct its checksum."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(archive.with_name("other.zip"), "w") as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry == name else old.read(entry))
    archive.with_name("other.zip").replace(archive)


def test_an_archive_as_written_is_fine(archive: Path) -> None:
    assert faults_of(archive) == []


def test_other_weights_with_the_same_checksums_are_found_in_an_archive(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        content = opened.read("model.pth")
    (tmp_path / "model.pth").write_bytes(content)
    forge(tmp_path / "model.pth", "gpt.text_head.weight")
    archive.write_bytes(archive.read_bytes().replace(content, (tmp_path / "model.pth").read_bytes()))
    (fault,) = faults_of(archive)
    assert "its BLAKE3 differs" in fault


def test_another_vocabulary_is_found_in_an_archive(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        content = opened.read("vocab.json")
    exchange(archive, "vocab.json", content.replace(b"a", b"e"))
    assert faults_of(archive) == ["vocab.json is not the file that export.json describes: its SHA-256 differs"]


def test_damaged_weights_are_found_in_an_archive_whose_own_checksums_are_right(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        content = bytearray(opened.read("model.pth"))
    content[len(content) // 2] ^= 1
    exchange(archive, "model.pth", bytes(content))
    assert [fault for fault in faults_of(archive) if "checksum" in fault]


def repack(archive: Path, *, method: int = zipfile.ZIP_STORED, folder: str = "") -> None:
    """Write a ZIP anew as another program would."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(archive.with_name("other.zip"), "w", method) as new:
        for entry in old.namelist():
            new.writestr(f"{folder}{entry}", old.read(entry))
    archive.with_name("other.zip").replace(archive)


@pytest.mark.parametrize("folder", ["", "sub/"])
def test_an_archive_that_another_program_wrote_anew_is_fine(archive: Path, folder: str) -> None:
    repack(archive, folder=folder)
    report = verify_layout(archive, LAYOUTS["ebook2audiobook"])
    assert (report.faults, report.notes) == ((), ())


def test_a_note_says_that_compressed_weights_were_not_read(archive: Path) -> None:
    repack(archive, method=zipfile.ZIP_DEFLATED)
    report = verify_layout(archive, LAYOUTS["ebook2audiobook"])
    assert report.is_fine
    assert [note.partition(",")[0] for note in report.notes] == ["model.pth is compressed"]


def test_two_files_of_one_name_in_an_archive_are_a_fault(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("more/ref.wav", b"other")
    assert "holds 2 files called ref.wav, and ebook2audiobook takes any of them" in faults_of(archive)


ODD_PROVENANCE: dict[str, bytes] = {
    "cut": b'{"a',
    "empty": b"",
    "no text": b"\xff\xfe{",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "no sources": b"{}",
}


@pytest.mark.parametrize("kind", ODD_PROVENANCE)
def test_a_provenance_that_cannot_be_understood_is_a_fault_in_an_archive(archive: Path, kind: str) -> None:
    exchange(archive, "export.json", ODD_PROVENANCE[kind])
    assert faults_of(archive) == ["export.json cannot be understood: damaged or edited"]


def test_a_provenance_that_is_missing_is_a_fault_in_an_archive(archive: Path) -> None:
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(archive.with_name("other.zip"), "w") as new:
        for entry in set(old.namelist()) - {"export.json"}:
            new.writestr(entry, old.read(entry))
    assert faults_of(archive.with_name("other.zip")) == ["export.json is missing"]


def test_an_archive_with_a_name_that_is_no_text_is_one_fault(archive: Path, run: Path, clip: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"vocab.json")] = 0xFF
    archive.write_bytes(content)
    assert [fault.partition(" (")[0] for fault in faults_of(archive)] == ["cannot be read as a ZIP"]
    with pytest.raises(OutputExistsError):
        export_checkpoint(run / "checkpoint_1.pth", archive, layout="ebook2audiobook", voice=clip)


def test_damage_that_the_compression_finds_is_one_fault(archive: Path) -> None:
    repack(archive, method=zipfile.ZIP_LZMA)
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        entry = opened.getinfo("config.json")
    content[entry.header_offset + 30 + len("config.json") + 4] = 0xFF  # the properties of LZMA
    archive.write_bytes(content)
    assert [fault.partition(" (")[0] for fault in faults_of(archive)] == ["cannot be read as a ZIP"]


def test_a_mean_in_an_archive_or_for_auralis_has_the_note_on_checksums(run: Path, clip: Path, tmp_path: Path) -> None:
    sources = [run / "checkpoint_1.pth", run / "checkpoint_2.pth"]
    for layout, name in (("ebook2audiobook", "mean.zip"), ("auralis", "mean")):
        average_checkpoints(sources, tmp_path / name, layout=layout, voice=clip)
        report = verify_layout(tmp_path / name, LAYOUTS[layout])
        assert report.is_fine
        assert report.notes
        assert all("was compared with its checksums alone" in note for note in report.notes)


@pytest.mark.parametrize("change", ["damaged", "missing", "a file edited"])
def test_auralis_folders_are_compared_with_their_provenance(run: Path, tmp_path: Path, change: str) -> None:
    folder = export_checkpoint(run / "checkpoint_1.pth", tmp_path / "mine", layout="auralis").path
    provenance = folder / "export.json"
    if change == "damaged":
        provenance.write_bytes(b'{"a')
    elif change == "missing":
        provenance.unlink()
    else:
        (folder / "gpt" / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    faults = verify_layout(folder, LAYOUTS["auralis"]).faults
    assert faults
    assert {fault.check for fault in faults} == {"provenance"}


def test_an_encrypted_archive_is_one_fault(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(magic) + place] |= 1  # the bit in the flags of the header and of the directory
    archive.write_bytes(content)
    (fault,) = faults_of(archive)
    assert fault.startswith("cannot be read as a ZIP")


def test_an_empty_recording_is_missed_in_an_archive(run: Path, clip: Path, tmp_path: Path) -> None:
    path = export_checkpoint(run / "checkpoint_1.pth", tmp_path / "a.zip", layout="ebook2audiobook", voice=clip).path
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"" if name == "ref.wav" else old.read(name))

    (fault,) = verify_layout(tmp_path / "b.zip", LAYOUTS["ebook2audiobook"]).faults
    assert fault.message.startswith("ref.wav is empty")


class TestReplacing:
    def test_the_same_again_is_skipped_and_another_voice_refused(self, run: Path, clip: Path, tmp_path: Path) -> None:
        checkpoint, other = run / "checkpoint_1.pth", tmp_path / "other.wav"
        archive = export_checkpoint(checkpoint, layout="ebook2audiobook", voice=clip).path
        assert not export_checkpoint(checkpoint, layout="ebook2audiobook", voice=clip).written
        content = clip.read_bytes()
        other.write_bytes(content[:-2] + b"\x01\x02")
        with pytest.raises(OutputExistsError, match="another source, dtype, format, layout or voice"):
            export_checkpoint(checkpoint, layout="ebook2audiobook", voice=other)
        assert export_checkpoint(checkpoint, layout="ebook2audiobook", voice=other, force=True).path == archive

    @pytest.mark.parametrize("layout", ["alltalk", "auralis", "ebook2audiobook"])
    def test_what_cannot_be_compared_with_a_config_that_was_named_is_not_skipped(
        self, run: Path, clip: Path, tmp_path: Path, layout: str
    ) -> None:
        checkpoint, config = run / "checkpoint_1.pth", tmp_path / "config.json"
        written = export_checkpoint(checkpoint, layout=layout, voice=clip if layout == "ebook2audiobook" else None)
        config.write_text(json.dumps({**small_state()["config"], "max_ref_len": 12}), encoding="utf-8")
        with pytest.raises(OutputExistsError, match=r"config\.json .*the one named; replace it with --force"):
            export_checkpoint(
                checkpoint, layout=layout, voice=clip if layout == "ebook2audiobook" else None, config=config
            )
        assert written.path.exists()

    def test_an_archive_of_others_stays(self, run: Path, clip: Path, tmp_path: Path) -> None:
        archive = tmp_path / "mine.zip"
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("diary.txt", "important")
        before = archive.read_bytes()
        with pytest.raises(OutputExistsError, match="did not write"):
            export_checkpoint(run / "checkpoint_1.pth", archive, layout="ebook2audiobook", voice=clip, force=True)
        assert archive.read_bytes() == before

    def test_a_file_that_somebody_added_to_an_archive_keeps_it(self, run: Path, clip: Path, tmp_path: Path) -> None:
        archive = tmp_path / "mine.zip"
        export_checkpoint(run / "checkpoint_1.pth", archive, layout="ebook2audiobook", voice=clip)
        with zipfile.ZipFile(archive, "a") as opened:
            opened.writestr("diary.txt", "important")
        with pytest.raises(OutputExistsError, match="did not write"):
            export_checkpoint(run / "checkpoint_2.pth", archive, layout="ebook2audiobook", voice=clip, force=True)

    def test_a_file_that_somebody_added_below_an_auralis_folder_keeps_it(self, run: Path, tmp_path: Path) -> None:
        folder = export_checkpoint(run / "checkpoint_1.pth", tmp_path / "mine", layout="auralis").path
        export_checkpoint(run / "checkpoint_2.pth", folder, layout="auralis", force=True)
        (folder / "gpt" / "tokenizer.py").write_text("theirs")
        with pytest.raises(OutputExistsError, match=r"gpt/tokenizer\.py"):
            export_checkpoint(run / "checkpoint_1.pth", folder, layout="auralis", force=True)


def test_an_archive_is_called_one(run: Path, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes a ZIP; name an output that ends in \.zip"):
        export_checkpoint(run / "checkpoint_1.pth", tmp_path / "mine", layout="ebook2audiobook", voice=clip)


def test_a_layout_and_a_format_of_its_own_exclude_each_other(run: Path) -> None:
    with pytest.raises(ConfigError, match="AllTalk reads its own"):
        export_checkpoint(run / "checkpoint_1.pth", layout="alltalk", format="safetensors")


@pytest.mark.parametrize("layout", ["alltalk", "auralis"])
@pytest.mark.parametrize("given", [["--dtype", "int8"], ["--precision", "gpt.gpt.h.*.attn.c_attn.weight=int8"]])
def test_integers_that_a_program_would_take_for_weights_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str], layout: str, given: list[str]
) -> None:
    line = complaint(capsys, "export", run / "checkpoint_1.pth", "--layout", layout, *given)

    assert f"is int8, which only load_xtts reads and {LAYOUTS[layout].program} does not; use float16" in line
    assert list((run / "inference").glob("*")) == []


def test_a_model_in_int8_is_packed_in_another_type_when_asked(run: Path, tmp_path: Path) -> None:
    source = export_checkpoint(run / "checkpoint_1.pth", tmp_path / "int8", dtype="int8").path
    with pytest.raises(ConfigError, match="which only load_xtts reads"):
        export_checkpoint(source, tmp_path / "mine", layout="auralis")
    packed = export_checkpoint(source, tmp_path / "mine", layout="auralis", dtype="float16").path

    assert verify_layout(packed, LAYOUTS["auralis"]).faults == ()


@pytest.mark.parametrize("layout", ["", "auralis", "ebook2audiobook"])
def test_zeros_are_counted_in_every_file_of_weights(run: Path, clip: Path, layout: str) -> None:
    written = export_checkpoint(run / "checkpoint_1.pth", layout=layout, voice=clip if layout else None, sparsity=0.5)

    assert all(file.is_file() for file in written.weights)
    assert any("compressed it takes" in note for note in written.notes)


def test_json_says_where_it_lies_and_nothing_else(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run / "checkpoint_1.pth"), "--layout", "auralis", "--json"]) == 0
    (export,) = json.loads(capsys.readouterr().out)["exports"]

    assert export["path"] == str(run / "inference" / "checkpoint_1-auralis")
    assert export["provenance"]["layout"] == "auralis"


class TestAuralis:
    @pytest.mark.parametrize("rows", [6153, 6681, 6725])
    def test_weights_follow_the_table_of_renames(self, tmp_path: Path, rows: int) -> None:
        state = small_state()
        generator = torch.Generator().manual_seed(rows)
        for name in ("text_embedding.weight", "text_head.weight", "text_head.bias"):
            shape = state["model"][f"xtts.gpt.{name}"].shape
            state["model"][f"xtts.gpt.{name}"] = torch.randn(rows, *shape[1:], generator=generator)
        path = write_small(tmp_path / "run" / "checkpoint_1.pth", state, tokens=rows)
        folder = export_checkpoint(path, layout="auralis").path

        gpt = load_file(folder / "gpt" / "gpt2_model.safetensors")
        core = load_file(folder / "core_xttsv2" / "xtts-v2.safetensors")
        model = {name.removeprefix("xtts."): tensor for name, tensor in state["model"].items() if name[:5] == "xtts."}
        for name, tensor in model.items():
            for file, renamed in expected_places(name):
                found = (gpt if file == "gpt" else core).pop(renamed)
                assert found.dtype == tensor.dtype, name
                assert torch.equal(found, tensor), name
        assert (gpt, core) == ({}, {})
        assert ACCEPTS["auralis"](folder)
        config = json.loads((folder / "gpt" / "config.json").read_bytes())
        assert config["vocab_size"] == config["number_text_tokens"] == rows
        rows_of = json.loads((folder / "gpt" / "tokenizer.json").read_bytes())["model"]["vocab"]
        assert rows_of == json.loads((path.parent / "vocab.json").read_bytes())["model"]["vocab"]

    def test_half_precision_stays_half(self, run: Path) -> None:
        folder = export_checkpoint(run / "checkpoint_1.pth", layout="auralis", dtype="float16").path

        assert {tensor.dtype for tensor in load_file(folder / "gpt" / "gpt2_model.safetensors").values()} == {
            torch.float16
        }

    def test_texts_get_the_tokens_of_the_training_between_start_and_stop(self) -> None:
        from tokenizers import Tokenizer

        vocab = tiny_vocabulary()
        content = json.dumps(vocab)
        ours, trained = Tokenizer.from_str(json.dumps(tokenizer(content.encode()))), Tokenizer.from_str(content)
        rows = vocab["model"]["vocab"]
        for text in ("[en]the[SPACE]other,[SPACE]and[SPACE]in?", "[en]thousand-one", ""):
            tokens = trained.encode(text).ids
            assert ours.encode(text).ids == [rows["[START]"], *tokens, rows["[STOP]"]]
            assert ours.encode(text, add_special_tokens=False).ids == tokens

    def test_a_vocabulary_without_splitting_gets_the_one_of_auralis(self) -> None:
        vocab = {**tiny_vocabulary(), "pre_tokenizer": None}

        assert tokenizer(json.dumps(vocab).encode())["pre_tokenizer"] == {"type": "WhitespaceSplit"}

    def test_a_vocabulary_without_a_start_is_refused(self) -> None:
        vocab = tiny_vocabulary()
        vocab["model"]["vocab"]["[BEGIN]"] = vocab["model"]["vocab"].pop("[START]")
        vocab["added_tokens"] = []
        with pytest.raises(ConfigError, match=r"has no token \[START\]"):
            tokenizer(json.dumps(vocab).encode())

    @pytest.mark.parametrize(
        ("file", "key", "expected"),
        [
            ("gpt/config.json", "num_hidden_layers", "gpt.h.2."),
            ("gpt/config.json", "max_audio_tokens", "gpt.wpe.emb.weight is [8, 8], the config asks for [9, 8]"),
            ("core_xttsv2/config.json", "d_vector_dim", "the config asks for"),
        ],
    )
    def test_verify_finds_a_config_of_another_model(self, run: Path, file: str, key: str, expected: str) -> None:
        folder = export_checkpoint(run / "checkpoint_1.pth", layout="auralis").path
        config = json.loads((folder / file).read_bytes())
        (folder / file).write_text(json.dumps({**config, key: config[key] + 1}), encoding="utf-8")

        assert any(expected in fault.message for fault in verify_layout(folder, LAYOUTS["auralis"]).faults)

    def test_nothing_in_it_names_a_file_of_this_machine(self, run: Path, tmp_path: Path) -> None:
        folder = average_checkpoints(
            [run / "checkpoint_1.pth", run / "checkpoint_2.pth"], tmp_path / "mine", layout="auralis"
        ).path
        for path in folder.rglob("*"):
            assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes()


def expected_places(name: str) -> list[tuple[str, str]]:
    """Where a tensor goes: the file and its name there."""
    if name.startswith("gpt.gpt."):
        return [("gpt", name.removeprefix("gpt."))]
    if name == "gpt.mel_embedding.weight":
        return [("gpt", "gpt.wte.weight")]
    if name == "gpt.mel_pos_embedding.emb.weight":
        return [("gpt", "gpt.wpe.emb.weight")]
    bare = name.removeprefix("gpt.")
    if bare.startswith("mel_head."):
        return [("gpt", bare)]
    return [("gpt", bare), ("core", bare)] if bare.startswith("final_norm.") else [("core", bare)]


def write_chunks(path: Path, **chunks: bytes) -> Path:
    body = b"".join(name.encode() + len(data).to_bytes(4, "little") + data for name, data in chunks.items())
    path.write_bytes(b"RIFF" + (4 + len(body)).to_bytes(4, "little") + b"WAVE" + body)
    return path


class TestClip:
    FORMAT = bytes.fromhex("01000100401f0000803e000002001000")  # 8 kHz, 16 bits, one channel

    def test_only_its_sound_leaves_the_machine(self, run: Path, tmp_path: Path) -> None:
        sound = os.urandom(2 * 8000 * 8)
        extra = {"LIST": b"INFOIART\x0c\0\0\0Jane Doe\0\0\0\0", "id3 ": b"Studio 7"}
        voice = write_chunks(tmp_path / "jane.wav", **{"fmt ": self.FORMAT, **extra, "data": sound})
        folder = export_checkpoint(run / "checkpoint_1.pth", tmp_path / "mine", layout="auralis", voice=voice).path

        expected = write_chunks(tmp_path / "expected.wav", **{"fmt ": self.FORMAT, "data": sound}).read_bytes()
        assert (folder / "reference.wav").read_bytes() == expected

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"ID3\x04an mp3", "something else; convert it: ffmpeg -i voice.wav"),
            (b"RIFF\x04\0\0\0WAVE", "one without sound"),
            (b"", "something else"),
        ],
    )
    def test_what_is_no_recording_is_refused(
        self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, found: str
    ) -> None:
        voice = tmp_path / "voice.wav"
        voice.write_bytes(content)
        line = complaint(capsys, "export", run / "checkpoint_1.pth", "--layout", "auralis", "--voice", voice)

        assert line.startswith(f"xtts-export: {voice}: expected a WAV of a voice, found {found}")

    def test_a_recording_of_half_a_second_is_refused(self, run: Path, tmp_path: Path) -> None:
        voice = write_chunks(tmp_path / "v.wav", **{"fmt ": self.FORMAT, "data": bytes(8000)})
        with pytest.raises(ConfigError, match=r"found 0\.50 s of sound"):
            export_checkpoint(run / "checkpoint_1.pth", layout="auralis", voice=voice)

    def test_a_short_one_is_taken_and_said(self, run: Path, tmp_path: Path) -> None:
        voice = write_chunks(tmp_path / "v.wav", **{"fmt ": self.FORMAT, "data": bytes(32000)})
        (note,) = export_checkpoint(run / "checkpoint_1.pth", layout="auralis", voice=voice).notes

        assert note.startswith("the reference clip has 2.0 s")
