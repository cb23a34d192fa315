"""What the tests of merging share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.merge import models


@pytest.fixture
def least_models() -> Iterator[None]:
    """Have the package expect models of `tests.merge.models`."""
    with models.least_models():
        yield
