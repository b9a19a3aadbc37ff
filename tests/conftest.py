"""Fixtures for all tests."""

from __future__ import annotations

import os

import beartype  # noqa: F401 - before nnsight, which adds a method to `object` that beartype cannot be imported with
import pytest

import nnblip

#: These need a server: scripts/test-remote.
collect_ignore = [] if "NNBLIP_SERVER_PYTHON" in os.environ else ["remote"]


@pytest.fixture(scope="session")
def model():
    """The small model that ships with nnblip; tests must leave it as it is."""
    return nnblip.BlipVQA()
