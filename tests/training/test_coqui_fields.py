"""The fields of Coqui's configs as their source has them, so that a typing error needs no import to be named."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from xtts_export_callback.training.coqui_fields import fields_of, unknown_fields, unknown_options

TRAINER, SHARED = "TTS.tts.layers.xtts.trainer.gpt_trainer", "TTS.config.shared_configs"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("module", "name"),
    [(TRAINER, "GPTTrainerConfig"), (TRAINER, "GPTArgs"), ("TTS.config.shared_configs", "BaseDatasetConfig")],
)
def test_they_are_those_of_the_class(module: str, name: str) -> None:
    import importlib

    found = fields_of(module, name)
    assert found is not None
    assert set(found) == {field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name))}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"epocs": 3}, r"epocs is not a field of RecipeConfig \(did you mean epochs\?\)"),
        (
            {"model_args": {"gpt_layer": 3}},
            r"model_args\.gpt_layer is not .* GPTArgs \(did you mean gpt_layers\?\)",
        ),
        (
            {"datasets": [{}, {"pth": "x"}]},
            r"datasets\.1\.pth is not .* BaseDatasetConfig \(did you mean path\?\)",
        ),
        ({"epocs": 3, "batchsize": 3}, r"epocs is not .*; batchsize is not .*\(did you mean batch_size\?\)"),
    ],
)
def test_an_unknown_field_is_named_with_the_one_that_was_meant(raw: dict[str, object], expected: str) -> None:
    assert re.fullmatch(f".*{expected}.*", "; ".join(unknown_fields(raw)))


@pytest.mark.parametrize(
    "raw", [{"epochs": 3, "export": {}, "trainer_args": {}}, {"model_args": None, "datasets": "x"}]
)
def test_fields_that_are_there_and_values_of_another_kind_are_left_alone(raw: dict[str, object]) -> None:
    assert unknown_fields(raw) == []


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("--coqpit.bacth_size", "--coqpit.batch_size"),
        ("--coqpit.datasets.0.pth", "--coqpit.datasets.0.path"),
        ("--coqpit.export.keep_lats=3", "--coqpit.export.keep_last"),
        ("--coqpit.trainer_args.grad_acum_steps", "--coqpit.trainer_args.grad_accum_steps"),
        ("--use_dpd", "--use_ddp"),
        ("--outptu", "--output"),
    ],
)
def test_a_mistyped_option_of_the_command_line_is_named_with_the_one_that_was_meant(mistyped: str, meant: str) -> None:
    (problem,) = unknown_options([mistyped, "--coqpit.lr", "0.1", "--rank", "0"])
    assert problem == f"{mistyped.partition('=')[0]}: no such option or field (did you mean {meant}?)"


@pytest.mark.parametrize("option", ["--coqpit.audio.sample_rate", "--coqpit.languages.0", "--coqpit.batch_s", "-x"])
def test_an_option_that_is_there_or_that_the_source_does_not_tell_is_left_alone(option: str) -> None:
    assert unknown_options([option, "1"]) == []


def test_what_cannot_be_read_is_left_to_the_classes() -> None:
    assert fields_of("no.such.module", "Config") is None
    assert fields_of("xtts_export_callback.training.coqui_fields", "NoSuchClass") is None


def test_a_typing_error_is_named_before_torch_and_coqui_are_imported(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"epocs": 1}', encoding="utf-8")
    code = (
        "import sys; from xtts_export_callback.cli.main import main; code = main(['train', sys.argv[1]]);"
        "print(code, *sorted({'torch', 'TTS', 'trainer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2"]
    assert "did you mean epochs?" in done.stderr
