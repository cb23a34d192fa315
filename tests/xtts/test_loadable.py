"""Whatever is called verified, Coqui loads; and what Coqui loads is not refused."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.generated import SPECIFICATION
from tests.models.small_decoder import ARGS, SMALL, TOKENS, WIDTH
from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import average_checkpoints, export_checkpoint, merge_checkpoints
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import CheckpointError, XttsExportError
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.training.worker import export as worker_export

State: TypeAlias = dict[str, Any]
WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "export": export_checkpoint,
    "average": lambda path, output: average_checkpoints([path, path], output),
    "merge": lambda path, output: merge_checkpoints(
        {"models": [{"path": str(path), "name": name} for name in "ab"]}, output
    ),
    "callback": lambda path, output: worker_export(
        source=str(path), known_as=str(path), target=str(output), stored={"dtype": "float32"}
    ),
}
LAYER = "xtts.gpt.gpt.h.0.attn.c_attn"
HEAD = "xtts.gpt.text_head.weight"


def lose(part: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        state["model"] = {name: tensor for name, tensor in state["model"].items() if part not in name}

    return change


def add(name: str, *shape: int) -> Callable[[State], None]:
    def change(state: State) -> None:
        state["model"][name] = torch.zeros(shape or (2, 2))

    return change


def configure(**args: Any) -> Callable[[State], None]:
    return lambda state: state["config"]["model_args"].update(args)


def adapt(state: State) -> None:
    """As PEFT leaves a layer that has an adapter."""
    state["model"][f"{LAYER}.base_layer.weight"] = state["model"].pop(f"{LAYER}.weight")
    state["model"][f"{LAYER}.lora_A.default.weight"] = torch.zeros(4, WIDTH)


def extend_embedding(state: State) -> None:
    name = "xtts.gpt.text_embedding.weight"
    state["model"][name] = torch.cat([state["model"][name], torch.ones(2, WIDTH)])


def average_beside(state: State) -> None:
    state["model"] |= {f"model_ema.{name}": tensor for name, tensor in state["model"].items() if "gpt" in name}


REFUSED: dict[str, tuple[Callable[[State], None], str]] = {
    "a part is missing": (lose("conditioning_perceiver"), r"gpt\.conditioning_perceiver\.latents is missing"),
    "a layer is missing": (
        lose("gpt.h.1."),
        r"gpt\.gpt\.h\.1\.ln_1\.weight is missing .*model_args\.gpt_layers is 2, its tensors have 1",
    ),
    "the head is not extended": (
        extend_embedding,
        r"gpt\.text_head\.weight is \[6, 8\], the config asks for \[8, 8\].*extend the text head",
    ),
    "an adapter": (adapt, r"base_layer\.weight is part of an adapter \(LoRA\).*merge the adapter into the model"),
    "a magnitude": (add(f"{LAYER}.lora_magnitude_vector.default.weight"), "part of an adapter"),
    "a wrapped model": (add("base_model.model.xtts.gpt.text_head.weight"), "part of an adapter"),
    "averaged weights": (average_beside, r"model_ema\.xtts\..*is part of a second set of weights \(EMA\)"),
    "shadow weights": (add("xtts.gpt.shadow_params.0"), "second set of weights"),
    "parts of DeepSpeed": (add("_forward_module.xtts.gpt.text_head.weight"), "DeepSpeed or FSDP"),
    "something unknown": (add("xtts.gpt.speed.weight"), r"gpt\.speed\.weight is not part of the model"),
    "the config of a wider model": (
        configure(gpt_n_model_channels=64),
        r"config belongs to another XTTS: model_args\.gpt_n_model_channels is 64, its tensors have 8.*--config",
    ),
    "the config of XTTS v1": (
        configure(gpt_use_perceiver_resampler=False),
        r"model_args\.gpt_use_perceiver_resampler is False, its tensors have True",
    ),
    "a config that describes nothing": (
        configure(gpt_layers="thirty"),
        r"the config belongs to another XTTS: model_args\.gpt_layers is 30, its tensors have 2",
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_xtts_loads_is_refused_by_name_and_nothing_is_written(tmp_path: Path, kind: str, writer: str) -> None:
    change, message = REFUSED[kind]
    state = small_state()
    change(state)
    tokens = state["model"].get("xtts.gpt.text_embedding.weight", torch.ones(TOKENS, 1)).shape[0]
    path = write_small(tmp_path / "run" / "checkpoint_1000.pth", state, tokens=tokens)
    with pytest.raises(CheckpointError, match=message) as caught:
        WRITERS[writer](path, tmp_path / "output")
    assert str(path) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_wrong_config_on_the_command_line_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = small_state()
    path = write_small(tmp_path / "run" / "checkpoint_1000.pth", state)
    args = {**state["config"]["model_args"], "gpt_num_audio_tokens": 1026}
    (tmp_path / "other.json").write_text(json.dumps({"model_args": args}), encoding="utf-8")
    assert main(["export", str(path), "--config", str(tmp_path / "other.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model_args.gpt_num_audio_tokens is 1026, its tensors have 7" in line
    assert not (path.parent / "inference").exists()


LEFTOVERS = ["optimizer.state.0.exp_avg", "discriminator.convs.0.weight", "mpd.convs.0.bias", "scheduler.last_lr"]


@pytest.mark.parametrize("name", LEFTOVERS)
def test_leftovers_of_a_training_beside_a_complete_model_are_dropped_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    state = small_state()
    add(name)(state)
    path = write_small(tmp_path / "checkpoint_1000.pth", state)
    assert main(["export", str(path)]) == 0
    component = name.partition(".")[0]
    assert f"dropped leftovers of a training: {component} (1 tensors)" in capsys.readouterr().out
    provenance = read_provenance(tmp_path / "inference" / "checkpoint_1000")
    assert provenance is not None
    assert provenance["dropped"][component] == {"tensors": 1, "bytes": 16}


@pytest.fixture(scope="module")
def coqui_loads() -> Iterator[Callable[[Path], bool]]:
    """Whether the real ``Xtts`` loads a folder strictly, with the decoder made as small as that of the tests."""
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.layers.xtts import hifigan_decoder
    from TTS.tts.models.xtts import Xtts

    generator, encoder = hifigan_decoder.HifiganGenerator, hifigan_decoder.ResNetSpeakerEncoder
    make_encoder = encoder.__init__

    def small_generator(*arguments: Any, **options: Any) -> Any:
        before, after = arguments[:6], arguments[7:]
        return generator(*before, SMALL["_UP_CHANNELS"], *after, **options)

    def make_small_encoder(self: Any, **options: Any) -> None:
        small = {"num_filters": list(SMALL["_SPEAKER_FILTERS"]), "proj_dim": SMALL["_SPEAKER_WIDTH"]}
        make_encoder(self, **{**options, **small})

    def loads(folder: Path) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                config = XttsConfig()
                config.load_json(folder / "config.json")
                Xtts(config).load_checkpoint(config, checkpoint_dir=folder, eval=True, strict=True)
            except Exception:
                return False
            return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hifigan_decoder, "HifiganGenerator", small_generator)
        patch.setattr(encoder, "__init__", make_small_encoder)
        yield loads


_FIELDS = (
    *("gpt_layers", "gpt_n_model_channels", "gpt_n_heads", "gpt_max_audio_tokens", "gpt_max_text_tokens"),
    *("gpt_num_audio_tokens", "gpt_use_perceiver_resampler", "decoder_input_dim", "d_vector_dim"),
    *("cond_d_vector_in_each_upsampling_layer", "gpt_number_text_tokens", "gpt_code_stride_len", "temperature"),
)
_VALUES = (0, 1, 2, 3, 4, 8, 16, -1, 1024, None, True, False, "8", 8.0, 2.5, [], {})
_DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool)
_STRANGE = (
    *("dvae.extra", "torch_mel_spectrogram_dvae.more", "xtts.gpt.gpt_inference.transformer.h.0.ln_1.weight"),
    *("xtts.gpt.gpt.wte.weight", "optimizer.state", "discriminator.0", "xtts.gpt.extra", "ema.gpt.text_head.weight"),
    *(f"{LAYER}.lora_A.default.weight", "xtts.dvae.more", "xtts.mel_stats.weight", "hifigan_decoder.extra"),
)


def damage(state: State, chance: random.Random) -> str:
    """Change one thing of a checkpoint; what has been done, in words."""
    model, names = state["model"], [name for name in state["model"] if name.startswith("xtts.")]
    name = chance.choice(names)
    if chance.random() < 0.3:
        name = chance.choice([one for one in names if one.endswith("num_batches_tracked")])
    tensor = model[name]
    kind = chance.choice(["lose", "lose part", "reshape", "dtype", "extra", "config", "config", "prefix", "extend"])
    if kind == "lose":
        del model[name]
    elif kind == "lose part":
        part = ".".join(name.split(".")[: chance.randint(2, 5)])
        state["model"] = {one: value for one, value in model.items() if not one.startswith(part)}
    elif kind == "reshape":
        shapes = [(*tensor.shape, 1), tensor.shape[1:], (1, *tensor.shape), (tensor.numel(),), (2,), ()]
        model[name] = torch.ones(chance.choice(shapes))
    elif kind == "dtype":
        model[name] = tensor.to(chance.choice(_DTYPES))
    elif kind == "extra":
        name = chance.choice(_STRANGE)
        model[name] = torch.ones(2)
    elif kind == "config":
        field, value = chance.choice(_FIELDS), chance.choice(_VALUES)
        value = 1 if (field, value) == ("gpt_n_heads", -1) else value  # loads, but cannot speak
        state["config"]["model_args"][field] = value
        return f"{field} = {value!r}"
    elif kind == "prefix":
        prefix = chance.choice(["", "module.", "module.xtts.", "_orig_mod.xtts."])
        state["model"] = {prefix + one.removeprefix("xtts."): value for one, value in model.items()}
        return f"prefix {prefix!r}"
    else:
        rows = chance.choice([TOKENS + 1, TOKENS - 1])
        for one in ("embedding.weight", "head.weight", "head.bias")[: chance.choice([1, 3])]:
            shape = model[f"xtts.gpt.text_{one}"].shape[1:]
            model[f"xtts.gpt.text_{one}"] = torch.ones(rows, *shape)
        return f"{rows} rows"
    return f"{kind} {name}"


def agree(folder: Path, seed: int, loads: Callable[[Path], bool]) -> tuple[bool, bool, str]:
    """Whether what a writer says of a damaged checkpoint is what Coqui says of what would have been written."""
    chance = random.Random(seed)
    state = small_state()
    done = damage(state, chance)
    embeddings = [tensor for name, tensor in state["model"].items() if name.endswith("gpt.text_embedding.weight")]
    rows = embeddings[0].shape[0] if embeddings and embeddings[0].dim() else TOKENS
    path = write_small(folder / "run" / "checkpoint_1000.pth", state, tokens=max(2, rows))
    writer = chance.choice(list(WRITERS))
    try:
        WRITERS[writer](path, folder / "output")
        said = True
        loaded = loads(folder / "output")
    except XttsExportError as error:
        said, done = False, f"{done}: {error}"
        plain = folder / "plain"
        plain.mkdir()
        torch.save({"model": state["model"], "config": state["config"]}, plain / "model.pth")
        shutil.copy(path.parent / "vocab.json", plain)
        (plain / "config.json").write_text(json.dumps(state["config"]), encoding="utf-8")
        loaded = loads(plain)
    return said, loaded, f"seed {seed}, {writer}, {done}"


@pytest.mark.integration
@given(st.integers(0, 10**6))
@settings(SPECIFICATION, max_examples=12)
def test_what_is_called_verified_is_what_coqui_loads(
    tmp_path_factory: pytest.TempPathFactory, coqui_loads: Callable[[Path], bool], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("case")
    verified, loaded, case = agree(folder, seed, coqui_loads)
    assert verified == loaded, case


@pytest.mark.integration
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("perceiver", [True, False], ids=["v2", "v1"])
def test_whole_models_of_every_kind_are_exported_and_loaded(
    tmp_path: Path, coqui_loads: Callable[[Path], bool], perceiver: bool, layers: int, dtype: str
) -> None:
    args = {**ARGS, "gpt_use_perceiver_resampler": perceiver, "gpt_layers": layers}
    path = write_small(tmp_path / "checkpoint_1000.pth", small_state(args=args))
    assert coqui_loads(export_checkpoint(path, dtype=dtype).path)
