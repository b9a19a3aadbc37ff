"""`nnblip serve`: loopback only, a busy port is refused, nothing is left behind by any end of it."""

import signal
import socket
import subprocess
import threading
import time

import httpx
import psutil
import pytest
import websocket
from helpers.servers import ROOT, server_python
from helpers.slow import Slow
from nnsight.schema.config import CONFIG
from websocket import WebSocketBadStatusException

import nnblip
from nnblip.errors import RemoteError


def test_loopback_only(server):
    if not server.runs:
        server.start()
    mine = set(server.processes())
    assert mine
    listening = {c.laddr.ip for c in psutil.net_connections("inet") if c.pid in mine and c.status == "LISTEN"}
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening


@pytest.mark.parametrize("given", [{}, {"ndif-api-key": "not this one"}])
def test_without_the_key_nothing_is_done(server, given, tmp_path):
    if not server.runs:
        server.start()
    for path in ("/whoami", "/response/1", "/docs", "/openapi.json"):
        assert httpx.get(server.url + path, headers=given).status_code == 401, path
    assert httpx.post(server.url + "/request", headers=given, data={"data": "{}"}).status_code == 401
    with pytest.raises(WebSocketBadStatusException, match="403"):
        websocket.create_connection(server.url.replace("http", "ws") + "/subscribe", header=given)
    assert httpx.get(server.url + "/status", headers=given).status_code == 200  # how it is, everyone may know
    with_it = {"ndif-api-key": server.key}
    assert httpx.get(server.url + "/whoami", headers=with_it).status_code == 200
    assert httpx.post(server.url + "/request", headers=with_it, data={"data": "{}"}).status_code == 422
    websocket.create_connection(server.url.replace("http", "ws") + "/subscribe", header=with_it).close()


def test_a_client_without_the_key(server, far, monkeypatch):
    monkeypatch.setattr(CONFIG.API, "APIKEY", "not this one")
    with pytest.raises(RemoteError, match=r"refuses the credentials .*403 Forbidden\); set NDIF_API_KEY"):
        nnblip.causal_trace(far, nnblip.demo.examples()[:1], draws=1, timeout=300)


def test_the_key_is_on_no_command_line_and_redis_has_a_password(server):
    lines = [psutil.Process(pid).cmdline() for pid in server.processes()]
    assert server.key not in str(lines)
    for pid in server.processes("redis-server"):
        (port,) = {c.laddr.port for c in psutil.net_connections("inet") if c.pid == pid and c.status == "LISTEN"}
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100).startswith(b"-NOAUTH")


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
        pytest.fail(f"it was not stopped: {server.log.read_text()}")
    thread.join()
    assert server.process.wait(300) == 0 and "Stopped." in server.log.read_text()
    assert not server.processes()
