"""Fixtures for all tests."""

from __future__ import annotations

import pytest

import nnblip


@pytest.fixture(scope="session")
def model():
    """The small model that ships with nnblip; tests must leave it as it is."""
    return nnblip.BlipVQA()
