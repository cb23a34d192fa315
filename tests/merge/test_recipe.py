"""Recipes: what is accepted, and how everything else is refused in one line with file, key, expected and found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.generated import SPECIFICATION
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.merge.recipe import BASE, load_recipe, model_sources

TWO = "models: [a.pth, b.pth]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    """What is said of a recipe, without its path, which has to come first."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 600
    return message.removeprefix(f"{path}: ")


def test_a_recipe_says_everything(tmp_path: Path) -> None:
    text = """
    method: task_arithmetic
    base: {path: official/model.pth, vocab_file: official/vocab.json}
    scale: 0.7
    normalize: false
    models:
      - {path: a/checkpoint_1.pth, name: anna, weight: 0.6}
      - {path: /b/model.pth, weight: 0.4, config: b.json}
    integers: first
    vocab: union
    dtype: float16
    precision: {decoder: float32, gpt: int8}
    rules:
      - {match: perceiver, take: anna}
      - {match: [decoder, gpt.gpt.h.1.**], method: ties, density: 0.3, weights: {anna: 1, b: 2}}
      - {match: gpt, take: base}
    """
    recipe = load_recipe(write(tmp_path, text))
    assert [source.path for source in recipe.inputs] == [
        tmp_path / "a/checkpoint_1.pth", Path("/b/model.pth"), tmp_path / "official/model.pth"
    ]  # fmt: skip
    assert [source.name for source in recipe.inputs] == ["anna", "b", BASE]
    assert recipe.base is not None
    assert recipe.base.vocab == tmp_path / "official/vocab.json"
    assert recipe.models[1].config == tmp_path / "b.json"
    assert (recipe.settings.method, recipe.settings.weights, recipe.settings.scale) == (
        "task_arithmetic",
        (0.6, 0.4),
        0.7,
    )
    assert (recipe.integers, recipe.vocab, recipe.dtype) == ("first", "union", "float16")
    assert list(recipe.precision.items()) == [("decoder", "float32"), ("gpt", "int8")]
    takes_anna, ties, takes_base = recipe.rules
    assert (takes_anna.take, takes_base.take) == ("anna", "base")
    assert ties.settings is not None
    assert (ties.settings.method, ties.settings.weights, ties.settings.density) == ("ties", (1.0, 2.0), 0.3)
    assert ties.settings.scale == 1.0  # another method does not inherit the recipe's


