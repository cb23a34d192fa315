"""`vocab.json`: what is read as a vocabulary is what the tokenizers library loads."""

from __future__ import annotations

import codecs
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_export_callback.demo.tiny_model import tiny_vocabulary
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.xtts.vocab import read_vocabulary

FLAGS = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def small() -> dict[str, Any]:
    vocabulary = tiny_vocabulary()
    words = ["[STOP]", "[UNK]", "a", "b", "ab", "[en]"]
    vocabulary["model"] |= {"vocab": {word: row for row, word in enumerate(words)}, "merges": ["a b"]}
    vocabulary["added_tokens"] = [{"id": 0, "content": "[STOP]", **FLAGS}, {"id": 5, "content": "[en]", **FLAGS}]
    return vocabulary


def rows_of(text: str) -> dict[str, int] | None:
    """Tokens and rows as the tokenizers library has them, None where it refuses the vocabulary."""
    from tokenizers import Tokenizer

    try:
        return dict(Tokenizer.from_str(text).get_vocab(with_added_tokens=True))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of its Rust code is no Exception
        return None


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(path for key, item in items for path in paths(item, (*prefix, key)))]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 8),
    st.sampled_from([2**32 - 1, 2**32, 10**30, 0.5, 1.0, 2.0, -1.5]),
    st.sampled_from(
        ["", "a", "b", "ab", "a b", "a c", "b a", "a b c", "#version: 0.2", "\ud800", "[UNK]", "1.0", "BPE"]
    ),
    st.sampled_from([[], {}, [1], ["a b"], [["a", "b"]], ["a b", ["a", "b"]], [["a"]], {"type": "Whitespace"}]),
    st.sampled_from([{"type": "Lowercase"}, {"type": "Foo"}, {"type": "NFKC", "x": 1}, {"a": 0}, {"a": -1}]),
    st.builds(lambda row, token: {"id": row, "content": token, **FLAGS}, st.integers(0, 9), st.sampled_from("axyz")),
)
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["set", "del", "add", "dup"]), VALUES), max_size=3)


def changed(changes: list[tuple[int, str, Any]]) -> dict[str, Any]:
    vocabulary = small()
    for number, kind, original in changes:
        candidates = paths(vocabulary)[1:]
        if not candidates:
            break
        path = candidates[number % len(candidates)]
        *parents, key = path
        container: Any = vocabulary
        for parent in parents:
            container = container[parent]
        value = copy.deepcopy(original)
        if kind == "del":
            del container[key]
        elif kind == "set":
            container[key] = value
        elif isinstance(container, dict):
            container["x" if kind == "add" else f"{key}2"] = value if kind == "add" else container[key]
        else:
            container.append(value if kind == "add" else container[key])
    return vocabulary


@settings(max_examples=600, deadline=None)
@given(CHANGES)
def test_what_is_accepted_the_tokenizers_library_loads_with_the_same_rows(changes: list[tuple[int, str, Any]]) -> None:
    text = json.dumps(changed(changes))
    try:
        found = read_vocabulary(text.encode(), "vocab.json")
    except ConfigError:
        return
    assert rows_of(text) == found.tokens


@settings(max_examples=300, deadline=None)
@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, max_size=30))
def test_whatever_tokens_a_vocabulary_has_it_is_accepted(words: set[str]) -> None:
    vocabulary = small()
    vocabulary["model"] |= {"vocab": {word: row for row, word in enumerate(sorted(words))}, "merges": []}
    vocabulary["added_tokens"] = []
    text = json.dumps(vocabulary, ensure_ascii=False)
    assert read_vocabulary(text.encode(), "vocab.json").tokens == rows_of(text)


def test_the_vocabulary_of_the_demo_is_accepted() -> None:
    content = json.dumps(tiny_vocabulary()).encode()
    found = read_vocabulary(content, "vocab.json")
    assert found.content == content
    assert found.size == len(tiny_vocabulary()["model"]["vocab"])


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_other_encodings_are_read_and_written_as_the_library_reads_them(mark: bytes, encoding: str) -> None:
    text = json.dumps(small())
    found = read_vocabulary(mark + text.encode(encoding), "vocab.json")
    assert found.content == text.encode()
    assert found.tokens == rows_of(text)


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    *parents, key, value = path

    def change(vocabulary: dict[str, Any]) -> None:
        container: Any = vocabulary
        for parent in parents:
            container = container[parent]
        container[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_set("model", "vocab", "a", -1), "the row of 'a': expected a whole number from 0 on, found -1"),
        (_set("model", "vocab", "a", 1.5), "found 1.5"),
        (_set("model", "vocab", "a", True), "found True"),
        (_set("model", "vocab", "\ud800", 7), "surrogates not allowed"),
        (_set("model", "merges", 5), "model.merges: expected pairs of tokens, found 5"),
        (_set("model", "merges", ["b a"]), "'b a' or its result is not a token"),
        (_set("added_tokens", 0, "content", [1]), "added_tokens: expected id, content"),
        (_set("added_tokens", None), "added_tokens: expected a list"),
        (_set("custom", 1), "unknown key 'custom'"),
        (_set("pre_tokenizer", {"type": "Foo"}), "vocab.json: "),
        (_set("decoder", {"type": "Whitespace"}), "vocab.json: "),
    ],
)
def test_what_is_no_vocabulary_ends_with_one_line(change: Callable[[dict[str, Any]], None], expected: str) -> None:
    vocabulary = small()
    change(vocabulary)
    with pytest.raises(ConfigError) as raised:
        read_vocabulary(json.dumps(vocabulary).encode(), "vocab.json")
    assert expected in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_an_added_token_has_the_row_that_the_library_gives_it() -> None:
    """It numbers tokens that the model lacks by itself, whatever their id says."""
    vocabulary = small()
    vocabulary["added_tokens"].append({"id": 99, "content": "[vi]", **FLAGS})
    assert read_vocabulary(json.dumps(vocabulary).encode(), "vocab.json").tokens["[vi]"] == 6


def test_nothing_but_the_standard_library_is_needed_for_an_ordinary_vocabulary(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(small()), encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from xtts_export_callback.xtts.vocab import read_vocabulary; "
        f"read_vocabulary(Path({str(path)!r}).read_bytes(), ''); sys.exit('tokenizers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
