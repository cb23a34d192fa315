"""The model card: valid for the Hub, and true to what the folder records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models.hub_server import faults_of_card
from tests.models.small_xtts import write_small
from xtts_export_callback import average_checkpoints, export_checkpoint, merge_checkpoints
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.results import Candidate, Data, Evaluation, Loss
from xtts_export_callback.hub.card import is_as_written
from xtts_export_callback.hub.push import plan_push

REPO = "anna/my-voice"


def card_of(folder: Path, **options: Any) -> str:
    return plan_push(folder, REPO, **options).card


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (1000, 2000):
        write_small(tmp_path / "run" / f"checkpoint_{step}.pth")
    return tmp_path / "run"


def written(kind: str, run: Path, output: Path) -> Path:
    """Write a folder of each kind."""
    sources = [run / "checkpoint_1000.pth", run / "checkpoint_2000.pth"]
    if kind == "average":
        return average_checkpoints(sources, output).path
    if kind == "merge":
        return merge_checkpoints({"models": [str(path) for path in sources], "method": "slerp"}, output).path
    options: dict[str, dict[str, Any]] = {
        "int8": {"dtype": "int8"},
        "safetensors": {"format": "safetensors"},
        "auralis": {"layout": "auralis"},
        "xtts-webui": {"layout": "xtts-webui"},
    }
    return export_checkpoint(sources[0], output, **options.get(kind, {})).path


KINDS = ["export", "average", "merge", "int8", "safetensors", "auralis", "xtts-webui"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_is_valid_for_the_hub(run: Path, tmp_path: Path, kind: str) -> None:
    from huggingface_hub import ModelCard, ModelCardData

    card = card_of(written(kind, run, tmp_path / "out"))
    data = ModelCard(card).data

    assert faults_of_card(card) == []
    assert isinstance(data, ModelCardData)
    assert data.license == "other"
    assert data.license_name == "coqui-public-model-license"  # type: ignore[attr-defined]
    assert (data.library_name, data.pipeline_tag) == ("coqui", "text-to-speech")
    assert data.base_model == ["coqui/XTTS-v2"]
    assert is_as_written(card)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("export", "tts = TTS(model_path=folder"),
        ("int8", "load_xtts(snapshot_download("),
        ("safetensors", "load_xtts(snapshot_download("),
        ("auralis", 'gpt_model="my-voice/gpt"'),
        ("xtts-webui", "xtts-webui: put my-voice into models/"),
    ],
)
def test_it_says_how_to_load_what_is_there(run: Path, tmp_path: Path, kind: str, text: str) -> None:
    assert text in card_of(written(kind, run, tmp_path / "out"))


def test_it_says_where_the_weights_come_from(run: Path, tmp_path: Path) -> None:
    card = card_of(written("average", run, tmp_path / "out"))

    assert "| source | step | epoch | training loss | evaluation loss | weight |" in card
    assert "| checkpoint\\_1000.pth | 1000 | 2 | 1.4 | 1.5 | 0.5 |" in card
    assert "The mean of checkpoints of a fine-tune of [coqui/XTTS-v2]" in card


def test_a_merge_has_its_recipe_and_the_models_that_are_named(run: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    card = card_of(written("merge", run, tmp_path / "out"), base_models=["a/b", "c/d"])

    assert ModelCard(card).data.to_dict()["base_model"] == ["a/b", "c/d"]
    assert ModelCard(card).data.to_dict()["base_model_relation"] == "merge"
    assert "- every tensor: slerp" in card


def test_it_names_the_data_sets_of_the_run(run: Path) -> None:
    config = {"datasets": [{"dataset_name": "my_reader", "path": "/x"}, {"dataset_name": "/home/x"}, {}]}
    (run / "config.json").write_text(json.dumps(config), "utf-8")

    assert "| Data set | my\\_reader |" in card_of(export_checkpoint(run / "checkpoint_1000.pth").path)


class TestEvaluation:
    def evaluate(self, folder: Path, output: Path, *, dataset: str = "my_reader") -> None:
        weights = json.loads((folder / "export.json").read_bytes())["files"]["model.pth"]["fingerprint"]
        loss = Loss(1.25, 1.2, 1.3)
        candidates = [Candidate("best", "export", fingerprint=weights, loss=loss), Candidate("other", "export")]
        Evaluation(candidates, verdict="best is the best of 2.", data=Data(dataset, 20)).write(output)

    def test_its_table_is_in_the_card_of_a_model_that_it_has_measured(self, run: Path) -> None:
        folder = export_checkpoint(run / "checkpoint_1000.pth").path
        self.evaluate(folder, run / "evaluation")
        card = card_of(folder)

        assert "| **best, this model** | 1.2500 (1.2000 to 1.3000) |" in card
        assert "best is the best of 2." in card
        assert "Loss on 20 clips of my\\_reader." in card

    def test_one_of_other_models_is_left_out_and_refused_when_named(self, run: Path) -> None:
        folder = export_checkpoint(run / "checkpoint_1000.pth").path
        other = export_checkpoint(run / "checkpoint_2000.pth").path
        self.evaluate(other, run / "evaluation")

        assert "## Evaluation" not in card_of(folder)
        with pytest.raises(ConfigError, match="has no candidate with the weights of"):
            card_of(folder, evaluation=run / "evaluation")

    def test_a_path_in_it_is_not_sent(self, run: Path) -> None:
        folder = export_checkpoint(run / "checkpoint_1000.pth").path
        self.evaluate(folder, run / "evaluation", dataset="/data/reader")

        with pytest.raises(ConfigError, match=r"README\.md holds a path"):
            card_of(folder)


def test_markup_in_a_name_stays_text(run: Path, tmp_path: Path) -> None:
    folder = export_checkpoint(run / "checkpoint_1000.pth").path
    described = json.loads((folder / "export.json").read_bytes())
    assert described["sources"][0]["name"] == "checkpoint_1000.pth"
    named = write_small(tmp_path / "a|b<script>[x](y)_1.pth")

    card = card_of(export_checkpoint(named, tmp_path / "out").path)
    assert "a\\|b\\<script\\>\\[x\\](y)\\_1.pth" in card


def test_the_license_of_the_base_model_comes_along(run: Path) -> None:
    (run / "LICENSE.txt").write_text("Coqui Public Model License 1.0.0\n...", "utf-8")
    push = plan_push(export_checkpoint(run / "checkpoint_1000.pth").path, REPO)

    assert "LICENSE.txt" in push.files


def test_the_license_of_something_else_does_not(run: Path) -> None:
    (run / "LICENSE.txt").write_text("MIT License\n...", "utf-8")

    assert not (export_checkpoint(run / "checkpoint_1000.pth").path / "LICENSE.txt").exists()