def test_a_dict_is_a_recipe_too(tmp_path: Path) -> None:
    assert load_recipe({"models": ["a.pth", "b.pth"]}).settings.effective == (0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a mapping with models, base"),
        ("- models", "expected a mapping with models, base"),
        ("modles: [a, b]", "modles: unknown key; did you mean models?"),
        (TWO + "colour: 1", "colour: unknown key; expected one of models, base"),
        ("method: linear", "models: expected a list of models, found nothing"),
        ("models: a.pth", "models: expected a list of models, found 'a.pth'"),
        ("models: [a.pth]", "models: expected at least 2 for linear, found 1"),
        ("models: [a.pth, 3]", "models[1]: expected a mapping with path"),
        ("models: [a.pth, {weight: 1}]", "models[1]: expected either path or run"),
        ("models: [a.pth, {path: b.pth, run: r}]", "models[1]: expected either path or run"),
        ("models: [a.pth, {path: b.pth, wieght: 1}]", "models[1].wieght: unknown key; did you mean weight?"),
        ("models: [a.pth, {path: b.pth, weight: 1}]", "models: expected a weight at every model or at none"),
        ("models: [a.pth, {path: 2024-01-01}]", "models[1].path: expected a string, found datetime.date"),
        ("models: [a.pth, {path: b.pth, last: 3}]", "models[1].last: expected run in place of path"),
        ("models: [x/a.pth, y/a.pth]", "models: expected a unique name for each (key name), found 'a'"),
        (TWO + "method: lineer", "method: expected one of linear, slerp"),
        (TWO + "method: lineer", "found 'lineer'; did you mean linear?"),
        (TWO + "method: ties", "base: expected a base for ties, found nothing"),
        (TWO + "base: c.pth", "base: expected a method that uses the base"),
        (TWO + "base: {path: c.pth, weight: 1}", "base.weight: unknown key"),
        ("models: [a, b, c]\nmethod: slerp", "models: expected exactly 2 for slerp, found 3"),
        (TWO + "weights: [1]", "weights: expected 2 numbers, one for each model, found [1]"),
        (TWO + "weights: [1, .nan]", "weights[1]: expected a finite number, found nan"),
        (TWO + "weights: [1, .inf]", "weights[1]: expected a finite number, found inf"),
        (TWO + "weights: [1, true]", "weights[1]: expected a finite number, found True"),
        (TWO + "weights: [1, 1:30]", "weights[1]: expected a finite number, found '1:30'"),
        (TWO + f"weights: [1, 0x{'f' * 4500}]", "weights[1]: expected a finite number, found '0xfff"),
        (TWO + f"weights: [1, {'9' * 400}]", "weights[1]: expected a finite number, found 999"),
        (TWO + "weights: [1, -1]", "weights: 1.0 -1.0 sum to 0, so they cannot be normalised"),
        (TWO + "weights: [0, 0]", "weights: 0.0 0.0 sum to 0"),
        ("models: [a, b, c]\nweights: [0.1, 0.2, -0.3]", "sum to 0"),
        (TWO + "weights: {a: 1}", "weights: expected a weight for each model, 0 to leave one out; b has none"),
        (TWO + "weights: {a: 1, bb: 1}", "weights.bb: unknown key; did you mean b?"),
        ("models: [{path: a, weight: 1}, {path: b, weight: 1}]\nweights: [1, 1]", "weights: expected weights either"),
        (TWO + "scale: 0.5", "scale: expected a method that uses it (task_arithmetic, ties, interpolate), found"),
        (TWO + "density: 0.5", "density: expected a method that uses it (ties)"),
        (TWO + "method: slerp\nnormalize: false", "normalize: expected a method that uses it (linear, task"),
        (TWO + "normalize: maybe", "normalize: expected true or false, found 'maybe'"),
        (TWO + "base: c\nmethod: interpolate\nscale: 1.5", "scale: expected a finite number from 0 to 1, found 1.5"),
        (TWO + "base: c\nmethod: ties\ndensity: 0", "density: expected a number over 0"),
        (TWO + "base: c\nmethod: ties\nweights: [1, -0.5]", "weights: expected weights of at least 0 for ties"),
        (TWO + "integers: median", "integers: expected one of last, first, found 'median'"),
        (TWO + "vocab: both", "vocab: expected one of union, intersect"),
        (TWO + "dtype: int4", "dtype: expected one of float32, float16, bfloat16, int8"),
        (TWO + "precision: float16", "precision: expected types by pattern, such as {decoder: float32}, found"),
        (TWO + "precision: [gpt]", "precision: expected types by pattern"),
        (TWO + "precision: {1: float16}", "precision: expected types by pattern"),
        (TWO + "precision: {gpt: int4}", "precision.gpt: expected one of float32, float16, bfloat16, int8, found"),
        (TWO + "rules: {}", "rules: expected a list of rules"),
        (TWO + "rules: [gpt]", "rules[0]: expected a mapping with match"),
        (TWO + "rules: [{take: a}]", "rules[0].match: expected a pattern or a list of patterns, found nothing"),
        (TWO + "rules: [{match: gpt}]", "rules[0]: expected either take or some of method"),
        (TWO + "rules: [{match: gpt, take: a, weights: [1, 2]}]", "rules[0]: expected either take or some of method"),
        (TWO + "rules: [{match: gpt, take: c}]", "rules[0].take: expected one of a, b, found 'c'"),
        (TWO + "rules: [{match: gpt, take: base}]", "rules[0].take: expected one of a, b, found 'base'"),
        (TWO + "rules: [{match: gpt, method: ties}]", "rules[0].method: expected a base for ties, found 'ties'"),
        (TWO + "rules: [{match: gpt, weights: [1, -1]}]", "rules[0].weights: 1.0 -1.0 sum to 0"),
        (TWO + "rules: [{match: gpt, weights: {a: x, b: 1}}]", "rules[0].weights.a: expected a finite number, found"),
        (TWO + "dtype: float16\ndtype: float32", "line 3: the key 'dtype' occurs twice; keep one"),
        ("models: &all [a, b]\nrules: *all", "line 2: aliases (*name) are not used in recipes"),
        ("models: [a, b", "line 1: expected ',' or ']'"),
        ("models: [a, b]\n\tdtype: float32", "line 2: found character"),
        ("models: !!python/object/apply:os.system [id]", "line 1: could not determine a constructor"),
        ("models: [a, \"b\\0\"]", "models[1].path: expected a string"),
        ("models: [a, \"\\uD800\"]", "models[1].path: expected a string"),
        ("models: [a, {path: b, vocab_file: \"\\uD800\"}]", "models[1].vocab_file: expected a string"),
        (TWO + "weights: [1, 1e-200]", "weights: expected 0 or at least 1e-100, found 1.0 1e-200"),
        (TWO + "weights: [!!int '', 1]", "line 2: '' cannot be read as int; correct the recipe"),
        (TWO + "weights: [!!float '', 1]", "line 2: '' cannot be read as float; correct the recipe"),
        (TWO + "normalize: !!bool maybe", "line 2: 'maybe' cannot be read as bool; correct the recipe"),
        (TWO + "weights: [!!timestamp x, 1]", "line 2: 'x' cannot be read as timestamp; correct the recipe"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_by_key(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "content", [b"\x80\x02}q", b"PK\x03\x04\xff\xfe", b"models: [" + b"[" * 5000, b"a: 1\n" * 60_000]
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load_recipe(path)


def test_aliases_that_would_stand_for_billions_of_values_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    assert "aliases" in refusal(tmp_path, "\n".join(lines))


def test_a_run_stands_for_its_last_checkpoints_and_too_few_are_listed(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        (tmp_path / f"checkpoint_{step}.pth").write_bytes(b"")
    models = load_recipe(write(tmp_path, "models: [{run: ., last: 2, name: anna}]")).models
    assert [(model.path.name, model.name) for model in models] == [
        ("checkpoint_20.pth", "anna_20"),
        ("checkpoint_100.pth", "anna_100"),
    ]
    assert "models[0].last: " in (said := refusal(tmp_path, "models: [{run: ., last: 4}]"))
    assert "steps: 5, 20, 100" in said


def test_each_run_may_stand_for_its_last_checkpoint_alone(tmp_path: Path) -> None:
    for name in ("anna/checkpoint_1.pth", "anna/checkpoint_2.pth", "bert/checkpoint_7.pth"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    models = load_recipe(write(tmp_path, "models: [{run: anna, last: 1}, {run: bert, last: 1}]")).models
    assert [Path(model.path).name for model in models] == ["checkpoint_2.pth", "checkpoint_7.pth"]


def test_models_on_the_command_line_get_names_of_their_own() -> None:
    paths = [Path("x/model.pth"), Path("y/checkpoint_1.pth"), Path("z/checkpoint_1.pth"), Path("base")]
    assert [source.name for source in model_sources(paths)] == ["x", "checkpoint_1", "checkpoint_1_2", "base_2"]


plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["a", "ties", "base"])
)
KEYS = [
    "models",
    "base",
    "method",
    "weights",
    "rules",
    "scale",
    "density",
    "path",
    "run",
    "last",
    "match",
    "take",
    "name",
]
values: st.SearchStrategy[Any] = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=5))
@settings(SPECIFICATION, max_examples=400)
def test_any_mapping_is_a_recipe_or_refused_in_one_line(content: dict[str, Any]) -> None:
    try:
        load_recipe({"models": ["a", "b"], **content})
    except ConfigError as error:
        assert str(error).startswith("recipe: ")
        assert len(str(error).splitlines()) == 1


@given(st.text("models:[]{}&*!-#'\"\\ \n\tab01.~?|>%@`<", max_size=60))
@settings(SPECIFICATION, max_examples=400)
def test_any_text_is_a_recipe_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = write(tmp_path_factory.getbasetemp(), text)
    try:
        load_recipe(path)
    except ConfigError as error:
        assert str(error).startswith(str(path))


def test_on_the_command_line_a_wrong_recipe_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, TWO + "wieghts: [1, 2]")
    assert main(["merge", str(path)]) == 2
    assert capsys.readouterr().err == f"xtts-export: {path}: wieghts: unknown key; did you mean weights?\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs").glob("merge_*.yaml")), ids=lambda p: p.stem
)
def test_the_recipes_that_come_along_are_right(path: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for model in content["models"]:
        if "run" in model:
            run = tmp_path / model["run"]
            run.mkdir(parents=True)
            for step in range(model["last"]):
                (run / f"checkpoint_{step}.pth").write_bytes(b"")
    assert load_recipe(write(tmp_path, path.read_text(encoding="utf-8"))).models
