"""The house: one folder for each question, imports that point one way, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "xtts_export_callback"
ROOT = Path(__file__).parents[1] / PACKAGE

# Read from the top: a module imports its own folder and those above it. A new module is entered here.
HOUSE = {
    "": "errors units process quiet extras suggestions",
    "files": (
        "random_access part clone atomic crc32 digest threads processes disk json_file paths printable "
        "mistaken_download compressed remote remote_file remote_output"
    ),
    "tensors": "tensor dtypes computed cast weighted_sum shared_storage quantize sparse",
    "checkpoint": (
        "reader fingerprint writer zip_format zip_reader zip_writer unpickler placeholders pickled_keys pickler "
        "torch_objects document safetensors legacy numbers quantized"
    ),
    "xtts": (
        "state_dict components architecture expected_shapes assets loadable companions model_config vocab parts "
        "patterns matrices release_config"
    ),
    "inference_folder": "folder provenance load compute layouts auralis voice ownership weights",
    "run": "checkpoints retention resume lr_schedule log optimizer_state running_mean",
    "export": "export precision",
    "merge": "merge average decay recipe yaml plan models vocabulary running_mean",
    "merge.methods": "registry settings slerp ties weighted_sums model_stock",
    "inspection": "checkpoint run tree table removals columns",
    "comparison": "models trajectory distance metadata summary table plot figure",
    "verification": "archive provenance model run contents folder layout zip_directory faults weights_only prune",
    "evaluation": (
        "candidates choose evaluate intervals loss plots prepare results soup sweep table trainer_config "
        "evaluate_recordings faults kept_files measures recogniser recordings sentences sound speak speaking "
        "speaking_model speech speech_evaluation voices words recommend"
    ),
    "evaluation.page": "page listening figures sound",
    "hub": "card contents private push",
    "training": (
        "callback hooks config trainer_config recipe_config saving exporter retention background worker_client worker "
        "dashboard log best_model_copy save_errors trainer_state restore templates overrides preflight packing "
        "presence coqui_fields forecast running_mean attach launch terminate recommending best_clip"
    ),
    "training.startup": "sitecustomize",
    "train_gpt_xtts": "",
    "demo": "demo tiny_model speech_samples",
    "cli": (
        "main options progress json_output reporting completion help_format merge_output speech_options average "
        "compare demo evaluate export inspect merge prune push report run speak train verify"
    ),
}
# What stands at the door: the command, and the names that the package offers.
DOOR = {"__main__", "__init__"}

COQUI = {"TTS", "trainer", "coqpit"}
KNOW_COQUI = {
    *("training.config", "training.trainer_config", "training.hooks", "training.running_mean"),
    *("train_gpt_xtts", "demo.tiny_model", "demo.demo", "inference_folder.load"),
    *("evaluation.loss", "evaluation.trainer_config", "evaluation.speaking_model", "evaluation.words"),
}
IMPORT_TTS = KNOW_COQUI - {"training.config", "training.hooks", "training.running_mean"}

# They import fsspec when the first URL is used.
READ_URLS = {"files.remote", "files.remote_file"}

# Modules that are imported only together with a training or a model, when the seconds are spent anyway.
MAY_COST_SECONDS = {"training.trainer_config", "inference_folder.compute"}
SLOW = {"TTS", "trainer", "torch", "torchaudio", "transformers"}


class Import(NamedTuple):
    """One import statement, wherever it stands in its module."""

    module: str
    target: str
    lazy: bool
    typing_only: bool


def module_names() -> list[str]:
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py"))


def imports(module: str) -> list[Import]:
    tree = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
    return list(_imports(module, tree, lazy=False, typing_only=False))


def _imports(module: str, node: ast.AST, *, lazy: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for target in _targets(child):
            yield Import(module, target, lazy, typing_only)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(module, child, lazy=lazy, typing_only=True)
        else:
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(module, child, lazy=inside, typing_only=typing_only)


def _targets(node: ast.AST) -> list[str]:
    """What a statement imports: ``import a``, ``from a import b`` or ``importlib.import_module("a")``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level:
            pytest.fail(f"line {node.lineno}: relative import; write it in full")
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        modules = [name for name in names if name.removeprefix(f"{PACKAGE}.") in MODULES]
        return names if node.module == PACKAGE else modules or [node.module or ""]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__"}:
        return [argument.value for argument in node.args[:1] if _is_text(argument)]  # type: ignore[attr-defined]
    return []


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_ours(target: str) -> bool:
    return target.partition(".")[0] == PACKAGE


