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
        [server_python(), "-m", "nnblip", "serve", "--port", str(server.port)], cwd="/", timeout=60,
        env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.returncode == 2 and f"port {server.port} cannot be used" in second.stderr


def test_killed_itself(server, far, tmp_path):
    begun = tmp_path / "begun"
    with (
        server.killed_when(begun, server.process.pid),
        pytest.raises(RemoteError, match=r"(gone|lost) .*`nnblip serve`"),
    ):
        nnblip.causal_trace(far, nnblip.demo.examples()[:1], noise=Slow(begun, 5), draws=1, timeout=60)
    assert server.process.wait(5) == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while left := server.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_ctrl_c_during_the_start(server):
    timer = threading.Timer(8, lambda: server.process.send_signal(signal.SIGINT))
    timer.start()
    try:
        server.start()
    except AssertionError:
        assert "Stopped." in server.log.read_text()
    assert server.process.wait(30) == 0
    assert not server.processes()
