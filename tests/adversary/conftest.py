"""What all adversaries share: how they say their figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest


@pytest.fixture
def figures(record_property) -> Callable[[str], None]:
    """Says a line at the end of the whole run, see `pytest_terminal_summary` in tests/conftest.py."""
    return partial(record_property, "figures")