def own_name(target: str) -> str:
    """The module of ours that an import reaches: ``tensors.tensor`` for ``PACKAGE.tensors.tensor``."""
    name = target.removeprefix(f"{PACKAGE}.")
    outer = name.rpartition(".")[0]
    return outer if name not in MODULES and outer in MODULES else name


def folder(module: str) -> str:
    return "" if module in HOUSE[""].split() else module if module in HOUSE else module.rpartition(".")[0]


def floor(module: str) -> int:
    """How far down in the house a module stands; its methods belong to merging."""
    return [name.partition(".")[0] for name in HOUSE].index(folder(module).partition(".")[0])


MODULES = {name.removesuffix(".__init__") for name in module_names()}
LISTED = {f"{room}.{name}".lstrip(".") for room, names in HOUSE.items() for name in names.split()}
LISTED |= {room for room in HOUSE if room} | DOOR
ALL = [statement for module in module_names() for statement in imports(module)]


def offenders(found: list[Import]) -> list[str]:
    return sorted({f"{statement.module} imports {statement.target}" for statement in found})


def test_every_module_has_its_room_and_every_room_its_modules() -> None:
    assert MODULES == LISTED


def test_every_file_says_in_a_sentence_what_it_is_for() -> None:
    first = {name: ROOT.joinpath(*name.split(".")).with_suffix(".py").read_text("utf-8") for name in module_names()}

    assert [name for name, text in first.items() if not text.startswith('"""')] == []


def test_a_module_imports_its_own_folder_and_those_above_it() -> None:
    ours = [(s, own_name(s.target)) for s in ALL if is_ours(s.target) and s.module not in DOOR]
    inside = [(s, target) for s, target in ours if target in MODULES - DOOR]

    assert offenders([s for s, target in inside if floor(target) > floor(s.module.removesuffix(".__init__"))]) == []


def test_modules_import_each_other_and_not_the_names_that_the_package_offers() -> None:
    offered = [s for s in ALL if is_ours(s.target) and own_name(s.target) not in MODULES]
    others = [s for s in offered if s.target != f"{PACKAGE}.__version__"]

    # the recipe shows the lines that users add to their own script
    assert offenders([s for s in others if s.module != "train_gpt_xtts"]) == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {name.removesuffix(".__init__"): set() for name in module_names()}
    for statement in ALL:
        target = statement.target.removeprefix(f"{PACKAGE}.")
        source = statement.module.removesuffix(".__init__")
        # Inside a subpackage its __init__ only gathers names; the package's own resolves them on first use.
        if target in graph and not statement.typing_only and not statement.lazy and target != source:
            graph[source].add(target)

    while free := {name for name, targets in graph.items() if not targets & set(graph)}:
        graph = {name: targets for name, targets in graph.items() if name not in free}

    assert graph == {}


def test_reading_and_writing_checkpoints_takes_numpy_and_the_standard_library_alone() -> None:
    where_installed = {"isal", "blake3"}
    allowed = set(sys.stdlib_module_names) | {PACKAGE, "numpy"} | where_installed
    core = [s for s in ALL if s.module.partition(".")[0] in ("files", "tensors", "checkpoint")]
    core = [s for s in core if s.module not in READ_URLS or not s.lazy]

    assert offenders([s for s in core if s.target.partition(".")[0] not in allowed]) == []


def test_few_modules_know_coqui() -> None:
    found = [s for s in ALL if s.target.partition(".")[0] in COQUI]

    assert offenders([s for s in found if s.module not in KNOW_COQUI]) == []
    assert offenders([s for s in found if s.target.partition(".")[0] == "TTS" and s.module not in IMPORT_TTS]) == []


def test_imports_that_take_seconds_stand_inside_functions() -> None:
    found = [s for s in ALL if s.target.partition(".")[0] in SLOW and not s.lazy and not s.typing_only]

    assert offenders([s for s in found if s.module not in MAY_COST_SECONDS]) == []


def imported_by(code: str) -> set[str]:
    """Top-level modules that a new interpreter has imported after running some code."""
    command = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(f"import {PACKAGE}", id="import of the package"),
        pytest.param(
            f"from {PACKAGE}.cli.main import main\ntry: main(['--help'])\nexcept SystemExit as e: assert not e.code",
            id="xtts-export --help",
        ),
    ],
)
def test_starting_imports_nothing_heavy(code: str) -> None:
    heavy = {*SLOW, "coqpit", "numpy", "matplotlib", "rich", "safetensors", "yaml"}

    assert imported_by(code) & heavy == set()


def test_functions_on_files_import_neither_torch_nor_coqui() -> None:
    names = "export_checkpoint, average_checkpoints"

    assert imported_by(f"from {PACKAGE} import {names}") & {*SLOW, *COQUI} == set()
