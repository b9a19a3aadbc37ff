"""Fixtures for all tests."""

from __future__ import annotations

import beartype  # noqa: F401 - before nnsight, which adds a method to `object` that beartype cannot be imported with
import pytest

import nnblip


@pytest.fixture(scope="session")
def model():
    """The small model that ships with nnblip; tests must leave it as it is."""
    return nnblip.BlipVQA()
