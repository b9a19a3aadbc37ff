"""`nnblip serve`: loopback only, a busy port is refused, nothing is left behind."""

import os
import signal
import subprocess
from pathlib import Path

import psutil


def test_loopback_only_and_nothing_left(server):
    if server.process.poll() is not None:
        server.start()
    mine = set(server.processes())
    assert mine
    listening = {c.laddr.ip for c in psutil.net_connections("inet") if c.pid in mine and c.status == "LISTEN"}
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening
    python = os.environ["NNBLIP_SERVER_PYTHON"]
    second = subprocess.run(
        [python, "-m", "nnblip", "serve", "--port", str(server.port)], cwd="/", timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.returncode == 2 and f"port {server.port} cannot be used" in second.stderr
    assert server.stop() == 0


def test_ctrl_c_during_the_start(server):
    import threading

    timer = threading.Timer(8, lambda: server.process.send_signal(signal.SIGINT))
    timer.start()
    try:
        server.start()
    except AssertionError:
        assert "Stopped." in server.log.read_text()
    assert server.process.wait(30) == 0
    assert not server.processes()
