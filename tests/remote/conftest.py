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


@pytest.fixture(scope="session")
def another_python(tmp_path_factory):
    """See `helpers/stock_server.py`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # forks have no other threads
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        [sys.executable, STOCK_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment, cwd=tmp_path_factory.mktemp("elsewhere"),
    )  # fmt: skip
    yield process
    process.communicate()


@pytest.fixture
def in_another_python(another_python, monkeypatch, tmp_path):
    sizes, files = [], [tmp_path / name for name in ("request", "answer", "said")]
    request_file, answer, said = files

    def answer_to(self, request, blob):
        request_file.write_bytes(blob)
        another_python.stdin.write("\t".join([*map(str, files), self.model_key]) + "\n")
        another_python.stdin.flush()
        if another_python.stdout.readline() != "0\n":
            raise ServerSays(said.read_text()[-3000:])
        sizes.append((len(blob), answer.stat().st_size))
        return torch.load(answer, weights_only=True)  # builtins and tensors, no classes of ours

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
