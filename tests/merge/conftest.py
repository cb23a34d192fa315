"""What the tests of merging share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.models import least


@pytest.fixture
def least_models() -> Iterator[None]:
    """Have the package expect models of `tests.models.least`."""
    with least.least_models():
        yield
