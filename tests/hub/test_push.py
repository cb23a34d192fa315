"""What a push sends, what it refuses to send, and how it goes on after an interruption."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub.conftest import HOST, SECRET, TOKEN, USER, Push, Start, interrupt, write_speakers
from tests.models.hub_server import Hub
from tests.models.small_xtts import small_state, write_small
from tests.xtts.test_model_config import planted
from xtts_export_callback import export_checkpoint
from xtts_export_callback.demo.speech_samples import write_wav
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.hub.card import is_as_written
from xtts_export_callback.hub.push import plan_push

REPO = "anna/my-voice"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(push: Push, hub: Hub, *arguments: object) -> str:
    """The one line of a push that sends nothing."""
    done = push(*arguments)
    assert (done.returncode, hub.repos) == (2, {})
    (line,) = done.stderr.splitlines()
    return line


def test_everything_arrives_in_one_commit_in_a_private_repository(folder: Path, hub: Hub, push: Push) -> None:
    done = push(folder, REPO)

    assert (done.returncode, done.stderr) == (0, "")
    repo = hub.repos[REPO]
    assert (repo["private"], repo["commits"]) == (True, 1)
    assert repo["files"].keys() == {path.name for path in folder.iterdir()} | {"README.md"}
    assert all(repo["files"][path.name] == path.read_bytes() for path in folder.iterdir())
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{REPO} (private): 6 files, ")
    assert lines[-1] == f"{hub.address}/{REPO}/commit/{1:040}"


def test_public_is_said_and_made_when_asked(folder: Path, hub: Hub, push: Push) -> None:
    done = push(folder, REPO, "--public")

    assert done.stdout.startswith(f"{REPO} (public): ")
    assert hub.repos[REPO]["private"] is False


def test_a_repository_that_is_private_stays_so(folder: Path, hub: Hub, push: Push) -> None:
    hub.repos[REPO] = {"private": True, "files": {}, "commits": 0}
    done = push(folder, REPO, "--public")

    assert f"{REPO} stays private: make it public in its settings" in done.stdout


def test_a_public_repository_is_not_pushed_to_unasked(folder: Path, hub: Hub, push: Push) -> None:
    hub.repos[REPO] = {"private": False, "files": {}, "commits": 0}
    done = push(folder, REPO)

    assert (done.returncode, hub.repos[REPO]["files"]) == (2, {})
    assert "is public, so that everybody would see the model; add --public" in done.stderr


def test_a_dry_run_prints_files_and_card_and_sends_nothing(folder: Path, hub: Hub, push: Push) -> None:
    done = push(folder, REPO, "--dry-run")

    assert (done.returncode, hub.sent) == (0, [])
    assert "  model.pth: " in done.stdout
    assert "license_name: coqui-public-model-license" in done.stdout


def test_json_is_all_of_stdout(folder: Path, hub: Hub, push: Push) -> None:
    done = push(folder, REPO, "--json")
    value = json.loads(done.stdout)

    assert (value["repo"], value["private"], value["voices"], value["left_out"]) == (REPO, True, [], [])
    assert value["url"].startswith(f"{hub.address}/{REPO}/commit/")
    assert {each["path"]: each["bytes"] for each in value["files"]} == {
        name: len(content) for name, content in hub.repos[REPO]["files"].items()
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_what_has_arrived_before_an_interruption_is_not_sent_again(
    folder: Path, hub: Hub, start: Start, push: Push, number: signal.Signals
) -> None:
    hub.hold = sha256(folder / "model.pth")
    process = start(folder, REPO)
    assert hub.held.wait(60)
    code, complaints = interrupt(process, number)
    assert code == (130 if number == signal.SIGINT else -number)
    assert hub.repos[REPO]["files"] == {}  # never half a model
    if number == signal.SIGINT:
        assert complaints.splitlines()[-1].startswith("xtts-export: interrupted")

    hub.hold = ""
    assert push(folder, REPO).returncode == 0
    assert hub.puts == [sha256(folder / "speakers_xtts.pth"), sha256(folder / "model.pth")]
    assert hub.repos[REPO]["files"]["model.pth"] == (folder / "model.pth").read_bytes()


def test_a_second_push_sends_no_large_file_again(folder: Path, hub: Hub, push: Push) -> None:
    for _ in range(2):
        assert push(folder, REPO).returncode == 0

    assert len(hub.puts) == len(set(hub.puts)) == 2


class TestPrivateThings:
    def test_nothing_planted_is_among_what_is_sent(self, tmp_path: Path, hub: Hub, push: Push) -> None:
        marks = [SECRET, TOKEN, USER, HOST, str(tmp_path), "planted"]
        form = f"/home/{USER}/planted/{TOKEN}"
        state = small_state()
        sizes = dict(state["config"]["model_args"])
        state |= {"config": {**planted(state["config"], form), "model_args": sizes}, "date": form, form: form}
        checkpoint = write_small(tmp_path / "run" / "checkpoint_1000.pth", state)
        write_speakers(checkpoint.with_name("speakers_xtts.pth"), "Ana Florence", form)
        (checkpoint.parent / "config.json").write_text(json.dumps({"datasets": [{"dataset_name": form}]}), "utf-8")
        folder = export_checkpoint(checkpoint).path
        (folder / "notes.txt").write_text(form, "utf-8")
        done = push(folder, REPO)

        assert done.returncode == 0, done.stderr
        assert "notes.txt: stays here" in done.stdout
        received = hub.everything() + b"".join([*hub.stored.values(), *hub.repos[REPO]["files"].values()])
        texts = [mark.encode(encoding) for mark in marks for encoding in ("utf-8", "utf-16-le", "utf-16-be")]
        assert [text for text in texts if text in received] == []
        assert TOKEN not in done.stdout + done.stderr
        assert any(f"Bearer {TOKEN}" in head for _, head, _ in hub.sent)  # where huggingface_hub puts it

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("Trained in /srv/speech/runs/7.", "a path ('/srv/speech/runs/7.')"),
            ("Trained in C:\\Users\\me.", "a path ("),
            (f"By {USER} at home.", f"the user name of this machine ('{USER}')"),
            (f"At {HOST}.", "the host name of this machine"),
            (f"My key is {TOKEN}.", "README.md holds the token for the Hub;"),
            ("My key is hf_abcdefghijklmnopqrstuvwx.", "README.md holds a key;"),
            (f"My key is {SECRET}.", "README.md holds the value of AWS_SECRET_ACCESS_KEY;"),
            ("From https://me:secret@example.org/x.", "README.md holds a key;"),
        ],
    )
    def test_a_card_of_ones_own_is_looked_through(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: str
    ) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: HOST)
        for name, value in {"LOGNAME": USER, "HF_TOKEN": TOKEN, "AWS_SECRET_ACCESS_KEY": SECRET}.items():
            monkeypatch.setenv(name, value)
        (folder / "README.md").write_text(f"---\nlicense: other\n---\n{text}\n", "utf-8")
        with pytest.raises(ConfigError) as refusal:
            plan_push(folder, REPO)

        assert found in str(refusal.value)
        assert TOKEN not in str(refusal.value)
        assert SECRET not in str(refusal.value)

    def test_a_source_that_has_the_name_of_its_user_is_refused(self, tmp_path: Path, hub: Hub, push: Push) -> None:
        checkpoint = write_small(tmp_path / USER / "model.pth")
        folder = export_checkpoint(checkpoint, tmp_path / "out").path

        assert f"export.json, sources.0.name holds the user name of this machine ('{USER}')" in refused(
            push, hub, folder, REPO
        )

    def test_what_the_name_of_the_repository_says_is_public(self, folder: Path, hub: Hub, push: Push) -> None:
        (folder / "README.md").write_text(f"---\nlicense: other\n---\nBy {USER}.\n", "utf-8")

        assert "license_name" in push(folder, f"{USER}/my-voice").stderr  # the Hub has seen the card
        assert hub.sent != []


class TestVoices:
    @pytest.fixture
    def voiced(self, folder: Path) -> Path:
        """A folder with a clip and the speakers of somebody."""
        import numpy as np

        out = folder.with_name("voiced")
        clip = folder.parent / "me.wav"
        write_wav(clip, np.sin(np.arange(8 * 22050) / 20))
        run = folder.parent.parent
        write_speakers(run / "speakers_xtts.pth", "Ana Florence", "Neighbour")
        return export_checkpoint(run / "checkpoint_1000.pth", out, layout="xtts-api-server").path

    def test_speakers_of_ones_own_are_not_sent_unasked(self, voiced: Path, hub: Hub, push: Push) -> None:
        line = refused(push, hub, voiced, REPO)

        assert "speakers_xtts.pth holds a voice, which is not sent unasked; add --include-voice" in line

    def test_they_are_sent_when_asked(self, voiced: Path, hub: Hub, push: Push) -> None:
        done = push(voiced, REPO, "--include-voice")

        assert done.returncode == 0
        assert ", holds a voice" in done.stdout
        assert "speakers_xtts.pth" in hub.repos[REPO]["files"]

    def test_a_recording_is_a_voice(self, folder: Path, tmp_path: Path, hub: Hub, push: Push) -> None:
        import numpy as np

        clip = tmp_path / "me.wav"
        write_wav(clip, np.sin(np.arange(8 * 22050) / 20))
        checkpoint = folder.parent.parent / "checkpoint_1000.pth"
        out = export_checkpoint(checkpoint, tmp_path / "packed", layout="openedai-speech", voice=clip).path

        assert "sample.wav holds a voice" in refused(push, hub, out, REPO)


class TestFaults:
    def test_a_folder_with_a_fault_is_not_sent(self, folder: Path, hub: Hub, push: Push) -> None:
        (folder / "config.json").write_text("{}", "utf-8")

        assert "not sent, since it has a fault" in refused(push, hub, folder, REPO)

    def test_a_link_in_place_of_a_file_is_not_sent(self, folder: Path, tmp_path: Path, hub: Hub, push: Push) -> None:
        (folder / "mel_stats.pth").unlink(missing_ok=True)
        shutil.move(folder / "speakers_xtts.pth", tmp_path / "elsewhere.pth")
        (folder / "speakers_xtts.pth").symlink_to(tmp_path / "elsewhere.pth")

        assert "speakers_xtts.pth changed since" in refused(push, hub, folder, REPO)

    def test_a_file_elsewhere_that_an_export_names_is_not_sent(self, folder: Path, hub: Hub, push: Push) -> None:
        secret = folder.parent / "id_rsa"
        secret.write_text("private", "utf-8")
        described = json.loads((folder / "export.json").read_bytes())
        described["files"]["../id_rsa"] = {"bytes": 7, "sha256": sha256(secret)}
        (folder / "export.json").write_text(json.dumps(described), "utf-8")
        push(folder, REPO)

        assert b"private" not in b"".join(hub.stored.values())
        assert "../id_rsa" not in hub.repos.get(REPO, {"files": {}})["files"]

    @pytest.mark.parametrize("repo", ["my-voice", "a/b/c", "anna/", "anna/../x", "https://huggingface.co/anna/x"])
    def test_a_name_that_is_none_is_refused(self, folder: Path, repo: str) -> None:
        with pytest.raises(ConfigError, match="expected the name of a repository on the Hub, USER/NAME"):
            plan_push(folder, repo)

    def test_a_share_of_something_is_no_path(self, folder: Path) -> None:
        text = "Trained on ~3/4 of it and/or https://example.org/a/b; see docs/a/b."
        (folder / "README.md").write_text(text, "utf-8")

        assert plan_push(folder, REPO).card == text

    def test_what_somebody_else_wrote_is_refused(self, tmp_path: Path, hub: Hub, push: Push) -> None:
        (tmp_path / "other").mkdir()
        torch.save({}, tmp_path / "other" / "model.pth")

        assert "expected an inference folder with its export.json" in refused(push, hub, tmp_path / "other", REPO)

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_hub_that_refuses_says_what_to_do_in_one_line(
        self, folder: Path, hub: Hub, push: Push, status: int
    ) -> None:
        hub.refuses = status
        line = refused(push, hub, folder, REPO)

        assert f"the Hub refuses ({status}): log in with hf auth login, or set HF_TOKEN" in line
        assert TOKEN not in line

    def test_a_hub_that_fails_is_one_line(self, folder: Path, hub: Hub, push: Push) -> None:
        hub.refuses = 400

        assert "run the command again to go on" in refused(push, hub, folder, REPO)


class TestCardThere:
    @pytest.fixture
    def pushed(self, folder: Path, hub: Hub, push: Push) -> dict[str, Any]:
        assert push(folder, REPO).returncode == 0
        files: dict[str, Any] = hub.repos[REPO]["files"]
        return files

    def test_an_edited_card_stays(self, folder: Path, hub: Hub, push: Push, pushed: dict[str, Any]) -> None:
        pushed["README.md"] = edited = pushed["README.md"].replace(b"# my-voice", b"# The voice of my life")
        done = push(folder, REPO)

        assert "README.md stays as it is in anna/my-voice: it was edited there" in done.stdout
        assert pushed["README.md"] == edited

    def test_ours_is_replaced_by_that_of_the_newer_model(
        self, folder: Path, hub: Hub, push: Push, pushed: dict[str, Any], tmp_path: Path
    ) -> None:
        newer = export_checkpoint(write_small(tmp_path / "run" / "checkpoint_2000.pth"), tmp_path / "newer").path
        assert push(newer, REPO).returncode == 0

        assert is_as_written(pushed["README.md"].decode())
        assert b"checkpoint\\_2000.pth" in pushed["README.md"]
