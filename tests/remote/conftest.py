"""Where requests go: to a stand-in, or to a real server where scripts/test-remote says how to start one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.servers import Server, running

from nnblip.remote import client
from nnblip.remote.faults import ServerSays

STOCK_SERVER = Path(__file__).parents[1] / "helpers" / "stock_server.py"


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for all tests, as long as they leave it alive."""
    with running(Server(tmp_path_factory.mktemp("server") / "log")) as found:
        yield found


@pytest.fixture
def stock(request):
    """Something that has nothing of ours does what is asked; gives the sizes of requests, up and down."""
    return request.getfixturevalue("on_a_server" if "NNBLIP_SERVER_PYTHON" in os.environ else "in_another_python")


@pytest.fixture
def in_another_python(monkeypatch, tmp_path):
    """See `helpers/stock_server.py`."""
    sizes = []

    def answer_to(self, request, blob):
        (tmp_path / "request").write_bytes(blob)
        command = [sys.executable, STOCK_SERVER, tmp_path / "request", self.model_key, tmp_path / "answer"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
        if done.returncode:
            raise ServerSays(done.stderr[-3000:])
        sizes.append((len(blob), (tmp_path / "answer").stat().st_size))
        return torch.load(tmp_path / "answer", weights_only=True)  # builtins and tensors, no classes of ours

    monkeypatch.setattr(client.Backend, "_answer_to", answer_to)
    monkeypatch.setattr(client, "check", lambda host: None)
    return sizes


@pytest.fixture
def on_a_server(server, monkeypatch):
    sizes, finalize = [], client.Backend.finalize

    def finalized(self, content):
        sizes.append((self.sent, len(content)))
        return finalize(self, content)

    monkeypatch.setattr(client.Backend, "finalize", finalized)
    return sizes
