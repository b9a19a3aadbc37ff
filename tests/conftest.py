"""Fixtures for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import beartype  # noqa: F401 - before nnsight, which adds a method to `object` that beartype cannot be imported with
import pytest
import torch

import nnblip
from nnblip.remote import client
from nnblip.remote.faults import ServerSays

HERE = Path(__file__).parent

#: These need a server: scripts/test-remote.
collect_ignore = [] if "NNBLIP_SERVER_PYTHON" in os.environ else ["remote"]


@pytest.fixture(scope="session")
def model():
    """The small model that ships with nnblip; tests must leave it as it is."""
    return nnblip.BlipVQA()


@pytest.fixture(scope="session")
def there():
    """The same model's structure, without weights."""
    return nnblip.BlipVQA(remote=True)


@pytest.fixture
def stock(monkeypatch, tmp_path):
    """Requests run in a Python that has nothing of ours, see `stock_server.py`; gives their sizes, up and down."""
    sizes = []

    def request(self, envelope, tracer):
        (tmp_path / "request").write_bytes(blob := self._serialize(tracer))
        command = [sys.executable, HERE / "stock_server.py", tmp_path / "request", self.model_key, tmp_path / "answer"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
        if done.returncode:
            raise ServerSays(done.stderr[-3000:])
        sizes.append((len(blob), (tmp_path / "answer").stat().st_size))
        return torch.load(tmp_path / "answer", weights_only=True)  # builtins and tensors, no classes of ours

    monkeypatch.setattr(client.Backend, "request", request)
    monkeypatch.setattr(client, "check", lambda host: None)
    return sizes
