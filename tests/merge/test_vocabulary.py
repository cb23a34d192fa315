"""Models with different vocabularies, merged token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models.least import BIAS, EMBEDDING, HEAD, WIDTH, StateDict, load, recipe, save, state_dict
from xtts_export_callback import merge_checkpoints
from xtts_export_callback.cli.main import main
from xtts_export_callback.demo.tiny_model import tiny_vocabulary
from xtts_export_callback.errors import ConfigError, IncompatibleError
from xtts_export_callback.merge.vocabulary import merge_vocabularies

pytestmark = pytest.mark.usefixtures("least_models")

SPECIAL = ("[STOP]", "[UNK]", "[SPACE]")


def vocab(*tokens: str, merges: tuple[str, ...] = (), added: tuple[str, ...] = SPECIAL) -> dict[str, Any]:
    """A vocabulary of single characters and merges, as `tokenizers` writes it."""
    content = tiny_vocabulary()
    numbers = {token: row for row, token in enumerate((*SPECIAL, *tokens))}
    content["model"]["vocab"] = numbers
    content["model"]["merges"] = list(merges)
    content["added_tokens"] = [
        {**content["added_tokens"][0], "content": token, "id": numbers[token]} for token in added if token in numbers
    ]
    return content


ENGLISH = vocab("a", "n", "d", "[START]", "an", "[en]", merges=("a n",), added=(*SPECIAL, "[START]", "[en]"))
GERMAN = vocab("a", "[START]", "n", "u", "un", "[de]", merges=("u n",), added=(*SPECIAL, "[START]", "[de]"))


def tokens(content: dict[str, Any]) -> dict[str, int]:
    return dict(content["model"]["vocab"])


def pair(folder: Path) -> tuple[list[Path], list[StateDict]]:
    models = [state_dict(seed, tokens=len(tokens(content))) for seed, content in enumerate((ENGLISH, GERMAN), 1)]
    paths = [
        save(folder / name / "model.pth", model, vocab=content)
        for name, model, content in zip("ab", models, (ENGLISH, GERMAN), strict=True)
    ]
    return paths, models


def rows(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Rows of a merged tensor by token, as the vocabulary beside it says."""
    numbers = tokens(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    tensor = load(folder)[name]
    assert tensor.shape[0] == len(numbers)
    return {token: tensor[row] for token, row in numbers.items()}


@pytest.mark.parametrize("name", [EMBEDDING, HEAD, BIAS])
def test_union_averages_the_rows_of_common_tokens_and_keeps_all_others(tmp_path: Path, name: str) -> None:
    paths, (english, german) = pair(tmp_path)
    merge_checkpoints(recipe(paths, vocab="union", weights=[3, 1]), tmp_path / "m")
    merged = rows(tmp_path / "m", name)
    assert set(merged) == set(tokens(ENGLISH)) | set(tokens(GERMAN))
    for token, row in merged.items():
        own = [model[name][tokens(content)[token]] if token in tokens(content) else None
               for model, content in ((english, ENGLISH), (german, GERMAN))]  # fmt: skip
        if own[0] is None or own[1] is None:
            assert torch.equal(row, own[0] if own[0] is not None else own[1])  # type: ignore[arg-type]
        else:
            torch.testing.assert_close(row, 0.75 * own[0] + 0.25 * own[1])


def test_intersect_keeps_the_common_tokens_with_the_special_ones_where_training_wants_them(tmp_path: Path) -> None:
    paths, (english, german) = pair(tmp_path)
    merge_checkpoints(recipe(paths, vocab="intersect"), tmp_path / "m")
    merged = rows(tmp_path / "m", EMBEDDING)
    assert list(merged) == ["[STOP]", "[UNK]", "[SPACE]", "a", "n", "[START]"]
    for token, row in merged.items():
        expected = (english[EMBEDDING][tokens(ENGLISH)[token]] + german[EMBEDDING][tokens(GERMAN)[token]]) / 2
        torch.testing.assert_close(row, expected)


def test_the_other_tensors_merge_as_ever_and_the_config_knows_the_size(tmp_path: Path) -> None:
    paths, (english, german) = pair(tmp_path)
    merge_checkpoints(recipe(paths, vocab="union"), tmp_path / "m")
    name = "gpt.mel_embedding.weight"
    torch.testing.assert_close(load(tmp_path / "m")[name], (english[name] + german[name]) / 2)
    config = json.loads((tmp_path / "m" / "config.json").read_text(encoding="utf-8"))
    assert config["model_args"]["gpt_number_text_tokens"] == 12


@pytest.mark.parametrize("method", ["task_arithmetic", "interpolate", "ties", "slerp", "linear"])
def test_every_method_merges_vocabularies(tmp_path: Path, method: str) -> None:
    paths, (english, german) = pair(tmp_path)
    keys: dict[str, Any] = {"method": method, "vocab": "union"}
    if method in {"task_arithmetic", "interpolate", "ties"}:
        keys |= {"base": str(paths[1]), "scale": 1.0}
        keys |= {"density": 1.0} if method == "ties" else {}
        paths = paths[:1]
    merge_checkpoints(recipe(paths, **keys), tmp_path / "m")
    merged = rows(tmp_path / "m", EMBEDDING)
    if method not in {"linear", "slerp"}:  # all the way to the one model: its rows, and the base's where it has none
        torch.testing.assert_close(merged["a"], english[EMBEDDING][tokens(ENGLISH)["a"]])
    only_german = german[EMBEDDING][tokens(GERMAN)["u"]]
    if method == "slerp":  # both count as having it, and slerp stretches by a factor that the whole tensor has
        torch.testing.assert_close(merged["u"] / merged["u"].norm(), only_german / only_german.norm())
    else:
        torch.testing.assert_close(merged["u"], only_german)


def test_a_token_that_a_fine_tune_lacks_stays_as_the_base_has_it(tmp_path: Path) -> None:
    paths, (_, german) = pair(tmp_path)
    merge_checkpoints(
        recipe(paths[:1], method="interpolate", base=str(paths[1]), scale=0.5, vocab="union"), tmp_path / "m"
    )
    assert torch.equal(rows(tmp_path / "m", EMBEDDING)["u"], german[EMBEDDING][tokens(GERMAN)["u"]])


def test_rows_can_be_taken_from_one_model(tmp_path: Path) -> None:
    paths, (english, german) = pair(tmp_path)
    merge_checkpoints(recipe(paths, vocab="union", rules=[{"match": "text_embedding", "take": "b"}]), tmp_path / "m")
    merged = rows(tmp_path / "m", EMBEDDING)
    assert torch.equal(merged["a"], german[EMBEDDING][tokens(GERMAN)["a"]])
    assert torch.equal(merged["d"], english[EMBEDDING][tokens(ENGLISH)["d"]])


def test_a_weight_of_0_reads_nothing_but_rows_that_only_that_model_has(tmp_path: Path) -> None:
    paths, (english, german) = pair(tmp_path)
    merge_checkpoints(recipe(paths, vocab="union", weights=[1, 0]), tmp_path / "m")
    merged = rows(tmp_path / "m", EMBEDDING)
    assert torch.equal(merged["a"], english[EMBEDDING][tokens(ENGLISH)["a"]])
    assert torch.equal(merged["u"], german[EMBEDDING][tokens(GERMAN)["u"]])


def test_merges_and_added_tokens_stay_consistent() -> None:
    contents = [json.dumps(one).encode() for one in (ENGLISH, GERMAN)]
    union = merge_vocabularies(contents, ["a", "b"], "union")
    assert union is not None
    parsed = json.loads(union.content)
    assert parsed["model"]["merges"] == ["a n", "u n"]
    assert [one["content"] for one in parsed["added_tokens"]] == [*SPECIAL, "[START]", "[en]", "[de]"]
    assert all(tokens(parsed)[one["content"]] == one["id"] for one in parsed["added_tokens"])
    common = merge_vocabularies(contents, ["a", "b"], "intersect")
    assert common is not None
    assert json.loads(common.content)["model"]["merges"] == []


def test_merges_may_be_pairs_as_newer_tokenizers_write_them() -> None:
    newer = json.loads(json.dumps(ENGLISH))
    newer["model"]["merges"] = [["a", "n"]]
    merged = merge_vocabularies([json.dumps(one).encode() for one in (newer, GERMAN)], ["a", "b"], "union")
    assert merged is not None
    assert json.loads(merged.content)["model"]["merges"] == ["a n", "u n"]


def test_equal_vocabularies_need_no_merging() -> None:
    spaced = json.dumps(ENGLISH, indent=4).encode()
    assert merge_vocabularies([json.dumps(ENGLISH).encode(), spaced], ["a", "b"], "union") is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda content: content.update(pre_tokenizer=None), "differ in pre_tokenizer: they split text by different"),
        (lambda content: content["model"].update(unk_token="?"), "differ in model.unk_token"),
        (lambda content: content["model"].update(merges=["a n d"]), "b: model.merges: expected pairs of tokens"),
        (lambda content: content["model"].update(merges=[3]), "b: model.merges: expected pairs of tokens"),
        (lambda content: content["model"].update(vocab={}, merges=[]) or content.update(added_tokens=[]), "no tokens"),
    ],
)
def test_vocabularies_that_do_not_go_together_are_refused(change: Any, expected: str) -> None:
    other = json.loads(json.dumps(GERMAN))
    change(other)
    with pytest.raises((ConfigError, IncompatibleError), match=expected):
        merge_vocabularies([json.dumps(one).encode() for one in (ENGLISH, other)], ["a", "b"], "union")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (4, "b: expected a row for each token, found row 4 for '\\[START\\]' and 'n'"),
        (-1, "b: model.vocab: the row of 'n': expected a whole number from 0 on, found -1"),
        (4.5, "found 4.5"),
        (True, "found True"),
    ],
)
@pytest.mark.parametrize("policy", ["union", "intersect"])
def test_rows_that_are_none_or_shared_are_refused(policy: str, row: Any, expected: str) -> None:
    other = json.loads(json.dumps(GERMAN))
    other["model"]["vocab"]["n"] = row
    with pytest.raises(ConfigError, match=expected):
        merge_vocabularies([json.dumps(one).encode() for one in (ENGLISH, other)], ["a", "b"], policy)


