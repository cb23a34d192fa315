"""Merges models with different vocabularies token by token: rows are matched by the string of their token."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError, IncompatibleError
from xtts_export_callback.tensors.computed import BlockReader, ComputedStorage
from xtts_export_callback.xtts.vocab import NAME_VOCAB, read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from xtts_export_callback.tensors.computed import NextValues, Values
    from xtts_export_callback.tensors.dtypes import DType
    from xtts_export_callback.tensors.tensor import Tensor

    Rows = npt.NDArray[np.int64]

_BLOCK_ROWS = 256
_MUST_AGREE = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_MODEL_MUST_AGREE = ("type", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")


@dataclass(frozen=True)
class MergedVocabulary:
    """A vocabulary merged from several.

    Attributes:
        content: The ``vocab.json``.
        size: Its number of tokens.
        rows: For each input, the row that each of the merged tokens has there, -1 where it has none.
    """

    content: bytes
    size: int
    rows: tuple[Rows, ...]


def merge_vocabularies(vocabularies: Sequence[bytes], names: Sequence[str], policy: str) -> MergedVocabulary | None:
    """Merge vocabularies of the tokenizers library.

    The tokens of the first keep their order, so that ``[STOP]`` and ``[UNK]`` stay the tokens 0 and 1 that
    ``XTTSDataset.get_text`` demands. Byte-pair merges keep the order of the first too, and those of the others
    follow; a merge is left out if one of its parts or its result is not a token of the new vocabulary.

    Args:
        vocabularies: Their ``vocab.json``.
        names: The name of each in errors.
        policy: ``"union"`` keeps every token, ``"intersect"`` those that all have.

    Returns:
        The result; None where all are the same.

    Raises:
        ConfigError: When one is not such a vocabulary, or two of its tokens share a row.
        IncompatibleError: When they split text by different rules, or nothing is left.
    """
    import numpy as np

    read = [read_vocabulary(content, name) for content, name in zip(vocabularies, names, strict=True)]
    tokens = [vocabulary.tokens for vocabulary in read]
    parsed = [vocabulary.parsed for vocabulary in read]
    merges = [vocabulary.merges for vocabulary in read]
    if all(each == tokens[0] for each in tokens) and all(each == merges[0] for each in merges):
        return None
    for each, name in zip(tokens, names, strict=True):
        _check_own_rows(each, name)
    _check_same_splitting(parsed, names)
    ordered = sorted(tokens[0], key=lambda token: tokens[0][token])
    if policy == "union":
        number = dict(tokens[0])
        following = max(number.values()) + 1
        for token in (token for each in tokens[1:] for token in sorted(each, key=lambda token: each[token])):
            if token not in number:
                number[token] = following
                following += 1
    else:
        number = {token: row for row, token in enumerate(t for t in ordered if all(t in each for each in tokens))}
    if "[STOP]" not in number or "[UNK]" not in number:
        msg = f"{' and '.join(names)}: no tokens [STOP] and [UNK] in common; not vocabularies of XTTS"
        raise IncompatibleError(msg)
    size = max(number.values()) + 1
    rows = tuple(np.full(size, -1, np.int64) for _ in tokens)
    if policy == "union":
        first_size = max(tokens[0].values()) + 1
        rows[0][:first_size] = np.arange(first_size)  # also rows that no token names
    for found, own in zip(rows, tokens, strict=True):
        for token, row in number.items():
            if token in own:
                found[row] = own[token]
    return MergedVocabulary(_content(parsed, merges, number), size, rows)


def aligned(rows: Sequence[Rows], weights: Sequence[float], base: int | None) -> list[npt.NDArray[np.float64]]:
    """Extend each input to every token.

    A token that an input lacks gets the base's row, as if the input had not changed it. Where the base lacks it too, or
    there is no base, it gets the weighted mean of the inputs that have it.

    Args:
        rows: Of a `MergedVocabulary`.
        weights: One for each input, 0 for the base.
        base: Which input is the base.

    Returns:
        For each input, the coefficients, of shape (inputs, tokens), of the sum that is its extended tensor.
    """
    import numpy as np

    has = np.stack([each >= 0 for each in rows])
    share = has * np.asarray(weights, np.float64)[:, None]
    plain = share.sum(axis=0) == 0
    share[:, plain] = has[:, plain]  # only inputs of weight 0 have it
    share /= share.sum(axis=0)
    if base is not None:
        share[:, has[base]] = 0.0
        share[base, has[base]] = 1.0
    result = []
    for index, own in enumerate(has):
        coefficients = share.copy()
        coefficients[:, own] = 0.0
        coefficients[index, own] = 1.0
        result.append(coefficients)
    return result


class RowSum(ComputedStorage):
    """Rows of several tensors, matched and summed with coefficients of their own.

    The result is held in memory while it is read, 8 bytes per element; the inputs are not.
    """

    def __init__(
        self,
        name: str,
        tensors: Sequence[Tensor],
        rows: Sequence[Rows],
        coefficients: npt.NDArray[np.float64],
        dtype: DType,
    ) -> None:
        """Describe the result.

        Args:
            name: Its name in errors.
            tensors: Floating-point tensors that differ in the first dimension only.
            rows: For each, its row for each row of the result, -1 for none.
            coefficients: Of shape (tensors, rows of the result); 0 where there is no row.
            dtype: Type of the result.
        """
        used = [index for index in range(len(tensors)) if coefficients[index].any()]
        self._width = tensors[0].numel // max(tensors[0].shape[0], 1)
        super().__init__(name, [tensors[index] for index in used], dtype, coefficients.shape[1] * self._width)
        self._rows = [rows[index] for index in used]
        self._coefficients = coefficients[used]

    def values(self) -> NextValues:
        """See `ComputedStorage.values`."""
        total = self._total()
        done = 0

        def next_values(count: int) -> Values:
            nonlocal done
            done += count
            return total[done - count : done]

        return next_values

    def _total(self) -> Values:
        import numpy as np

        total = np.full((self._coefficients.shape[1], self._width), -0.0)
        for tensor, rows, coefficients in zip(self.inputs, self._rows, self._coefficients, strict=True):
            source = BlockReader(tensor)
            for start, stop in _row_blocks(tensor.shape[0]):
                values = source.float64((stop - start) * self._width).reshape(stop - start, self._width)
                wanted = (rows >= start) & (rows < stop) & (coefficients != 0)
                with np.errstate(invalid="ignore", over="ignore"):
                    total[wanted] += coefficients[wanted, None] * values[rows[wanted] - start]
        return total.reshape(-1)


def _row_blocks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, _BLOCK_ROWS):
        yield start, min(start + _BLOCK_ROWS, count)


def _check_own_rows(tokens: dict[str, int], name: str) -> None:
    """Refuse tokens that share a row: a merged vocabulary gives each token its own."""
    row, count = Counter(tokens.values()).most_common(1)[0]
    if count > 1:
        shared = " and ".join(repr(token) for token, its in tokens.items() if its == row)
        msg = f"{name}: expected a row for each token, found row {row} for {shared:.80}; {NAME_VOCAB}"
        raise ConfigError(msg)


def _check_same_splitting(parsed: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    for other, name in zip(parsed[1:], names[1:], strict=True):
        different = [key for key in _MUST_AGREE if other.get(key) != parsed[0].get(key)]
        different += [f"model.{key}" for key in _MODEL_MUST_AGREE if _of_model(other, key) != _of_model(parsed[0], key)]
        if different:
            msg = f"{name} and {names[0]} differ in {', '.join(different)}: they split text by different rules"
            raise IncompatibleError(msg)


def _of_model(parsed: dict[str, Any], key: str) -> Any:
    return parsed["model"].get(key)


def _content(
    parsed: Sequence[dict[str, Any]], merges: Sequence[list[tuple[str, str]]], number: dict[str, int]
) -> bytes:
    pairs = list(dict.fromkeys(pair for each in merges for pair in each))
    prefix = _of_model(parsed[0], "continuing_subword_prefix") or ""
    kept = [pair for pair in pairs if {*pair, pair[0] + pair[1].removeprefix(prefix)} <= number.keys()]
    as_lists = any(" " in part for pair in kept for part in pair)
    added: dict[str, dict[str, Any]] = {}
    for each in parsed:
        for token in each.get("added_tokens") or []:
            if token["content"] in number:
                added.setdefault(token["content"], {**token, "id": number[token["content"]]})
    merged = {
        **parsed[0],
        "added_tokens": sorted(added.values(), key=lambda token: token["id"]),
        "model": {
            **parsed[0]["model"],
            "vocab": dict(sorted(number.items(), key=lambda item: item[1])),
            "merges": [list(pair) if as_lists else " ".join(pair) for pair in kept],
        },
    }
    return json.dumps(merged, ensure_ascii=False, indent=1).encode()
