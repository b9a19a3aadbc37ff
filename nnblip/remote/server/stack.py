"""The processes of an NDIF server on loopback: started in order, watched, and all of them ended.

Redis (the queue), an S3 store (large results and deferred jobs), Ray with NDIF's
controller and model actors, the dispatcher and the API. Every process is started by this
one, which adopts what they leave behind, so that stopping can find it; and should this one
be killed, they are told to end.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnblip.errors import RemoteError

NDIF = "0.1.2"
PORT = 8001
#: How long a start may take: on two cores, the imports of torch in Ray's processes take half a minute.
START_SECONDS = 300.0
PARTS = Path(__file__).parent / "parts"
_PDEATHSIG, _CHILD_SUBREAPER = 1, 36


class Stack:
    """An NDIF server.

    Args:
        keys: model keys to deploy at once (others are deployed when they are asked for).
        port: of the API; all others are free ones.
        dtype: in which weights are held.
        say: told about each step.

    Attributes:
        url: what clients put into NDIF_HOST.
        key: what they put into NDIF_API_KEY: that of this process, else a new one. None where NDIF looks keys up.
        processes: by name.

    Raises:
        RemoteError: if something it needs is not installed, the port is taken, or it does not get ready.
    """

    def __init__(
        self, keys: Sequence[str] = (), port: int = PORT, dtype: str = "float32",
        say: Callable[[str], object] = lambda text: None,
    ) -> None:  # fmt: skip
        self.keys, self.port, self.dtype, self.say = list(keys), port, dtype, say
        self.url = f"http://127.0.0.1:{port}"
        looked_up = os.environ.get("NDIF_POSTGRES_URL")
        self.key = None if looked_up else os.environ.get("NDIF_API_KEY") or str(uuid.uuid4())
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.home, self.log = Path(), Path()
        self._before: set[int] = set()
        self.stopped = (
            False  # whoever starts it may be told to stop where Python ignores what a signal's handler raises
        )

    # --- starting -----------------------------------------------------------------

    def start(self) -> None:
        """Start everything and wait until it serves; whatever was started is ended if that fails."""
        check_installed()
        check_free(self.port)
        _adopt_orphans()
        self._before = set(_descendants())
        # short: Ray puts Unix sockets below it, whose paths have at most 107 characters
        self.home = Path(tempfile.mkdtemp(prefix="nnblip-"))
        self.log = self.home / "log"
        self.log.mkdir()
        try:
            self._start_stores()
            self._start_ray()
            self._start_api()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def _start_stores(self) -> None:
        self.redis_port, self.store_port = free_port(), free_port()
        secret = secrets.token_hex(16)
        # that of this environment too, which need not be the active one
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        real = shutil.which("redis-server", path=path)
        gpu = _has_gpu()
        self.ports = {name: free_port() for name in ("gcs", "client", "dashboard")}
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("NDIF_", "RAY_"))},
            "PATH": path,
            "PYTHONPATH": str(PARTS),
            "NDIF_REDIS_URL": f"redis://{f':{secret}@' if real else ''}127.0.0.1:{self.redis_port}",
            "NDIF_OBJECT_STORE_URL": f"http://127.0.0.1:{self.store_port}",
            "NDIF_OBJECT_STORE_ACCESS_KEY": "nnblip",
            "NDIF_OBJECT_STORE_SECRET_KEY": secret,
            "NDIF_RAY_ADDRESS": f"ray://127.0.0.1:{self.ports['client']}",
            "NDIF_API_PORT": str(self.port),
            "NDIF_DEPLOYMENTS": "|".join(self.keys),
            # else bfloat16: other numbers than those of a local run
            "NDIF_DEFAULT_DTYPE": self.dtype,
            "NDIF_CONTROLLER_IMPORT_PATH": "nnblip_ndif.Controller",
            "NDIF_STATUS_TTL_S": "2",
            # who asks while the dispatcher starts is not heard, and others wait for that one
            "NDIF_STATUS_TIMEOUT_S": "5",
            # Ray would give one thread to the actor of a model, which reserves no CPU
            "OMP_NUM_THREADS": str(_threads()),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # else a token in the user's home switches it on for Ray's head, and nobody tells the others
            "RAY_AUTH_MODE": "disabled",
            # whatever its name says: without it Ray turns 127.0.0.1 into an address that others can reach
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # with it Ray's client proxy fails to fork its servers now and then
            "GRPC_ENABLE_FORK_SUPPORT": "0",
        }
        if not gpu:
            self.env["NDIF_DEFAULT_MODEL_ACTOR_CLASS"] = "nnblip_ndif.ModelActor"
        if real:  # the password stands in a file, as other users see command lines
            settings = self.home / "redis.conf"
            settings.write_text(
                f'port {self.redis_port}\nbind 127.0.0.1\nsave ""\ndaemonize no\nrequirepass {secret}\n'
            )
            command = [real, str(settings)]
        else:
            self.say("no redis-server is installed: fakeredis stands in for it, and requests above 4 MiB may fail")
            command = [sys.executable, "-c", _FAKE_REDIS, str(self.redis_port)]
        self._spawn("redis", command)
        self._spawn("object store", ["moto_server", "-H", "127.0.0.1", "-p", str(self.store_port)])
        for name, port in (("redis", self.redis_port), ("object store", self.store_port)):
            self._until(partial(listens, port), name, 60)

    def _start_ray(self) -> None:
        gpus = _gpus()
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        resources = {"head": 10, "cuda_memory_bytes": sum(gpus) or memory, "cpu_memory_bytes": memory}
        command = [
            "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={self.ports['gcs']}",
            f"--ray-client-server-port={self.ports['client']}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.ports['dashboard']}", "--include-dashboard=true",
            f"--resources={json.dumps(resources)}", f"--temp-dir={self.home / 'ray'}",
            f"--object-store-memory={256 * 2**20}", "--disable-usage-stats",
            # NDIF places models only on nodes that report a GPU
            f"--num-gpus={len(gpus) or 1}",
        ]  # fmt: skip
        self._spawn("ray", command)
        self._until(lambda: listens(self.ports["client"]), "ray", START_SECONDS)
        launcher = [sys.executable, "-m", "ndif.services.ray.deployments.controller.controller"]
        self.env["RAY_ADDRESS"] = f"127.0.0.1:{self.ports['gcs']}"
        controller = self._spawn("controller", launcher)
        del self.env["RAY_ADDRESS"]
        self._until(lambda: controller.poll() is not None, "controller", START_SECONDS)
        del self.processes["controller"]  # it only launches the actor
        if controller.returncode:
            raise RemoteError(
                f"the controller did not start; its log is {self.log / 'controller'}{self._tail('controller')}"
            )

    def _start_api(self) -> None:
        # NDIF's settings of gunicorn would start it as a child of gunicorn, which does not notice when it dies
        self._spawn("dispatcher", [sys.executable, "-m", "ndif.services.api.queue.dispatcher"])
        if url := os.environ.get("NDIF_POSTGRES_URL"):  # where API keys are looked up; no one else needs to know
            self.env["NDIF_POSTGRES_URL"] = url
        if self.key is not None:
            self.env["NNBLIP_SERVE_KEY"] = self.key
        self._spawn("api", ["gunicorn", "--config", "python:nnblip_gunicorn", "nnblip_api:app"])

    def wait_ready(self, timeout: float = START_SECONDS) -> None:
        """Until the API is connected to Ray and each model given at the start runs. Raises `RemoteError`."""
        self._until(self._connected, "api", timeout)
        self._until(lambda: set(self.keys) <= self.running(), "model", timeout)

    def _connected(self) -> bool:
        return get_json(f"{self.url}/connected") is not None

    def running(self) -> set[str]:
        """Keys of the models that are deployed and run."""
        status = get_json(f"{self.url}/status", timeout=10) or {}
        found = set()
        for known in status.get("deployments", {}).values():
            if known.get("application_state") == "RUNNING":
                found.add(known.get("model_key", ""))
        return found

    def _spawn(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        self.say(f"starting {name}")
        executable = shutil.which(command[0], path=self.env["PATH"])
        if executable is None:
            raise RemoteError(f"{command[0]} is not installed: pip install 'nnblip[serve]'")
        with (self.log / name.replace(" ", "_")).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [executable, *command[1:]], env=self.env, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_parent,
            )  # fmt: skip
        return self.processes[name]

    def _until(self, ready: Callable[[], bool], name: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            if self.stopped:
                raise KeyboardInterrupt
            for known, process in self.processes.items():
                if process.poll() is not None and known != "controller":
                    raise RemoteError(f"{known} ended with code {process.returncode} at the start{self._tail(known)}")
            if time.monotonic() > deadline:
                raise RemoteError(f"{name} was not ready after {timeout:.0f} s{self._tail(name)}")
            time.sleep(0.2)

    def _tail(self, name: str) -> str:
        with contextlib.suppress(OSError):
            lines = (self.log / name.replace(" ", "_")).read_text(errors="replace").splitlines()
            return ":\n" + "\n".join(lines[-15:])
        return ""

    # --- stopping -----------------------------------------------------------------

    def dead(self) -> str | None:
        """The name of a process that has ended by itself, if one has."""
        return next((name for name, process in self.processes.items() if process.poll() is not None), None)

    def stop(self, grace: float = 10.0) -> None:
        """End everything that was started, whatever has become of it. Does nothing the second time."""
        if self.home == Path():
            return
        for process in reversed(self.processes.values()):
            _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.1)
            _reap()
        # Ray's workers and the API's dispatcher are sessions of their own, or ignore SIGTERM
        for _ in range(50):
            if not (left := self.left()):
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
            _reap()
        for process in self.processes.values():
            process.poll()
        shutil.rmtree(self.home, ignore_errors=True)
        self.home = Path()

    def left(self) -> list[int]:
        """Processes that were started by this server and live."""
        return [pid for pid in _descendants() if pid not in self._before] if self.home != Path() else []

    def memory(self) -> int:
        """Bytes of memory that all processes hold together, shared pages counted once (PSS)."""
        total = 0
        for pid in self.left():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
        return total


_FAKE_REDIS = """
import sys
from fakeredis import TcpFakeServer
server = TcpFakeServer(("127.0.0.1", int(sys.argv[1])), server_type="redis")
server.daemon_threads = True
server.serve_forever()
"""


def check_installed() -> None:
    """Raise `RemoteError` if this Python has no NDIF, or another version than the one that is mended here."""
    remedy = "expected Python 3.12 or newer with pip install 'nnblip[serve]'"
    if sys.version_info < (3, 12):
        raise RemoteError(f"NDIF does not run on Python {sys.version_info.major}.{sys.version_info.minor}: {remedy}")
    try:
        found = importlib.metadata.version("ndif")
    except importlib.metadata.PackageNotFoundError:
        raise RemoteError(f"NDIF is not installed: {remedy}") from None
    if found != NDIF:
        raise RemoteError(f"ndif {found} is installed, nnblip serves with {NDIF}: {remedy}")
    for module in ("ray", "gunicorn", "moto", "fastapi", "asyncpg"):
        if importlib.util.find_spec(module) is None:
            raise RemoteError(f"{module} is not installed: {remedy}")


def check_free(port: int) -> None:
    """Raise `RemoteError` if something listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise RemoteError(
                f"port {port} cannot be used ({error.strerror}): another server runs there; stop it, or give --port"
            ) from None


def free_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether something accepts connections on a port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def get_json(url: str, timeout: float = 5.0) -> Any:
    """What a GET gives, None if it fails."""
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=timeout) as answer:
        return json.load(answer)
    return None


def _gpus() -> list[int]:
    """Memory of each GPU, bytes."""
    import torch

    return [torch.cuda.mem_get_info(index)[1] for index in range(torch.cuda.device_count())]


def _threads() -> int:
    """As many as torch takes here, which OMP_NUM_THREADS of the user's changes."""
    import torch

    return torch.get_num_threads()


def _has_gpu() -> bool:
    return bool(_gpus())


_LIBC = ctypes.CDLL(None)


def _adopt_orphans() -> None:
    """Linux: processes whose parent ends become children of this one, instead of leaving its tree."""
    with contextlib.suppress(AttributeError):
        _LIBC.prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_with_parent() -> None:
    """Linux, in a child: SIGTERM when the process that started it is gone, even by SIGKILL."""
    with contextlib.suppress(AttributeError):
        _LIBC.prctl(_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _descendants() -> list[int]:
    """Living children of this process, their children, and so on."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return [p.pid for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    return []


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _reap() -> None:
    """Adopted processes that have ended."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error, OSError):
                if child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)