@given(st.lists(st.sets(st.sampled_from("andruvwxyz"), min_size=1), min_size=2, max_size=3))
def test_whatever_merges_the_tokenizers_library_loads_it_with_the_rows_of_the_result(words: list[set[str]]) -> None:
    from tokenizers import Tokenizer

    contents = [json.dumps(vocab(*sorted(each), "[START]")).encode() for each in words]
    for policy in ("union", "intersect"):
        merged = merge_vocabularies(contents, [str(number) for number in range(len(words))], policy)
        if merged is not None:
            assert max(Tokenizer.from_str(merged.content.decode()).get_vocab().values()) + 1 == merged.size
            assert all(rows.max() >= 0 for rows in merged.rows)


def test_nothing_in_common_is_refused() -> None:
    other = json.loads(json.dumps(GERMAN).replace("[STOP]", "[END]"))
    with pytest.raises(IncompatibleError, match="not vocabularies of XTTS"):
        merge_vocabularies([json.dumps(one).encode() for one in (ENGLISH, other)], ["a", "b"], "intersect")


def test_the_command_line_merges_vocabularies_when_told_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, _ = pair(tmp_path)
    arguments = ["merge", *map(str, paths), "--output", str(tmp_path / "m")]
    assert main(arguments) == 2
    assert "--vocab union" in capsys.readouterr().err
    assert main([*arguments, "--vocab", "union"]) == 0
    assert load(tmp_path / "m")[EMBEDDING].shape == (12, WIDTH)


