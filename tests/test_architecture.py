"""What may import what, and what importing the package costs."""

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

# Lowest first. A module imports from its own layer and from those below it, never from above. Subpackages are named as
# one. A new module is entered here.
LAYERS = (
    {"errors", "sizes", "process", "printable", "paths"},
    {"checkpoint"},
    {"json_file", "model_config", "architecture", "expected_shapes", "loadable", "vocab", "companions"},
    {
        *("assets", "combine", "folder", "runs", "next_resume", "disk", "schedule", "export", "average"),
        *("merge", "inspection", "comparison", "verification"),
    },
    {"config", "trainer_config", "recipe_config", "speech_samples", "preflight", "tiny_model", "load"},
    {
        *("worker", "background", "dashboard", "exporter", "hooks"),
        *("saving", "save_errors", "shortcut", "trainer_state", "resume"),
    },
    {"callback", "evaluate", "report", "train_gpt_xtts"},
    {"demo"},
    {"commands", "cli"},
    {"__init__"},
)

COQUI = {"TTS", "trainer", "coqpit"}
KNOW_COQUI = {
    *("config", "trainer_config", "hooks"),
    *("evaluate", "train_gpt_xtts", "tiny_model", "demo", "load"),
}
IMPORT_TTS = KNOW_COQUI - {"config", "hooks"}

# Modules that are imported only together with a training or a model, when the seconds are spent anyway.
MAY_COST_SECONDS = {"trainer_config"}
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
        if node.module == PACKAGE:
            return [f"{PACKAGE}.{alias.name}" for alias in node.names]
        return [node.module or ""]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__"}:
        return [argument.value for argument in node.args[:1] if _is_text(argument)]  # type: ignore[attr-defined]
    return []


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def top(name: str) -> str:
    """``xtts_export_callback.checkpoint.read`` and ``checkpoint.read`` are part of ``checkpoint``."""
    return name.removeprefix(f"{PACKAGE}.").partition(".")[0]


def is_ours(target: str) -> bool:
    return target.partition(".")[0] == PACKAGE


def layer(name: str) -> int:
    return next((number for number, names in enumerate(LAYERS) if top(name) in names), -1)


ALL = [statement for module in module_names() for statement in imports(module)]


def offenders(found: list[Import]) -> list[str]:
    return sorted({f"{statement.module} imports {statement.target}" for statement in found})


def test_every_module_has_a_layer() -> None:
    assert [name for name in module_names() if layer(name) < 0] == []


def test_imports_point_one_way() -> None:
    modules = {top(name) for name in module_names()}
    ours = [s for s in ALL if is_ours(s.target) and top(s.target) in modules]

    assert offenders([s for s in ours if layer(s.target) > layer(s.module)]) == []


def test_modules_import_each_other_and_not_the_names_that_the_package_offers() -> None:
    modules = {top(name) for name in module_names()}
    offered = [s for s in ALL if s.target == PACKAGE or (is_ours(s.target) and top(s.target) not in modules)]
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
    allowed = set(sys.stdlib_module_names) | {PACKAGE, "numpy", "isal"}  # isal in place of zlib, where it is installed
    foreign = [s for s in ALL if top(s.module) == "checkpoint" and s.target.partition(".")[0] not in allowed]

    assert offenders(foreign) == []
    assert offenders([s for s in foreign if not s.lazy and not s.typing_only]) == []


def test_few_modules_know_coqui() -> None:
    found = [s for s in ALL if s.target.partition(".")[0] in COQUI]

    assert offenders([s for s in found if top(s.module) not in KNOW_COQUI]) == []
    assert (
        offenders([s for s in found if s.target.partition(".")[0] == "TTS" and top(s.module) not in IMPORT_TTS]) == []
    )


def test_imports_that_take_seconds_stand_inside_functions() -> None:
    found = [s for s in ALL if s.target.partition(".")[0] in SLOW and not s.lazy and not s.typing_only]

    assert offenders([s for s in found if top(s.module) not in MAY_COST_SECONDS]) == []


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
            f"from {PACKAGE}.cli import main\ntry: main(['--help'])\nexcept SystemExit as end: assert not end.code",
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
