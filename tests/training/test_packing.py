"""What a training leaves for another program when it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.models.programs import ACCEPTS
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.training.config import ExportConfig


def write_speakers(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    latents = {"gpt_cond_latent": torch.ones(1, 4, 8), "speaker_embedding": torch.ones(1, 4, 1)}
    torch.save({"Ana Florence": latents}, output / "speakers_xtts.pth")


@pytest.mark.integration
def test_newest_best_and_average_are_packed_beside_the_plain_folders(
    light: Callable[..., Path], tmp_path: Path, log: list[str]
) -> None:
    write_speakers(tmp_path / "out0")
    run = light({"enabled": True, "layout": "alltalk", "average_last": 2}, save_best_after=0)
    exports = run / "inference"
    packed = sorted(path.name for path in exports.glob("*-alltalk"))
    best = next(path.stem for path in run.glob("best_model_*.pth"))

    assert packed == ["average_last_2-alltalk", f"{best}-alltalk", "checkpoint_6-alltalk"]
    assert all(ACCEPTS["alltalk"](exports / name) for name in packed)
    assert {"average_last_2", best, "checkpoint_4", "checkpoint_6"} <= {path.name for path in exports.iterdir()}
    provenance = read_provenance(exports / "average_last_2-alltalk")
    assert provenance is not None
    assert [source["step"] for source in provenance["sources"]] == [4, 6]
    assert sum(line.startswith(" > EXPORT : packed ") for line in log) == 3


@pytest.mark.integration
def test_a_missing_file_is_a_line_in_the_log_and_the_plain_folders_stay(
    light: Callable[..., Path], log: list[str]
) -> None:
    run = light({"enabled": True, "layout": "realtimetts", "export_best": False})

    assert (run / "inference" / "checkpoint_6" / "model.pth").is_file()
    assert list((run / "inference").glob("*-realtimetts")) == []
    (line,) = [line for line in log if "was not packed" in line]
    assert "speakers_xtts.pth: RealtimeTTS needs it" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "alltalks"}, "export.layout is 'alltalks', allowed: alltalk, auralis"),
        ({"layout": "ebook2audiobook"}, "needs a recording of the voice: set export.voice to a WAV"),
        ({"layout": "alltalk", "dtype": "int8"}, "export.dtype is 'int8', which AllTalk"),
        ({"layout": "alltalk", "precision": "gpt=int8"}, "export.precision is 'gpt=int8', which AllTalk"),
        ({"voice": 3}, "export.voice is 3, allowed: the path of a WAV"),
    ],
)
def test_what_cannot_be_packed_is_refused_at_the_start(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportConfig(**options).check_values()