@pytest.mark.integration
@pytest.mark.parametrize("policy", ["union", "intersect"])
def test_the_tokenizer_of_coqui_reads_the_merged_vocabulary(tmp_path: Path, policy: str) -> None:
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

    paths, _ = pair(tmp_path)
    merge_checkpoints(recipe(paths, vocab=policy), tmp_path / "m")
    tokenizer = VoiceBpeTokenizer(str(tmp_path / "m" / "vocab.json"))
    numbers = tokens(json.loads((tmp_path / "m" / "vocab.json").read_text(encoding="utf-8")))
    assert tokenizer.get_number_tokens() == load(tmp_path / "m")[EMBEDDING].shape[0]
    assert tokenizer.tokenizer is not None
    assert tokenizer.tokenizer.token_to_id("[START]") == numbers["[START]"]
    assert (tokenizer.tokenizer.token_to_id("[STOP]"), tokenizer.tokenizer.token_to_id("[UNK]")) == (0, 1)
    expected = ["[en]", "an", "d", "[SPACE]", "un"] if policy == "union" else None
    found = tokenizer.tokenizer.encode("[en]and[SPACE]un").tokens
    if expected is not None:
        assert found == expected
    else:
        assert "a" in found
        assert "an" not in found


def test_the_remedy_that_a_merge_names_for_a_vocabulary_leads_to_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, _ = pair(tmp_path)
    content = paths[1].with_name("vocab.json").read_text(encoding="utf-8")
    paths[1].with_name("vocab.json").write_text(json.dumps(vocab("x")), encoding="utf-8")
    (tmp_path / "training_vocab.json").write_text(content, encoding="utf-8")
    assert main(["merge", *map(str, paths), "--vocab", "union", "--output", str(tmp_path / "out")]) == 2
    assert "vocab_file in its recipe" in capsys.readouterr().err
    models = [{"path": str(paths[0])}, {"path": str(paths[1]), "vocab_file": str(tmp_path / "training_vocab.json")}]
    (tmp_path / "r.yaml").write_text(json.dumps({"models": models}), encoding="utf-8")
    assert main(["merge", str(tmp_path / "r.yaml"), "--vocab", "union", "--output", str(tmp_path / "out")]) == 0
