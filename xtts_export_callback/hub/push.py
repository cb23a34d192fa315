"""Send an inference folder to the Hugging Face Hub, in one commit.

A repository therefore never holds half a model. Files that have arrived before an interruption are not sent again: the
Hub tells the client that it has them. The token is the one that huggingface_hub finds, and is never read here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xtts_export_callback import __version__
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.results import EVALUATION_FILE, read_evaluation
from xtts_export_callback.files.json_file import read_json_object, read_small_file
from xtts_export_callback.hub.card import BASE_MODEL, Origin, is_as_written, model_card
from xtts_export_callback.hub.contents import CARD_FILE, Contents, contents_of
from xtts_export_callback.hub.private import check_private
from xtts_export_callback.run.checkpoints import is_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_REPO = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}(?<![.-])", re.ASCII)
_PLAIN_NAME = re.compile(r"\w[\w .-]{0,99}")


@dataclass(frozen=True)
class Push:
    """What is to be sent, and where.

    Attributes:
        repo: The repository, ``USER/NAME``.
        public: Whether everybody may see it.
        contents: The files.
        card: The model card: of the folder, or else written for it.
    """

    repo: str
    public: bool
    contents: Contents
    card: str

    @property
    def files(self) -> dict[str, int]:
        """Sizes in bytes of everything that is sent, by name."""
        return {CARD_FILE: len(self.card.encode()), **self.contents.files}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "repo": self.repo,
            "private": not self.public,
            "files": [{"path": name, "bytes": size} for name, size in self.files.items()],
            "bytes": sum(self.files.values()),
            "voices": list(self.contents.voices),
            "left_out": list(self.contents.left_out),
            "card": self.card,
        }


def plan_push(
    folder: Path,
    repo: str,
    *,
    public: bool = False,
    base_models: Sequence[str] = (),
    evaluation: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Push:
    """Verify a folder, write its card and check that nothing private is in what would be sent. Sends nothing.

    Args:
        folder: An inference folder that this package wrote.
        repo: The repository, ``USER/NAME``.
        public: Whether everybody may see it.
        base_models: Names on the Hub of what it was fine-tuned from or merged of; XTTS v2 by default.
        evaluation: The folder of an evaluation that has measured it; by default the run's, if it has.
        progress: Called with the number of bytes read since the last call.

    Raises:
        ConfigError: When the folder has a fault, a name is none, or something private would be sent.
    """
    for name in (repo, *base_models):
        if not _REPO.fullmatch(name):
            msg = f"{name}: expected the name of a repository on the Hub, USER/NAME; correct it"
            raise ConfigError(msg)
    contents = contents_of(folder, progress)
    if CARD_FILE in contents.files:
        card = read_small_file(folder / CARD_FILE).decode(errors="replace")
    else:
        config = next(name for name in ("config.json", "core_xttsv2/config.json") if name in contents.files)
        origin = _origin(contents, base_models or (BASE_MODEL,), evaluation)
        card = model_card(repo, contents, read_json_object(folder / config), origin)
    check_private(contents, card, repo)
    return Push(repo, public, contents, card)


def _origin(contents: Contents, base_models: Sequence[str], evaluation: Path | None) -> Origin:
    run = contents.folder.absolute().parent.parent
    own = run / "evaluation"
    place = evaluation or (own if (own / EVALUATION_FILE).is_file() else None)
    found = read_evaluation(place) if place is not None else None
    weights = [each["fingerprint"] for each in contents.provenance["files"].values() if "fingerprint" in each]
    candidate = next((one for one in found.candidates if one.fingerprint in weights), None) if found else None
    if evaluation is not None and candidate is None:
        msg = f"{evaluation}: has no candidate with the weights of {contents.folder}; evaluate the folder itself"
        raise ConfigError(msg)
    return Origin(base_models, _datasets(run) if is_run(run) else (), found if candidate else None, candidate)


def _datasets(run: Path) -> list[str]:
    """Return the names of the data sets of a run, as far as they are plain ones."""
    try:
        datasets = read_json_object(run / "config.json").get("datasets")
    except ConfigError:
        return []
    names = [str(each.get("dataset_name")) for each in datasets or () if isinstance(each, dict)]
    return list(dict.fromkeys(name for name in names if _PLAIN_NAME.fullmatch(name) and name != "None"))


def send(push: Push, *, say: Callable[[str], None], show_progress: bool) -> str:
    """Send what was planned, in one commit, and return its address.

    Args:
        push: The plan.
        say: Called with lines on what was done otherwise than planned.
        show_progress: Show the progress bars of huggingface_hub.

    Raises:
        ConfigError: When the Hub refuses, cannot be reached, or the repository is public unasked.
        MissingExtraError: Without huggingface_hub.
    """
    from xtts_export_callback.extras import require

    require("remote", "xtts-export push", "huggingface_hub")
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined] # it is not in __all__

    if not show_progress:
        disable_progress_bars()
    api = HfApi(library_name="xtts-export-callback", library_version=__version__)
    try:
        return _commit(push, api, say)
    except ConfigError:
        raise
    except Exception as error:  # which ones there are depends on the version of huggingface_hub
        raise ConfigError(_reason(push.repo, error)) from error


def _commit(push: Push, api: Any, say: Callable[[str], None]) -> str:
    from huggingface_hub import CommitOperationAdd, ModelCard

    ModelCard(push.card)  # somebody's own may be none; it should not turn out once the weights are there
    api.create_repo(push.repo, private=not push.public, exist_ok=True)
    there = api.model_info(push.repo)
    if not push.public and not there.private:
        msg = f"{push.repo}: the repository is public, so that everybody would see the model; add --public to allow it"
        raise ConfigError(msg)
    if push.public and there.private:
        say(f"{push.repo} stays private: make it public in its settings")
    files: dict[str, Any] = {name: str(push.contents.folder / name) for name in push.contents.files}
    was_there = any(each.rfilename == CARD_FILE for each in there.siblings or ())
    if CARD_FILE not in files and was_there and not is_as_written(_card_there(api, push.repo)):
        say(f"{CARD_FILE} stays as it is in {push.repo}: it was edited there")
    else:
        files.setdefault(CARD_FILE, push.card.encode())
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    for operation in operations:  # in this thread, where Ctrl-C ends it at once
        api.preupload_lfs_files(push.repo, [operation], num_threads=1, free_memory=False)
    commit = api.create_commit(push.repo, operations, commit_message="Add the model")
    return str(commit.commit_url)


def _card_there(api: Any, repo: str) -> str:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = api.hf_hub_download(repo, CARD_FILE, local_dir=folder)
        return Path(path).read_bytes().decode(errors="replace")


def _reason(repo: str, error: Exception) -> str:
    """Say why the Hub has not taken a model, in one line."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    answers = [found for each in chain if (found := getattr(each, "response", None)) is not None]
    status = getattr(answers[0], "status_code", None) if answers else None
    told = next((each for each in chain if not isinstance(each, RuntimeError)), error)  # the wrapper of an upload
    said = " ".join(str(told).split())[:300]
    if status in (401, 403):
        return f"{repo}: the Hub refuses ({status}): log in with hf auth login, or set HF_TOKEN, for one that may write"
    again = "run the command again to go on: what has arrived is not sent twice"
    return f"{repo}: the Hub has not taken it ({type(told).__name__}: {said}); {again}"
