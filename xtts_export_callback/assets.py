"""What an inference folder needs beside the weights: a config without local paths, the training vocabulary, voices."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.layout import TEXT_EMBEDDING
from xtts_export_callback.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xtts_export_callback.checkpoint.read import Checkpoint
    from xtts_export_callback.checkpoint.tensor import Tensor

COMPANIONS = ("speakers_xtts.pth", "mel_stats.pth")
"""Files of the official release that are copied along when they lie near."""

# Fields of TrainerConfig, BaseTTSConfig and GPTArgs that say where things are on the training machine.
_LOCAL_FIELDS: dict[str, Any] = {
    "output_path": "",
    "logger_uri": None,
    "datasets": [],
    "test_sentences": [],
    "restore_path": None,
    "github_branch": None,
    "phoneme_cache_path": None,
}
_LOCAL_MODEL_ARGS: dict[str, Any] = {
    "tokenizer_file": "",
    "mel_norm_file": "",
    "dvae_checkpoint": "",
    "xtts_checkpoint": "",
    "gpt_checkpoint": None,
    "clvp_checkpoint": None,
    "decoder_checkpoint": None,
    "vocoder": "",
}
_TRAINING_ONLY = ("export", "trainer_args")
_NAME_VOCAB = "name the training vocab.json (--vocab; in a recipe vocab_file)"
_ABSOLUTE_PATH = re.compile(r"(/[^/\s]|~[/\\]|[A-Za-z]:[\\/]|\\\\\w|file:).+", re.DOTALL)


@dataclass
class Assets:
    """What is written beside the weights.

    Attributes:
        config: For ``config.json``, free of local paths.
        vocab: The vocabulary file, or the content of one that is made up here.
        companions: Further files by the name they get.
    """

    config: dict[str, Any]
    vocab: Path | bytes
    companions: dict[str, Path] = field(default_factory=dict)

    @property
    def vocab_bytes(self) -> bytes:
        """The vocabulary as it will lie in the folder."""
        return self.vocab if isinstance(self.vocab, bytes) else self.vocab.read_bytes()


def find_assets(
    checkpoint: Checkpoint,
    tensors: dict[str, Tensor],
    *,
    vocab: Path | None = None,
    config: Path | None = None,
) -> Assets:
    """Find what belongs to a checkpoint: by its own config, then beside the file.

    Args:
        checkpoint: The source.
        tensors: Its inference model; the vocabulary must have as many tokens as its text embedding has rows.
        vocab: Use this ``vocab.json``.
        config: Use this ``config.json`` instead of the one in the checkpoint.

    Returns:
        The assets.

    Raises:
        CheckpointError: When the text embedding is no matrix.
        ConfigError: When there is no config or no vocabulary that fits.
    """
    shape = tensors[TEXT_EMBEDDING].shape
    if len(shape) != 2:
        msg = f"{checkpoint.path}: {TEXT_EMBEDDING}: expected [tokens, channels], found {list(shape)}; no XTTS v2 model"
        raise CheckpointError(msg)
    raw = _find_config(checkpoint, config)
    folders = list(_folders(checkpoint.path, raw))
    rows = shape[0]
    found_vocab = _find_vocab(checkpoint.path, raw, folders, rows, vocab)
    companions = {name: path for name in COMPANIONS if (path := _first_file(folders, name)) is not None}
    mel_stats = _as_path(_model_args(raw).get("mel_norm_file"))
    if mel_stats is not None and _is_file(mel_stats):
        companions["mel_stats.pth"] = mel_stats
    return Assets(clean_config(raw, rows), found_vocab, companions)


def clean_config(config: dict[str, Any], text_tokens: int) -> dict[str, Any]:
    """A training config as an inference folder carries it.

    Args:
        config: The config of a Trainer checkpoint or of a release.
        text_tokens: Rows of the text embedding, which the config of a release may leave open.

    Returns:
        A copy without any path of the training machine and without what only training reads.
    """
    cleaned = {key: value for key, value in config.items() if key not in _TRAINING_ONLY}
    cleaned.update({key: value for key, value in _LOCAL_FIELDS.items() if key in cleaned})
    args = dict(_model_args(config))
    args.update({key: value for key, value in _LOCAL_MODEL_ARGS.items() if key in args})
    args["gpt_number_text_tokens"] = text_tokens
    cleaned["model_args"] = args
    cleaned["model"] = "xtts"
    return {key: _without_paths(value) for key, value in cleaned.items()}


def vocab_size(content: bytes, where: str) -> int:
    """Number of text tokens, as ``VoiceBpeTokenizer.get_number_tokens`` counts them.

    Args:
        content: A ``vocab.json`` of the tokenizers library.
        where: What to call it in errors.

    Raises:
        ConfigError: When it is not one.
    """
    return max(vocab_tokens(content, where).values()) + 1


def vocab_tokens(content: bytes, where: str) -> dict[str, int]:
    """Token strings and their rows in the text embedding; errors as `vocab_size`."""
    try:
        parsed = json.loads(content)
        tokens = {str(token): int(row) for token, row in parsed["model"]["vocab"].items()}
        tokens.update({str(added["content"]): int(added["id"]) for added in parsed.get("added_tokens") or []})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f"{where}: not a vocabulary of the tokenizers library ({error}); {_NAME_VOCAB}"
        raise ConfigError(msg) from error
    if not tokens:
        msg = f"{where}: no tokens in it; {_NAME_VOCAB}"
        raise ConfigError(msg)
    return tokens


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ConfigError: When it cannot be read or is none.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); check the path"
        raise ConfigError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"{path}: not JSON ({error}); correct the file or name another"
        raise ConfigError(msg) from error
    if not isinstance(value, dict):
        msg = f"{path}: expected a JSON object, found {type(value).__name__}; name the config.json of the run"
        raise ConfigError(msg)
    return value


def _find_config(checkpoint: Checkpoint, explicit: Path | None) -> dict[str, Any]:
    if explicit is not None:
        return read_json_object(explicit)
    inside = checkpoint.document.get("config")
    if isinstance(inside, dict) and inside:
        return inside
    beside = _first_file([place.parent for place in places(checkpoint.path)], "config.json")
    if beside is not None:
        return read_json_object(beside)
    msg = (
        f"{checkpoint.path}: holds no config and has no config.json beside it; name one (--config; in a recipe config)"
    )
    raise ConfigError(msg)


def _find_vocab(path: Path, config: dict[str, Any], folders: list[Path], rows: int, explicit: Path | None) -> Path:
    named = _as_path(_model_args(config).get("tokenizer_file"))
    candidates = [explicit] if explicit is not None else [named, *(folder / "vocab.json" for folder in folders)]
    misfits = []
    for candidate in candidates:
        if candidate is None or not _is_file(candidate):
            continue
        try:
            content = candidate.read_bytes()
        except PermissionError:
            misfits.append(f"{candidate}, which cannot be read")
            continue
        size = vocab_size(content, str(candidate))
        if size == rows:
            return candidate
        misfits.append(f"{candidate} has {size}")
    if explicit is not None and not misfits:
        msg = f"{explicit}: no such file; {_NAME_VOCAB}"
        raise ConfigError(msg)
    found = (
        f"found {'; '.join(dict.fromkeys(misfits))}" if misfits else f"found none (the config says {named or 'none'})"
    )
    msg = f"{path}: expected a vocab.json of {rows} tokens, {found}; {_NAME_VOCAB}"
    raise ConfigError(msg)


def _folders(path: Path, config: dict[str, Any]) -> Iterator[Path]:
    """Where files of the release usually lie: beside what the config names, beside the checkpoint, above it."""
    args = _model_args(config)
    for key in ("tokenizer_file", "xtts_checkpoint", "dvae_checkpoint", "mel_norm_file"):
        named = _as_path(args.get(key))
        if named is not None:
            yield named.parent
    for place in places(path):
        yield place.parent
        yield place.parent.parent


def places(path: Path) -> list[Path]:
    """Where a file lies: by its own name, and where it leads to if it is a link, as in the hub's cache."""
    return list(dict.fromkeys((path, path.resolve() if path.is_symlink() else path)))


def _first_file(folders: list[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if _is_file(folder / name)), None)


def _is_file(path: Path) -> bool:
    """Also where it may not be looked at, such as in the home of whoever trained."""
    try:
        return path.is_file()
    except OSError:
        return False


def _as_path(value: Any) -> Path | None:
    if not isinstance(value, str) or not value or "://" in value:
        return None
    try:
        return Path(value).expanduser()
    except RuntimeError:  # the home of a user of another machine
        return None


def _model_args(config: dict[str, Any]) -> dict[str, Any]:
    args = config.get("model_args")
    return args if isinstance(args, dict) else {}


def _without_paths(value: Any) -> Any:
    """Whatever else looks like a path of some machine goes too: fields of future versions, users' own fields."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if isinstance(value, str) and _ABSOLUTE_PATH.fullmatch(value):
        return ""
    return value
