"""Python runs this as it starts under ``xtts-export run``: it waits for the program to import the Trainer.

It may be any Python that the program starts, so that nothing of ours is imported until then.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - the program may not use pathlib
_AWAITED = "trainer.callbacks"


class _Wait:
    """Finds the awaited module as the other finders do, and switches the callback on once it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _AWAITED:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            _call_after(spec.loader)
        return spec


def _call_after(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        try:
            from xtts_export_callback.training.attach import switch_on

            switch_on(module)
        except Exception as error:
            line = f"xtts-export run: no export in {sys.executable}: {error}; install xtts-export-callback there"
            print(line, file=sys.stderr)

    loader.exec_module = exec_module


def _start() -> None:
    sys.meta_path.insert(0, _Wait())
    # The program sees the path that it would have without us, and the module of this name that it would have.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]  # noqa: PTH100
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    sys.modules["sitecustomize"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    _start()
