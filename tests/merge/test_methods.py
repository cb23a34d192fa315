"""The registry of the methods of merging."""

from __future__ import annotations

import re

from xtts_export_callback.cli import merge
from xtts_export_callback.merge.methods.registry import METHODS, PAPERS, WITH_BASE, methods_using


def test_every_method_has_its_paper() -> None:
    assert all(
        re.search(r"et al\.|Shoemake", paper) and re.search(r"\b(19|20)\d\d\b", paper) for paper in PAPERS.values()
    )


def test_the_command_line_offers_every_method() -> None:
    assert sorted(merge._METHODS) == sorted(METHODS)


def test_methods_that_scale_changes_are_those_with_a_base_that_do_not_find_the_scale_themselves() -> None:
    assert set(methods_using("scale")) == set(WITH_BASE) - {"model_stock"}
