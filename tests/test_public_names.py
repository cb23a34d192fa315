"""What ``import xtts_export_callback`` offers: every name resolves, has types, and is described."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import xtts_export_callback as package
from xtts_export_callback import errors

SCRIPT = Path(__file__).with_name("typed_script.py")
PYTHON_PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def imported_for_types() -> dict[str, str]:
    """The names that a type checker sees, each with its module."""
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
    ours = [node for node in imports if node.module and node.module.startswith(f"{package.__name__}.")]
    return {
        alias.name: node.module.removeprefix(f"{package.__name__}.")
        for node in ours
        for alias in node.names
        if node.module and alias.name != "require"
    }


@pytest.mark.parametrize("name", package.__all__)
def test_every_name_resolves_and_has_a_docstring(name: str) -> None:
    assert getattr(package, name).__doc__


def test_type_checkers_see_the_names_that_resolve() -> None:
    assert imported_for_types() == package._MODULES
    assert sorted(package.__all__) == sorted(package._MODULES)


def test_every_error_is_offered() -> None:
    raised = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert raised <= set(package.__all__)


def test_every_function_s_result_is_offered() -> None:
    for name in package.__all__:
        function = getattr(package, name)
        result = getattr(function, "__annotations__", {}).get("return")
        module = importlib.import_module(f"{package.__name__}.{package._MODULES[name]}")
        if isinstance(result, str) and isinstance(getattr(module, result, None), type):
            assert result in package.__all__, f"{name} returns {result}"


def test_every_name_is_described_on_the_page_about_python() -> None:
    text = PYTHON_PAGE.read_text(encoding="utf-8")
    assert [name for name in package.__all__ if f"`{name}" not in text] == []


def test_a_script_that_uses_every_name_passes_mypy_strict(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    used = {node.id for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)}
    assert set(package.__all__) <= used
    script = tmp_path / "script.py"
    script.write_bytes(SCRIPT.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", script],
        cwd=SCRIPT.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
