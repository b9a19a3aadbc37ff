"""`nnblip serve`: loopback only, a busy port is refused, nothing is left behind by any end of it."""

import signal
import subprocess
import threading
import time

import psutil
import pytest
from helpers.servers import ROOT, server_python
from helpers.slow import Slow

import nnblip
from nnblip.errors import RemoteError


def test_loopback_only(server):
    if not server.runs:
        server.start()
    mine = set(server.processes())
    assert mine
    listening = {c.laddr.ip for c in psutil.net_connections("inet") if c.pid in mine and c.status == "LISTEN"}
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening


def test_a_busy_port(server):
    second = subprocess.run(
        [server_python(), "-m", "nnblip", "serve", "--port", str(server.port)], cwd="/", timeout=300,
        env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.returncode == 2 and f"port {server.port} cannot be used" in second.stderr


def test_killed_itself(server, far, tmp_path):
    begun = tmp_path / "begun"
    with (
        server.killed_when(begun, server.process.pid),
        pytest.raises(RemoteError, match=r"(gone|lost) .*`nnblip serve`"),
    ):
        nnblip.causal_trace(far, nnblip.demo.examples()[:1], noise=Slow(begun), draws=1, timeout=300)
    assert server.process.wait(300) == -signal.SIGKILL
    deadline = time.monotonic() + 300
    while left := server.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_ctrl_c_during_the_start(server):
    def stop() -> None:
        while not server.runs or "starting ray" not in server.log.read_text():
            time.sleep(0.05)
        server.process.send_signal(signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(AssertionError):
        server.start()
    thread.join()
    assert server.process.wait(300) == 0 and "Stopped." in server.log.read_text()
    assert not server.processes()
