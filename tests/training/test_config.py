"""The config flag: what it takes, what it refuses, and its way through JSON and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.training.config import DTYPES, STATES, ExportConfig

SAFE_FOLDERS = st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True).filter(
    lambda name: not name.startswith(("checkpoint", "best_model", "con", "prn", "aux", "nul", "com", "lpt"))
)
VALID_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.booleans(),
        "folder": SAFE_FOLDERS,
        "dtype": st.sampled_from(DTYPES),
        "precision": st.sampled_from(["", "decoder=float32", "gpt.gpt.h.*.attn.**=int8  gpt=float16"]),
        "format": st.sampled_from(["pth", "safetensors"]),
        "keep_last": st.integers(0, 1000),
        "export_best": st.booleans(),
        "average_last": st.just(0) | st.integers(2, 1000),
        "checkpoint_state": st.sampled_from(STATES),
        "best_model_state": st.sampled_from(STATES),
        "keep_optimizer_for": st.integers(0, 1000),
        "link_best_model": st.booleans(),
        "max_disk_gb": st.floats(0, 1e6),
        "save_on_terminate": st.booleans(),
    },
)
REFUSED = [
    ("enabled", 1, "true, false"),
    ("enabled", "true", "true, false"),
    ("enabled", None, "true, false"),
    ("export_best", "no", "true, false"),
    ("dtype", "int4", "float32, float16, bfloat16, int8"),
    ("dtype", "FLOAT16", "float32, float16, bfloat16, int8"),
    ("dtype", 16, "float32, float16, bfloat16, int8"),
    *(
        ("precision", value, "PATTERN=TYPE, separated by spaces, with types of float32, float16, bfloat16, int8")
        for value in ("gpt", "gpt=int4", "=int8", "gpt = int8", "gpt=int8 gpt=float16", None, ["gpt=int8"])
    ),
    ("format", "onnx", "pth, safetensors"),
    ("format", ".pth", "pth, safetensors"),
    ("keep_last", -1, "a whole number, 0 or more"),
    ("keep_last", True, "a whole number, 0 or more"),
    ("keep_last", "5", "a whole number, 0 or more"),
    ("keep_last", 2.5, "a whole number, 0 or more"),
    ("average_last", -3, "0 for off, or a whole number of checkpoints, 2 or more"),
    ("average_last", None, "0 for off"),
    ("checkpoint_state", "slim", "full, weights"),
    ("best_model_state", True, "full, weights"),
    ("keep_optimizer_for", -1, "a whole number, 0 or more"),
    ("link_best_model", 1, "true, false"),
    ("max_disk_gb", -0.5, "a number of gigabytes, 0 or more"),
    ("max_disk_gb", float("nan"), "a number of gigabytes, 0 or more"),
    ("max_disk_gb", True, "a number of gigabytes, 0 or more"),
    ("max_disk_gb", "20", "a number of gigabytes, 0 or more"),
    *(
        ("folder", name, "the name of one folder")
        for name in (
            *("", ".", "..", "a/b", "a\\b", "/abs", "C:\\abs", "C:", "../up", "a/", " padded", "dot.", "what?", "a\nb"),
            *("checkpoint", "checkpoint_1", "checkpoints", "best_model", "best_model_exports", "slim.pth", 5, None),
        )
    ),
]


def test_the_flag_is_off_by_default() -> None:
    assert ExportConfig().to_dict() == {
        "enabled": False,
        "folder": "inference",
        "dtype": "float32",
        "precision": "",
        "format": "pth",
        "keep_last": 0,
        "export_best": True,
        "average_last": 0,
        "recommend": False,
        "checkpoint_state": "full",
        "best_model_state": "full",
        "keep_optimizer_for": 0,
        "link_best_model": False,
        "max_disk_gb": 0.0,
        "running_mean": "off",
        "running_mean_every": 10,
        "running_mean_half_life": 1000,
        "evaluate_running_mean": False,
        "layout": "",
        "voice": "",
        "save_on_terminate": False,
    }


@given(options=VALID_OPTIONS)
def test_valid_options_survive_json(options: dict[str, Any]) -> None:
    config = ExportConfig(**options)
    assert ExportConfig.new_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert {name: config[name] for name in options} == options


@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda options: ExportConfig(**options), id="python"),
        pytest.param(ExportConfig.new_from_dict, id="new_from_dict"),
        pytest.param(lambda options: ExportConfig().from_dict(options), id="from_dict"),
    ],
)
def test_a_bad_value_is_refused_with_the_allowed_ones(
    make: Callable[[dict[str, Any]], Any], name: str, value: Any, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make({name: value})
    assert f"export.{name} is {value!r}, allowed: {allowed}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_option_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"export\.keep_lst is not an option \(did you mean keep_last\?\)"):
        ExportConfig.new_from_dict({"keep_lst": 3})


@pytest.mark.parametrize("options", [True, None, "on", ["enabled"]])
def test_options_that_are_no_object_are_refused(options: Any) -> None:
    with pytest.raises(ConfigError, match=r"export is .*, expected an object with any of: enabled, folder"):
        ExportConfig.new_from_dict(options)


def test_a_refused_update_changes_nothing() -> None:
    config = ExportConfig(keep_last=2)
    with pytest.raises(ConfigError):
        config.from_dict({"enabled": True, "keep_last": -1})
    assert config == ExportConfig(keep_last=2)


def test_every_option_has_a_help_text() -> None:
    from dataclasses import fields

    assert all(field.metadata["help"] for field in fields(ExportConfig))


@pytest.mark.integration
class TestInTheTrainerConfig:
    """The field ``export`` of ``XttsExportTrainerConfig``, handled by Coqpit and the Trainer as they are."""

    @pytest.fixture
    def config(self, tiny_config: Callable[..., Any]) -> Any:
        return tiny_config()

    def test_config_json_round_trips(self, config: Any, tmp_path: Path) -> None:
        config.export = ExportConfig(enabled=True, dtype="bfloat16", keep_last=3, average_last=2)
        config.save_json(tmp_path / "config.json")
        loaded = type(config)()
        loaded.load_json(tmp_path / "config.json")
        assert loaded.export == config.export
        assert loaded.to_dict() == config.to_dict()

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["--coqpit.export.enabled", "true"], {"enabled": True}),
            (["--coqpit.export.export_best=false"], {"export_best": False}),
            (
                ["--coqpit.export.dtype", "float16", "--coqpit.export.keep_last", "4"],
                {"dtype": "float16", "keep_last": 4},
            ),
            (
                ["--coqpit.export.folder", "voices", "--coqpit.export.average_last=5"],
                {"folder": "voices", "average_last": 5},
            ),
            (
                ["--coqpit.export.checkpoint_state", "weights", "--coqpit.export.max_disk_gb", "7.5"],
                {"checkpoint_state": "weights", "max_disk_gb": 7.5},
            ),
            (["--coqpit.export.max_disk_gb", "20"], {"max_disk_gb": 20}),
            (["--coqpit.export.link_best_model=true"], {"link_best_model": True}),
            (
                ["--coqpit.export.precision=gpt=int8 decoder=float32", "--coqpit.export.format=safetensors"],
                {"precision": "gpt=int8 decoder=float32", "format": "safetensors"},
            ),
        ],
    )
    def test_the_command_line_sets_options(self, config: Any, arguments: list[str], expected: dict[str, Any]) -> None:
        from trainer import Trainer, TrainerArgs

        Trainer.init_training(TrainerArgs(), arguments, config)
        assert config.export == ExportConfig(**expected)

    def test_the_command_line_leaves_all_other_fields_as_they_are(self, config: Any) -> None:
        from trainer import Trainer, TrainerArgs

        before = config.to_dict()
        Trainer.init_training(TrainerArgs(), ["--coqpit.export.enabled", "true"], config)
        after = config.to_dict()
        assert after.pop("export")["enabled"]
        del before["export"]
        # Coqpit's own parser turns an empty dictionary, and zero where a list may stand, into None.
        assert {name: value or None for name, value in after.items()} == {
            name: value or None for name, value in before.items()
        }

    @pytest.mark.parametrize(
        "arguments",
        [["--coqpit.export.dtype", "int4"], ["--coqpit.export.keep_last=-1"], ["--coqpit.export.folder", ".."]],
    )
    def test_a_bad_value_on_the_command_line_is_refused(self, config: Any, arguments: list[str]) -> None:
        from trainer import Trainer, TrainerArgs

        with pytest.raises(ConfigError, match="allowed"):
            Trainer.init_training(TrainerArgs(), arguments, config)

    @pytest.mark.parametrize("export", [{"keep_last": "three"}, {"keep_lst": 3}, {"dtype": "int4"}, None, True])
    def test_bad_options_in_json_are_refused_where_coqpit_would_take_defaults(
        self, config: Any, tmp_path: Path, export: Any
    ) -> None:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**config.to_dict(), "export": export}), encoding="utf-8")
        with pytest.raises(ConfigError, match="export"):
            type(config)().load_json(path)

    def test_a_plain_dictionary_from_python_becomes_the_options(self, tiny_config: Callable[..., Any]) -> None:
        assert tiny_config(export={"enabled": True}).export == ExportConfig(enabled=True)

    def test_the_config_of_coqui_still_reads_the_json(self, config: Any, tmp_path: Path) -> None:
        from TTS.config import load_config

        config.export.enabled = True
        config.save_json(tmp_path / "config.json")
        assert load_config(tmp_path / "config.json").model_args.gpt_layers == config.model_args.gpt_layers
