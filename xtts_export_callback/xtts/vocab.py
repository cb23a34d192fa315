"""Read ``vocab.json``, the vocabulary of a model in the format of the tokenizers library.

``tokenizers.Tokenizer.from_str`` loads every vocabulary that is accepted here and gives each token the same row. The
checks are those of its deserializers (``tokenizers/src/tokenizer/serialization.rs``, ``models/bpe/serialization.rs``,
``tokenizer/added_vocabulary.rs``). A vocabulary that uses more of the library than XTTS's do is checked by the library.
"""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import parse_json

NAME_VOCAB = "name the training vocab.json with --vocab (merge --vocab-file, or vocab_file in its recipe)"

_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMPONENTS = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
_PLAIN_SPLITTING = {"type": "Whitespace"}
_TEXTS = ("unk_token", "continuing_subword_prefix", "end_of_word_suffix")
_SWITCHES = ("fuse_unk", "byte_fallback", "ignore_merges")
_MODEL_KEYS = {"type", "dropout", "vocab", "merges", *_TEXTS, *_SWITCHES}
_ADDED_SWITCHES = ("special", "single_word", "lstrip", "rstrip", "normalized")
_MOST_ROWS = 1 << 32  # the library counts them in 32 bits
_PAIR = 2


class _VocabularyError(Exception):
    """A text is not a vocabulary."""


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary read from a file.

    Attributes:
        content: The ``vocab.json`` to write: UTF-8 without the byte order mark that Notepad and PowerShell add and the
            tokenizers library refuses.
        parsed: The same as Python values.
        tokens: The row of each token in the text embedding.
        merges: The byte-pair merges.
    """

    content: bytes
    parsed: dict[str, Any]
    tokens: dict[str, int]
    merges: list[tuple[str, str]]

    @property
    def size(self) -> int:
        """Number of text tokens, as ``VoiceBpeTokenizer.get_number_tokens`` counts them."""
        return max(self.tokens.values()) + 1


def read_vocabulary(content: bytes, where: str) -> Vocabulary:
    """Read a ``vocab.json``.

    Args:
        content: The file, in UTF-8, or in any encoding that a byte order mark names.
        where: Its name in errors.

    Raises:
        ConfigError: When the tokenizers library would not load it.
    """
    try:
        text = content.decode(next((name for mark, name in _ENCODINGS if content.startswith(mark)), "utf-8"))
        parsed = parse_json(text, where, strict=True)
        _check_document(parsed)
        merges = _merges(parsed["model"])
        tokens = {**parsed["model"]["vocab"], **_added_tokens(parsed)}
        if not tokens:
            msg = "it has no tokens"
            raise _VocabularyError(msg)
        if "\\u" in text:
            json.dumps(parsed, ensure_ascii=False).encode()  # fails on a lone surrogate, which no text has
        if not _is_plain(parsed):
            _ask_library(text)
    except (_VocabularyError, UnicodeError) as error:
        reason = " ".join(str(error).split())
        msg = f"{where}: {reason:.200}: not a vocabulary of the tokenizers library; {NAME_VOCAB}"
        raise ConfigError(msg) from error
    return Vocabulary(text.encode(), parsed, tokens, merges)


def _check_document(parsed: Any) -> None:
    if not isinstance(parsed, dict):
        msg = f"expected a JSON object, found {type(parsed).__name__}"
        raise _VocabularyError(msg)
    unknown = sorted(parsed.keys() - {"version", "added_tokens", "model", *_COMPONENTS})
    if unknown:
        msg = f"unknown key {unknown[0]!r:.80}"
        raise _VocabularyError(msg)
    if parsed.get("version", "1.0") != "1.0":
        msg = f"version: expected '1.0', found {parsed['version']!r:.80}"
        raise _VocabularyError(msg)
    model = parsed.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        msg = "model: expected byte-pair encoding ('type': 'BPE')"
        raise _VocabularyError(msg)
    for key in _TEXTS:
        _expect(f"model.{key}", model.get(key), model.get(key) is None or isinstance(model[key], str), "a string")
    for key in _SWITCHES:
        _expect(f"model.{key}", model.get(key), isinstance(model.get(key), bool | None), "true or false")
    dropout = model.get("dropout")
    is_share = isinstance(dropout, int | float) and not isinstance(dropout, bool) and 0 <= dropout <= 1
    _expect("model.dropout", dropout, dropout is None or is_share, "a number from 0 to 1")
    rows = model.get("vocab")
    if not isinstance(rows, dict):
        msg = f"model.vocab: expected rows by token, found {rows!r:.80}"
        raise _VocabularyError(msg)
    for token, row in rows.items():
        if not _is_row(row):
            _expect(f"model.vocab: the row of {token!r:.80}", row, False, "a whole number from 0 on")


def _expect(what: str, value: Any, holds: Any, expected: str) -> None:
    if not holds:
        msg = f"{what}: expected {expected}, found {value!r:.80}"
        raise _VocabularyError(msg)


def _is_row(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_ROWS


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the byte-pair merges, written as ``"a b"`` or, since tokenizers 0.20, as ``["a", "b"]``."""
    found = model.get("merges")
    if not isinstance(found, list) or len({type(merge) for merge in found}) > 1:
        msg = f"model.merges: expected pairs of tokens, found {found!r:.80}"
        raise _VocabularyError(msg)
    rows, prefix = model["vocab"], (model.get("continuing_subword_prefix") or "").encode()
    pairs = []
    for merge in found:
        if isinstance(merge, str) and merge.startswith("#version"):  # the first line of a merges.txt
            continue
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != _PAIR or not all(isinstance(part, str) for part in pair):
            msg = f"model.merges: expected pairs of tokens, found {merge!r:.80}"
            raise _VocabularyError(msg)
        first, second = pair
        tail = second.encode(errors="surrogatepass")
        is_cut = len(tail) < len(prefix)
        joined = first + tail[len(prefix) :].decode(errors="replace")
        if is_cut or not {first, second, joined} <= rows.keys():
            msg = f"model.merges: {merge!r:.80} or its result is not a token"
            raise _VocabularyError(msg)
        pairs.append((first, second))
    return pairs


