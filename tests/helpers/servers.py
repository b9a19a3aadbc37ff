"""Real NDIF servers, made by `nnblip serve` with the Python that NNBLIP_SERVER_PYTHON names, for these tests only."""

import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from functools import partial
from pathlib import Path

import psutil
import pytest
from nnsight.schema.config import CONFIG

from helpers.slow import over
from nnblip.remote import client
from nnblip.remote.server.stack import free_port

ROOT = Path(__file__).parents[2]
READY_SECONDS = 400


def server_python() -> str:
    python = os.environ.get("NNBLIP_SERVER_PYTHON")
    if not python:
        pytest.fail("NNBLIP_SERVER_PYTHON is not set: run scripts/test-remote")
    return python


class Server:
    """`nnblip serve`, started and stopped at will, in an environment with a few more variables."""

    def __init__(self, log: Path, *arguments: str, **variables: str) -> None:
        self.log, self.port = log, free_port()
        self.arguments, self.variables = arguments, variables
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = variables.setdefault("NDIF_API_KEY", str(uuid.uuid4()))
        self.process: subprocess.Popen | None = None
        self.members: list[psutil.Process] = []

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        assert not self.runs, "it runs already"
        client.check.cache_clear()
        began = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [server_python(), "-m", "nnblip", "serve", *self.arguments, "--port", str(self.port)],
                env={**os.environ, **self.variables, "PYTHONPATH": str(ROOT)},
                stdout=log, stderr=subprocess.STDOUT, cwd="/",
                # a job in the background of a shell ignores Ctrl-C, and so would what it starts
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        while "Ready after" not in self.log.read_text():
            assert self.runs, self.log.read_text()
            assert time.monotonic() - began < READY_SECONDS, self.log.read_text()
            time.sleep(0.5)
        self.members = psutil.Process(self.process.pid).children(recursive=True)

    def start_again(self) -> None:
        if self.runs:  # a test that failed has left it
            self.stop()
        self.start()

    def stop(self) -> int:
        """Its exit code; the test fails if it leaves a process behind."""
        self.process.terminate()
        return self.ended()

    def ended(self) -> int:
        """Its exit code once it has ended by itself; the test fails if it leaves a process behind."""
        code = self.process.wait(300)
        assert not self.processes(), "something still runs"
        return code

    def processes(self, named: str = "") -> list[int]:
        """Those that this server consists of, with a text in the command line."""
        found = set(processes(self.port, named))
        for one in self.members:  # Redis writes over its environment
            with contextlib.suppress(psutil.Error):
                if one.is_running() and one.status() != psutil.STATUS_ZOMBIE and named in " ".join(one.cmdline()):
                    found.add(one.pid)
        return sorted(found)

    def kill(self, part: str | int) -> None:
        victims = [part] if isinstance(part, int) else self.processes(part)
        assert victims, f"no {part} among the server's processes"
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):  # it was the child of another one
                os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def unwatched(self):
        """As long as this lasts, `nnblip serve` does not see what ends: servers elsewhere are not watched by it."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def killed_when(self, begun: Path, part: str | int, goes_on: bool = False):
        """Kill a part as soon as a file is there: what runs on the server makes it, and may go on after that."""
        left = threading.Event()

        def watch() -> None:
            while not begun.exists() and not left.is_set():
                time.sleep(0.05)
            if not left.is_set():
                self.kill(part)
            if goes_on:
                over(begun).touch()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            left.set()
            thread.join()


def processes(port: int, named: str = "") -> list[int]:
    """Those that have the port of a server's API in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"NDIF_API_PORT={port}\0".encode() in (folder / "environ").read_bytes() + b"\0"
            # Ray's workers write their names over their environment
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mine and named in command:
            found.append(int(folder.name))
    return found


def nowhere(text: str, *folders: Path) -> None:
    """No file in the folders has this text. (In results, whose chunks are compressed, see `helpers.trees.said`.)"""
    for folder in folders:
        for path in filter(Path.is_file, folder.rglob("*")):
            assert text.encode() not in path.read_bytes(), path


@contextlib.contextmanager
def running(server: Server):
    """A server, and that it is where requests go."""
    server.start()
    before, key = (CONFIG.API.HOST, CONFIG.API.APIKEY), os.environ.get("NDIF_API_KEY")
    CONFIG.API.HOST, CONFIG.API.APIKEY = server.url, server.key
    os.environ["NDIF_API_KEY"] = server.key  # of the commands that tests start
    try:
        yield server
    finally:
        CONFIG.API.HOST, CONFIG.API.APIKEY = before
        os.environ.pop("NDIF_API_KEY")
        if key is not None:
            os.environ["NDIF_API_KEY"] = key
        client.check.cache_clear()
        if server.runs:
            server.stop()
