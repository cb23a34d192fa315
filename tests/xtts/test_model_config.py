"""The config of an inference folder: every field that inference reads, and no path and no secret in any form."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.files import TRAINER_CONFIG
from tests.models.small_decoder import TOKENS
from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import export_checkpoint
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.xtts.model_config import (
    ARGS_NUMBERS,
    ARGS_PATHS,
    AUDIO_NUMBERS,
    CONFIG_NUMBERS,
    clean_config,
    find_config,
)

MARK = "alice"
FORMS = [
    *("/home/alice/x", "/Users/alice", " /home/alice/x", "\n/home/alice", "//server/alice", "~/alice", "~alice/x"),
    *("$HOME/alice", "${HOME}/alice", "%USERPROFILE%\\alice", "../../home/alice/x", "./alice", "alice/voice.wav"),
    *("C:\\Users\\alice", "C:/Users/alice", "c:alice", "\\\\server\\alice", "\\\\?\\C:\\Users\\alice", "D:\\alice\\"),
    *(
        "file:///home/alice",
        "FILE:///home/alice/x",
        "file:alice",
        "smb://server/alice",
        "nfs://alice/x",
        "ssh://alice@h",
    ),
    *("https://alice:hunter2@host/x", "http://alice@host", "https://host/?token=alice", "s3://AKIA:alice@bucket/x"),
    *("gs://alice-bucket/x", "az://alice/x", "hdfs://alice/x", "hf://alice/x", "wandb://alice/x", "ftp://a:alice@h"),
    *("alice@host:/home/alice", "git@github.com:alice/x.git", "rsync://alice@host/x", "postgres://alice:pw@h/db"),
    *(
        "trained in /home/alice/xtts",
        "see C:\\Users\\alice for more",
        "'/home/alice/x'",
        '"/home/alice"',
        "(/home/alice)",
    ),
    *(
        "--data=/home/alice/x",
        "-o/home/alice",
        "path=/home/alice;x",
        "/home/alice:/opt",
        "a,/home/alice",
        "PATH=/alice",
    ),
    *(
        "hf_alice1234567890",
        "sk-alice1234567890abcdef",
        "ghp_alice1234567890",
        "AKIAalice1234567890",
        "Bearer alice.x.y",
    ),
    *("alice:hunter2", "password=alice", "eyJhbGciOi.alice.sig", "-----BEGIN PRIVATE KEY-----alice", "xoxb-alice-1"),
    *(
        "alice",
        "Alice's data, alice@example.org",
        "/home/alice/日本",
        "\u202e/home/alice",
        "/home/alice\0x",
        "en;alice",
    ),
]


def trainer_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads(TRAINER_CONFIG.read_text(encoding="utf-8"))
    return config


def planted(config: dict[str, Any], form: str) -> dict[str, Any]:
    """A config with a text in every field, as a key, in lists, in objects."""
    everywhere = {
        **dict.fromkeys((*config, *CONFIG_NUMBERS), form),
        "model": form,
        "languages": ["en", form, {"name": form}, "zh-cn", [form]],
        "audio": {**config["audio"], "stats_path": form, "sample_rate": form},
        "datasets": [{"path": form, "meta_file_train": form}],
        "test_sentences": [{"text": form, "speaker_wav": [form]}],
        "wandb_entity": form,
        "run_description": form,
        "custom": {form: {"nested": [form, {"deeper": form}], form: 1}},
        form: form,
        "a path": pathlib.PurePosixPath(form),
        "a windows path": pathlib.PureWindowsPath(form),
        "bytes": form.encode(),
        "a tuple": (form, {form}),
    }
    sizes = {key: value for key, value in config["model_args"].items() if key in ARGS_NUMBERS}
    texts = dict.fromkeys((*config["model_args"], *ARGS_PATHS, "mel_norm_file", "vocoder", "mine", form), form)
    return {**everywhere, "model_args": {**texts, **sizes, "num_chars": form}}


def voices(form: str) -> dict[str, Any]:
    latents = {"gpt_cond_latent": torch.rand(1, 4, 8), "speaker_embedding": torch.rand(1, 8, 1), "source": form}
    return {"Ana": latents, f"/{form}": dict(latents)}


def found_in(folder: Path) -> list[str]:
    """Files of a folder that hold the mark, in any of the encodings of text."""
    marks = [MARK.encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-16-be")]
    return [path.name for path in folder.rglob("*") if path.is_file() and any(m in path.read_bytes() for m in marks)]


@pytest.mark.parametrize("form", FORMS)
def test_no_path_and_no_secret_stays_in_an_export(tmp_path: Path, form: str) -> None:
    assert MARK in form
    state = small_state()
    losses = {"train_loss": 1.4, "eval_loss": form, form: form}
    state |= {"config": planted(state["config"], form), "date": form, "epoch": form, "model_loss": losses, form: form}
    checkpoint = tmp_path / "run" / "checkpoint_1000.pth"
    write_small(checkpoint, {**state, "config": {**state["config"], "model_args": dict(state["config"]["model_args"])}})
    torch.save(voices(form), checkpoint.with_name("speakers_xtts.pth"))
    for format_ in ("pth", "safetensors"):
        folder = export_checkpoint(checkpoint, tmp_path / format_, format=format_).path
        assert found_in(folder) == []
        assert (folder / "speakers_xtts.pth").is_file()
    assert main(["average", str(checkpoint), str(checkpoint), "--output", str(tmp_path / "mean")]) == 0
    assert found_in(tmp_path / "mean") == []


def test_every_field_that_inference_reads_keeps_its_value() -> None:
    config = trainer_config()
    cleaned = clean_config(config, TOKENS)
    for section, names in ((None, CONFIG_NUMBERS), ("model_args", ARGS_NUMBERS), ("audio", AUDIO_NUMBERS)):
        before = config[section] if section else config
        after = cleaned[section] if section else cleaned
        kept = {name: before[name] for name in names if name in before} | {"gpt_number_text_tokens": TOKENS}
        assert {name: after[name] for name in kept if name in after} == {
            name: value for name, value in kept.items() if name in before
        }
    assert cleaned["languages"] == config["languages"]
    assert cleaned["model_args"]["tokenizer_file"] == ""
    assert cleaned["model"] == "xtts"


@pytest.mark.parametrize("language", ["en", "zh-cn", "pt-BR", "zh_TW", "yue", "hi-Latn", "sr-Latn-RS"])
def test_languages_of_fine_tunes_stay(language: str) -> None:
    assert clean_config({"languages": [language]}, 0)["languages"] == [language]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "12", [1], {"a": 1}, b"12", (1,)])
def test_what_is_no_plain_number_is_left_to_its_default(value: object) -> None:
    cleaned = clean_config({"top_k": value, "model_args": {"gpt_layers": value}, "audio": {"sample_rate": value}}, 0)
    assert "top_k" not in cleaned
    assert "gpt_layers" not in cleaned["model_args"]
    assert cleaned["audio"] == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), children),
    max_leaves=8,
)
NAMES = st.sampled_from(sorted({*CONFIG_NUMBERS, "languages", "audio", "model_args", "model", "custom"}))


@given(st.dictionaries(NAMES | st.integers() | st.none(), JSON))
def test_whatever_a_config_holds_the_result_is_json_of_known_fields(config: dict[Any, Any]) -> None:
    cleaned = clean_config(config, 5)
    assert json.loads(json.dumps(cleaned, allow_nan=False)) == cleaned
    assert cleaned.keys() <= {*CONFIG_NUMBERS, "model", "languages", "audio", "model_args"}
    assert clean_config(cleaned, 5) == cleaned


def test_a_config_with_keys_of_several_types_makes_an_export_that_verify_finds_fine(tmp_path: Path) -> None:
    state = small_state()
    state["config"] |= {1: 2, "b": {3: 4, "c": 5}}
    folder = export_checkpoint(write_small(tmp_path / "checkpoint_1.pth", state)).path
    assert main(["verify", str(folder)]) == 0


def test_a_folder_of_an_earlier_version_with_keys_of_several_types_is_not_blamed(tmp_path: Path) -> None:
    """It has them as numbers in ``model.pth``, and as strings in ``config.json``."""
    folder = export_checkpoint(write_small(tmp_path / "checkpoint_1.pth")).path
    document = torch.load(folder / "model.pth", weights_only=True)
    document["config"] |= {1: 2, "nested": {3: [4.0, None], "c": float("nan")}}
    torch.save(document, folder / "model.pth")
    (folder / "config.json").write_text(json.dumps(document["config"]), encoding="utf-8")
    provenance = json.loads((folder / "export.json").read_bytes())
    provenance["files"] = {}
    (folder / "export.json").write_text(json.dumps(provenance), encoding="utf-8")
    assert main(["verify", str(folder)]) == 0


def test_a_tensor_in_the_config_is_left_out(tmp_path: Path) -> None:
    state = small_state()
    state["config"] |= {"w": torch.ones(2), "top_k": torch.tensor(5)}
    folder = export_checkpoint(write_small(tmp_path / "checkpoint_1.pth", state)).path
    with open_checkpoint(folder) as written:
        assert "top_k" not in find_config(written)


def test_a_config_json_that_coqui_cannot_read_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export_checkpoint(write_small(tmp_path / "checkpoint_1.pth")).path
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())
    assert main(["verify", str(folder)]) == 1
    assert "config.json: is not JSON (Unexpected UTF-8 BOM" in capsys.readouterr().out


@pytest.mark.integration
def test_the_list_of_fields_is_that_of_coqui() -> None:
    """A field that a new version has is either kept, or a path that is emptied or dropped."""
    from TTS.tts.configs.xtts_config import XttsArgs, XttsAudioConfig, XttsConfig

    own = {field.name for field in dataclasses.fields(XttsConfig)} & XttsConfig.__annotations__.keys()
    own.discard("model_dir")  # a path that coqui-tts has up to 0.27
    own.add("_supports_cloning")  # from 0.25 on, as is the last one
    assert own == {*CONFIG_NUMBERS, "languages", "model", "audio", "model_args"}
    assert {field.name for field in dataclasses.fields(XttsArgs)} == ARGS_NUMBERS | ARGS_PATHS
    assert {field.name for field in dataclasses.fields(XttsAudioConfig)} | {"dvae_sample_rate"} == AUDIO_NUMBERS


@pytest.mark.integration
def test_coqui_reads_the_same_settings_from_an_exported_config(tmp_path: Path) -> None:
    from TTS.config import load_config
    from TTS.tts.configs.xtts_config import XttsConfig

    config = trainer_config()
    changed = {name: value for name, value in config.items() if name in CONFIG_NUMBERS and type(value) in {int, float}}
    config |= {name: value + 1 for name, value in changed.items()} | {
        "sound_norm_refs": True,
        "languages": ["en", "vi"],
    }
    config["model_args"] |= {"gpt_n_heads": 8, "kv_cache": False, "duration_const": 5}
    config["audio"] |= {"output_sample_rate": 44100}
    (tmp_path / "trained.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(clean_config(config, 7)), encoding="utf-8")
    before, after = XttsConfig(), load_config(tmp_path / "config.json")
    before.load_json(tmp_path / "trained.json")
    assert isinstance(after, XttsConfig)
    for name in {*CONFIG_NUMBERS, "languages"} & {*before}:
        assert after[name] == before[name], name
    for name in ARGS_NUMBERS - {"gpt_number_text_tokens"}:
        assert after.model_args[name] == before.model_args[name], name
    for name in AUDIO_NUMBERS & {*before.audio}:
        assert after.audio[name] == before.audio[name], name
    assert after.model_args.gpt_number_text_tokens == 7
