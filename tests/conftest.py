"""Fixtures for all tests."""

from __future__ import annotations

import os

# the bundled model is small: more threads cost more than they bring, here and in the programs that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")

import beartype  # noqa: F401 - before nnsight, which adds a method to `object` that beartype cannot be imported with
import numpy as np
import pytest

import nnblip

#: These need a server: scripts/test-remote.
collect_ignore = [] if "NNBLIP_SERVER_PYTHON" in os.environ else ["remote/server"]


def pytest_addoption(parser):
    parser.addoption("--cases", type=int, default=200, help="how many damages tests/adversary tries")
    parser.addoption("--kills", type=int, default=10, help="how many kills")
    parser.addoption("--disks", type=int, default=8, help="how many disks full of bytes, and of files")
    parser.addoption("--seed", type=int, default=0, help="which ones")


def pytest_terminal_summary(terminalreporter):
    """The figures of tests/adversary, a line each. (Of several processes of pytest's the first reads no other file.)"""
    for report in (one for reports in terminalreporter.stats.values() for one in reports):
        if getattr(report, "when", "") == "call":
            for name, value in report.user_properties:
                if name == "figures":
                    terminalreporter.write_line(value)


@pytest.fixture(scope="session")
def model():
    """The small model that ships with nnblip; tests must leave it as it is."""
    return nnblip.BlipVQA()


@pytest.fixture(scope="session")
def there():
    """The same model's structure, without weights."""
    return nnblip.BlipVQA(remote=True)


@pytest.fixture(scope="session")
def pixels():
    """A picture that is not symmetric in any way."""
    return np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