def _added_tokens(parsed: dict[str, Any]) -> dict[str, int]:
    """Return the rows of added tokens; the library numbers those that ``model.vocab`` lacks, and ignores their ids."""
    added = parsed.get("added_tokens", [])
    _expect("added_tokens", added, isinstance(added, list), "a list")
    rows: dict[str, int] = parsed["model"]["vocab"]
    found: dict[str, int] = {}
    for token in added:
        is_whole = isinstance(token, dict) and isinstance(token.get("content"), str) and _is_row(token.get("id"))
        if not is_whole or not all(type(token.get(key)) is bool for key in _ADDED_SWITCHES):
            msg = f"added_tokens: expected id, content, {', '.join(_ADDED_SWITCHES)}, found {token!r:.80}"
            raise _VocabularyError(msg)
        content = token["content"]
        if content and content not in found:
            following = max(len(rows), max(found.values(), default=-1) + 1)
            found[content] = rows.get(content, following)
    return found


def _is_plain(parsed: dict[str, Any]) -> bool:
    """Whether a vocabulary uses only those features of the library that XTTS's vocabularies use."""
    components = {key: parsed[key] for key in _COMPONENTS if parsed.get(key) is not None}
    known_added = {"id", "content", *_ADDED_SWITCHES}
    return (
        components in ({}, {"pre_tokenizer": _PLAIN_SPLITTING})
        and parsed["model"].keys() <= _MODEL_KEYS
        and all(token.keys() <= known_added for token in parsed.get("added_tokens", []))
    )


def _ask_library(text: str) -> None:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return
    try:
        Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of its Rust code is not an Exception
        raise _VocabularyError(str(error)) from error
