"""Find the files that go beside the weights: a config without local paths, the training vocabulary, voices.

The config of a downloaded checkpoint could name any file of this machine, so no file is simply copied: it must be a
vocabulary of exactly the model's size, mel statistics, a DVAE, or voices, and all but the first are written anew.
Voices may be private. They are taken only from the checkpoint's folder and the one above it, and, if the run was
trained here, from the folders of the files that its config names. The working directory is never searched, even if a
path from another system looks relative here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import CheckpointError, ConfigError
from xtts_export_callback.files.json_file import read_small_file
from xtts_export_callback.files.remote import RemotePath
from xtts_export_callback.xtts.companions import COMPANIONS, DVAE, MEL_STATS
from xtts_export_callback.xtts.model_config import clean_config, find_config, local_path, model_args, places
from xtts_export_callback.xtts.release_config import config_from_shapes, spoken_languages, where_to_get
from xtts_export_callback.xtts.state_dict import TEXT_EMBEDDING
from xtts_export_callback.xtts.vocab import NAME_VOCAB, Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from xtts_export_callback.checkpoint.reader import Checkpoint
    from xtts_export_callback.tensors.tensor import Tensor

NAME_CONFIG = "name its config.json with --config (or config in a recipe)"
VOCAB_FILE = "vocab.json"
LICENSE_FILE = "LICENSE.txt"
_LICENSE = b"Coqui Public Model License"
_NAMED_FILES = ("tokenizer_file", "xtts_checkpoint", "dvae_checkpoint", "mel_norm_file")


@dataclass
class Assets:
    """What is written beside the weights.

    Attributes:
        config: Content of ``config.json``, without local paths.
        vocab: Content of ``vocab.json``.
        companions: Paths where each further file may lie, by its name; the first readable one is used.
        license: Content of the base model's ``LICENSE.txt``, where it lies beside it; otherwise empty.
        notes: What had to be assumed, in a line each.
    """

    config: dict[str, Any]
    vocab: bytes
    companions: dict[str, list[Path]] = field(default_factory=dict)
    license: bytes = b""
    notes: tuple[str, ...] = ()


def find_assets(
    checkpoint: Checkpoint,
    tensors: dict[str, Tensor],
    *,
    vocab: Path | None = None,
    config: Path | None = None,
    trained_in: Path | None = None,
) -> Assets:
    """Find what belongs to a checkpoint: by its own config, then beside the file.

    Args:
        checkpoint: The source.
        tensors: Its inference model; the vocabulary must have as many tokens as its text embedding has rows.
        vocab: Use this ``vocab.json``.
        config: Use this ``config.json`` instead of the one in the checkpoint.
        trained_in: The working directory of the training that has just saved the checkpoint; relative paths in its
            config start from it.

    Returns:
        The assets.

    Raises:
        CheckpointError: When the text embedding is not a matrix.
        ConfigError: When there is no config or no vocabulary that fits.
    """
    shape = tensors[TEXT_EMBEDDING].shape
    if len(shape) != 2:
        msg = f"{checkpoint.path}: {TEXT_EMBEDDING}: expected [tokens, channels], found {list(shape)}; not XTTS v2"
        raise CheckpointError(msg)
    raw = find_config(checkpoint, config)
    notes: tuple[str, ...] = ()
    from_shapes = {} if raw else config_from_shapes(tensors)
    if from_shapes:
        raw, notes = from_shapes, (_FROM_SHAPES,)
    args = model_args(raw)
    named = {key: path for key in _NAMED_FILES if (path := local_path(args.get(key), trained_in)) is not None}
    beside = [place.absolute().parent for place in places(checkpoint.path)]
    near = [folder for each in beside for folder in (each, each.parent)]
    beside_named = [path.parent for path in named.values()]
    vocabularies = (
        [vocab] if vocab else [*_listed(named, "tokenizer_file"), *_within([*beside_named, *near], VOCAB_FILE)]
    )
    own = beside_named if trained_in is not None or _was_trained_here(beside[0], raw) else []
    companions = {name: _within([*own, *near], name) for name in COMPANIONS}
    companions[MEL_STATS] = [*_listed(named, "mel_norm_file"), *companions[MEL_STATS]]
    companions[DVAE] = [*_listed(named, "dvae_checkpoint"), *companions[DVAE]]
    found, misfits = _find_vocab(vocabularies, shape[0], explicit=vocab is not None)
    if found is None or not raw:
        raise ConfigError(_missing(checkpoint.path, raw, found, misfits, shape[0]))
    return Assets(
        clean_config(spoken_languages(raw, found.tokens) if from_shapes else raw, shape[0]),
        found.content,
        {name: there for name, paths in companions.items() if (there := list(filter(_is_there, paths)))},
        _license_in([*own, *near]),
        notes,
    )


_FROM_SHAPES = (
    "no config in the file or beside it: its shapes are those of XTTS v2, so config.json is the release's; --config "
    "names another"
)


def _missing(path: Path, raw: dict[str, Any], found: Vocabulary | None, misfits: list[str], rows: int) -> str:
    """Name everything that is missing at once, and where to get it."""
    named = model_args(raw).get("tokenizer_file") or "none"
    there = "; ".join(misfits) or f"none (the config says {named!s:.200})" if raw else "; ".join(misfits) or "none"
    vocab = f"expected a vocab.json of {rows} tokens, found {there}"
    if raw:
        return f"{path}: {vocab}; {NAME_VOCAB}"
    config = "expected a config, found none in the file and no config.json beside it"
    if found is not None:
        return f"{path}: {config}; {NAME_CONFIG}"
    return f"{path}: {config}; {vocab}; put both beside it, or: {NAME_CONFIG}, {NAME_VOCAB}; {where_to_get(rows)}"


def find_vocabulary(checkpoint: Checkpoint) -> Path | None:
    """Return the vocabulary beside a checkpoint, or else the one that its config names, whether it fits or not."""
    named = local_path(model_args(checkpoint.document.get("config")).get("tokenizer_file"))
    beside = [place.with_name(VOCAB_FILE) for place in places(checkpoint.path)]
    candidates = [*beside, *([named] if named else [])]
    return next(filter(_is_there, candidates), None)


def _find_vocab(candidates: list[Path], rows: int, *, explicit: bool) -> tuple[Vocabulary | None, list[str]]:
    """Return the first vocabulary of that size, None where there is none, and why the others do not fit."""
    misfits = []
    for candidate in dict.fromkeys(candidates):
        if not explicit and not _is_there(candidate):
            continue
        try:
            found = read_vocabulary(read_small_file(candidate), str(candidate))
        except ConfigError as error:
            if explicit:
                raise
            misfits.append(str(error).removesuffix(f"; {NAME_VOCAB}"))
            continue
        if found.size == rows:
            return found, misfits
        misfits.append(f"{candidate} has {found.size}")
    return None, misfits


def _license_in(folders: list[Path]) -> bytes:
    """Return the license of XTTS from the first folder that has it. Another project's is not taken."""
    for path in filter(_is_there, _within(folders, LICENSE_FILE)):
        try:
            content = read_small_file(path)
        except ConfigError:
            continue
        if _LICENSE.lower() in content.lower():
            return content
    return b""


def _listed(named: dict[str, Path], key: str) -> list[Path]:
    return [named[key]] if key in named else []


def _within(folders: list[Path], name: str) -> list[Path]:
    return [folder / name for folder in dict.fromkeys(folders)]


def _was_trained_here(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a checkpoint still lies where its Trainer put it: in a run in the config's ``output_path``.

    The author of a downloaded checkpoint cannot know where on this machine it will lie.
    """
    output = local_path(config.get("output_path"))
    return output is not None and os.path.realpath(output) == os.path.realpath(folder.parent)


def _is_there(path: Path) -> bool:
    """Whether a path exists; False, without an error, where access is denied, such as in another user's home."""
    if isinstance(path, RemotePath):
        return path.is_file()
    try:
        return os.path.exists(path)  # noqa: PTH110 - unlike Path.exists, it is False where access is denied
    except ValueError:
        return False
