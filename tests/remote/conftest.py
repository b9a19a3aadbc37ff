"""A real NDIF server, made by `nnblip serve` with the Python that NNBLIP_SERVER_PYTHON names, for these tests only."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from nnsight.schema.config import CONFIG

import nnblip
from nnblip import remote
from nnblip.serving.stack import free_port

ROOT = Path(__file__).parents[2]
READY_SECONDS = 400


class Server:
    """`nnblip serve`, started and stopped at will."""

    def __init__(self, log: Path) -> None:
        self.log, self.port = log, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None
        self.seconds = 0.0

    def start(self) -> None:
        python = os.environ.get("NNBLIP_SERVER_PYTHON")
        if not python:
            pytest.fail("NNBLIP_SERVER_PYTHON is not set: run scripts/test-remote")
        assert self.process is None or self.process.poll() is not None, "it runs already"
        began = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, "-m", "nnblip", "serve", "--port", str(self.port)],
                env=environment, stdout=log, stderr=subprocess.STDOUT, cwd="/",
            )  # fmt: skip
        while "Ready after" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - began < READY_SECONDS, self.log.read_text()
            time.sleep(0.5)
        self.seconds = time.monotonic() - began

    def stop(self) -> int:
        """Its exit code; the test fails if it leaves a process behind."""
        mine = self.processes()
        self.process.terminate()
        code = self.process.wait(60)
        left = [pid for pid in mine if Path(f"/proc/{pid}").exists() and not zombie(pid)]
        assert not left, f"{left} still run"
        return code

    def processes(self, named: str = "") -> list[int]:
        """Those that this server consists of (its port is in their environment), with a text in the command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                mine = f"NDIF_API_PORT={self.port}\0".encode() in (folder / "environ").read_bytes() + b"\0"
                # Ray's workers write their names over their environment
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mine and named in command:
                found.append(int(folder.name))
        return found


def zombie(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("server") / "log")
    running.start()
    before = CONFIG.API.HOST
    CONFIG.API.HOST = running.url
    yield running
    CONFIG.API.HOST = before
    if running.process.poll() is None:
        running.stop()


@pytest.fixture(scope="session")
def far(server):
    return nnblip.BlipVQA(remote=True)


@pytest.fixture(scope="session")
def local():
    return nnblip.BlipVQA()


@pytest.fixture(scope="session")
def there(far):
    return far


@pytest.fixture
def stock(server, monkeypatch):
    """What the tests without a server call their stand-in for one; gives the sizes of requests, up and down."""
    sizes, finalize = [], remote.Backend.finalize

    def finalized(self, content):
        sizes.append((self.sent, len(content)))
        return finalize(self, content)

    monkeypatch.setattr(remote.Backend, "finalize", finalized)
    return sizes
